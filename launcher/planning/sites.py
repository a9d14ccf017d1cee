"""The site that a grid names as `cluster`: this machine, or a SLURM cluster described by a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from study.errors import UserError
from study.files import read_json, write_json
from study.grid.config import (
    Grid,
    TrackingConfig,
    check_resources,
    checked_section,
    load_checked,
    require_texts,
)
from study.grid.yaml_files import errors_with_lines
from study.jobs.job import KINDS
from study.jobs.resources import Resources
from study.paths import ROOT

LEAST = {
    "array_parallelism": 1,
    "max_array_size": 1,
    "max_submitted": 2,  # a task, and the job that continues the study after it
    "max_mem_gib": 0,
    "warn_before_s": 1,
    "query_interval_s": 0,
    "gpu_tflops": 0,
}
OWN_SBATCH = {
    **{key: f"write {key} outside sbatch" for key in ("partition", "account", "qos", "constraint")},
    "array": "use array_parallelism and max_array_size",
    "signal": "use warn_before_s",
    "time": "use resources.<kind>.time_min",
    "nodes": "use resources.<kind>.nodes",
    **dict.fromkeys(("ntasks", "ntasks-per-node"), "use resources.<kind>.tasks_per_node"),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), "use resources.<kind>.cpus_per_task"),
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), "use resources.<kind>.mem_gib, or mem: 0"),
    **dict.fromkeys(
        ("gpus", "gpus-per-node", "gpus-per-task"), "use resources.<kind>.gpus_per_node, and gpu_type"
    ),
    **dict.fromkeys(("cluster", "clusters"), "run calsweep on a login node of that cluster"),
    **dict.fromkeys(
        (
            "job-name", "output", "error", "open-mode", "comment", "dependency", "kill-on-invalid-dep",
            "begin", "requeue", "no-requeue", "parsable", "quiet", "test-only", "wait", "wrap",
        ),
        "remove it",
    ),
}  # fmt: skip
"""Options that the launcher passes to sbatch or that change its output, with what to write instead."""


@dataclass(frozen=True)
class ClusterProfile:
    """How to submit to a SLURM cluster.

    gpu_type: the GPU to request, e.g. a100, on a cluster with several types; None for any.
    array_parallelism: tasks of one array that run at a time. max_array_size: tasks in one array, below the
        cluster's MaxArraySize. max_submitted: the most jobs that a user may have in the queue, including
        running ones and counting each task of an array (QOS or association limit); None for no limit.
    max_mem_gib: the most memory that a job killed for memory is given. warn_before_s: how many seconds before
        its time limit a job is signalled to save and requeue. query_interval_s: `status` and `watch` query
        SLURM at most once in so many seconds.
    python: the command that starts Python in a job, e.g. inside a container; None for the launcher's own.
    sbatch: further sbatch options, none of OWN_SBATCH. setup: shell lines before the job. env: variables,
        taken literally.
    gpu_tflops: what one GPU achieves in practice, for forecasts, in 10^12 floating point operations a second.
    resources: this cluster's defaults for each kind of job.
    """

    executor: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_type: str | None = None
    array_parallelism: int = 64
    max_array_size: int = 1000
    max_submitted: int | None = None
    max_mem_gib: float | None = None
    warn_before_s: int = 120
    query_interval_s: float = 30
    python: str | None = None
    gpu_tflops: float | None = None
    sbatch: dict[str, Any] = field(default_factory=dict)
    srun_args: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_texts(self.srun_args, "srun_args")
        require_texts(self.setup, "setup")


@dataclass(frozen=True)
class LocalSite:
    """This machine, and how a study's jobs run on it; outside their identity. resources: by kind of job."""

    resources: Mapping[str, Resources]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    languages_per_task: int = 1


@dataclass(frozen=True)
class SlurmSite:
    """A SLURM cluster, and how a study's jobs run on it; as `LocalSite`."""

    profile: ClusterProfile
    resources: Mapping[str, Resources]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    languages_per_task: int = 1


Site: TypeAlias = LocalSite | SlurmSite


def load_site(grid: Grid) -> Site:
    """The site that a grid names, with the resources of each kind of job.

    Raises UserError for a profile that does not exist or is wrong.
    """
    profile = None if grid.config.cluster == "local" else load_profile(_find_profile(grid))
    layers = (profile.resources if profile else {}, grid.config.resources)
    resources: dict[str, Resources] = {kind: resources_for(kind, *layers) for kind in KINDS}
    for kind in ("evaluate", "analyse"):
        if resources[kind].num_tasks != 1:
            raise UserError(
                "runs as one task", where=f"resources.{kind}", remedy="set nodes and tasks_per_node to 1"
            )
    return _site(profile, resources, grid.config.tracking, grid.config.evaluate.languages_per_task)


def _find_profile(grid: Grid) -> Path:
    path = grid.find(grid.config.cluster) or grid.find(str(ROOT / grid.config.cluster))
    if path is None or not path.is_file():
        raise UserError(
            f"no such profile ('{grid.config.cluster}')",
            where=f"{grid.path.name}: cluster",
            remedy="write local, or a path such as slurm/profiles/testbed.yaml",
        )
    return path


def _site(profile: ClusterProfile | None, *rest: Any) -> Site:
    return LocalSite(*rest) if profile is None else SlurmSite(profile, *rest)


def write_site(site: Site, path: Path) -> None:
    """Keep the site in the study's folder: jobs that continue the study may be unable to read the profile."""
    write_json(path, {"profile": None, **dataclasses.asdict(site)})


def read_site(path: Path) -> Site:
    """The site of the latest sweep; raises UserError if there was none, or its file is damaged."""
    remedy = "run calsweep sweep on its grid"
    if not path.is_file():
        raise UserError("was never swept", where=str(path.parent), remedy=remedy)
    try:
        data = read_json(path)
        return _site(
            None if data["profile"] is None else ClusterProfile(**data["profile"]),
            {kind: Resources(**values) for kind, values in data["resources"].items()},
            TrackingConfig(**data["tracking"]),
            data["languages_per_task"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"is not a site file ({error!r})", where=str(path), remedy=remedy) from None


def load_profile(path: Path) -> ClusterProfile:
    """Read a cluster profile; raises UserError as `load_grid` does, with the line."""
    with errors_with_lines(path):
        profile: ClusterProfile = load_checked(ClusterProfile, path)
        if profile.executor != "slurm":
            raise UserError(
                f"'{profile.executor}' is unknown", where=f"{path.name}: executor", remedy="write slurm"
            )
        for key, least in LEAST.items():
            value = getattr(profile, key)
            if value is not None and not value >= least:
                raise UserError("out of range", where=f"{path.name}: {key}", remedy=f"give {least} or more")
        for key, value in profile.sbatch.items():
            name = key.replace("_", "-")  # submitit accepts either
            all_memory = name == "mem" and str(value) == "0"
            if (remedy := OWN_SBATCH.get(name)) is not None and not all_memory:
                raise UserError(
                    "is set by calsweep itself", where=f"{path.name}: sbatch.{key}", remedy=remedy
                )
        check_resources(profile.resources, path.name)
    return profile


def resources_for(kind: str, *layers: dict[str, Any]) -> Resources:
    """Resources of one kind of job: defaults < profile < grid."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer.get(kind) or {})
    resources: Resources = checked_section(Resources, merged, f"resources.{kind}")
    return resources
