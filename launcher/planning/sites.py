"""The cluster a grid names: this machine, or a SLURM site described by a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from study.grid.yaml_files import telling_lines
from study.jobs.job import KINDS
from study.jobs.resources import Resources
from study.paths import ROOT

LEAST = {
    "array_parallelism": 1,
    "max_array_size": 1,
    "max_submitted": 2,  # a task, and the job that goes on behind it
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
    **dict.fromkeys(("cluster", "clusters"), "run this on a login node of that cluster"),
    **dict.fromkeys(
        (
            "job-name", "output", "error", "open-mode", "comment", "dependency", "kill-on-invalid-dep",
            "begin", "requeue", "no-requeue", "parsable", "quiet", "test-only", "wait", "wrap",
        ),
        "remove it",
    ),
}  # fmt: skip
"""Options of sbatch that the launcher gives or that change what sbatch answers, and what to do instead."""


@dataclass(frozen=True)
class ClusterProfile:
    """A site: how its SLURM is asked. This machine has none: a grid says `cluster: local`.

    gpu_type: which GPUs are asked for, e.g. a100, where a site has several; None for any.
    array_parallelism: tasks of one array that run at a time. max_array_size: tasks in one array, below the
        site's MaxArraySize. max_submitted: jobs that SLURM lets a user have in the queue, running ones and
        each task of an array included (QOS or association limit); None for no limit.
    max_mem_gib: what a job killed for memory may be given at most. warn_before_s: seconds before its time
        limit at which a job is told to save and requeue. query_interval_s: SLURM is asked by `status` and
        `watch` at most once in so many seconds.
    python: the command that starts Python in a job, e.g. inside a container; None for the launcher's own.
    sbatch: further sbatch options, none of OWN_SBATCH. setup: shell lines before the job. env: variables,
        taken literally.
    gpu_tflops: what one GPU does in practice, for forecasts, in 10^12 floating point operations a second.
    resources: defaults of this site for each kind of job.
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
class Site:
    """Where and how a study's jobs run; nothing of it is part of their identity.

    profile: None on this machine. resources: of each kind of job.
    """

    profile: ClusterProfile | None
    resources: Mapping[str, Resources]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    languages_per_task: int = 1


def load_site(grid: Grid) -> Site:
    """The cluster a grid names and the resources of each kind of job there.

    Raises UserError for a profile that does not exist or is wrong.
    """
    profile: ClusterProfile | None = None
    if grid.config.cluster != "local":
        found = grid.find(grid.config.cluster) or grid.find(str(ROOT / grid.config.cluster))
        if found is None or not found.is_file():
            raise UserError(
                f"no such profile ('{grid.config.cluster}')",
                where=f"{grid.path.name}: cluster",
                remedy="write local, or a path such as slurm/profiles/testbed.yaml",
            )
        profile = load_profile(found)
    layers = (profile.resources if profile else {}, grid.config.resources)
    resources: dict[str, Resources] = {kind: resources_for(kind, *layers) for kind in KINDS}
    for kind in ("evaluate", "analyse"):
        if resources[kind].num_tasks != 1:
            raise UserError(
                "runs as one task", where=f"resources.{kind}", remedy="set nodes and tasks_per_node to 1"
            )
    return Site(profile, resources, grid.config.tracking, grid.config.evaluate.languages_per_task)


def write_site(site: Site, path: Path) -> None:
    """Keep it in the study: the job that goes on with it may run where the profile does not lie."""
    write_json(path, dataclasses.asdict(site))


def read_site(path: Path) -> Site:
    """The site of the latest sweep; raises UserError when there was none, or its file is damaged."""
    again = "run calsweep sweep on its grid"
    if not path.is_file():
        raise UserError("was never swept", where=str(path.parent), remedy=again)
    try:
        data = read_json(path)
        profile = data["profile"]
        return Site(
            profile=None if profile is None else ClusterProfile(**profile),
            resources={kind: Resources(**values) for kind, values in data["resources"].items()},
            tracking=TrackingConfig(**data["tracking"]),
            languages_per_task=data["languages_per_task"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"is not what a sweep writes ({error!r})", where=str(path), remedy=again) from None


def load_profile(path: Path) -> ClusterProfile:
    """Read a cluster profile; raises UserError like `load_grid`, with the line."""
    with telling_lines(path):
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
            name = key.replace("_", "-")  # submitit takes either
            whole_nodes = name == "mem" and str(value) == "0"
            if (remedy := OWN_SBATCH.get(name)) is not None and not whole_nodes:
                raise UserError("is the launcher's to set", where=f"{path.name}: sbatch.{key}", remedy=remedy)
        check_resources(profile.resources, path.name)
    return profile


def resources_for(kind: str, *layers: dict[str, Any]) -> Resources:
    """Resources of one kind of job: defaults < profile < grid."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer.get(kind) or {})
    resources: Resources = checked_section(Resources, merged, f"resources.{kind}")
    return resources
