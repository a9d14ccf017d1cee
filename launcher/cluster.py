"""The cluster a grid names: this machine, or a SLURM site described by a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.config import Grid, check_resources, checked_section, load_checked, require_texts
from study.errors import UserError
from study.job import KINDS
from study.specs import Resources


@dataclass(frozen=True)
class ClusterProfile:
    """A site: how its SLURM is asked. This machine has none: a grid says `cluster: local`."""

    executor: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    array_parallelism: int = 64
    max_array_size: int = 1000
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
    """Where jobs run: `profile` is None on this machine."""

    profile: ClusterProfile | None
    resources: Mapping[str, Resources]


def load_site(grid: Grid) -> Site:
    """The cluster a grid names and the resources of each kind of job there.

    Raises UserError for a profile that does not exist or is wrong.
    """
    profile: ClusterProfile | None = None
    if grid.config.cluster != "local":
        root = Path(__file__).resolve().parent.parent
        found = grid.find(grid.config.cluster) or grid.find(str(root / grid.config.cluster))
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
    return Site(profile, resources)


def load_profile(path: Path) -> ClusterProfile:
    """Read a cluster profile; raises UserError like `load_grid`."""
    profile: ClusterProfile = load_checked(ClusterProfile, path)
    if profile.executor != "slurm":
        raise UserError(
            f"'{profile.executor}' is unknown", where=f"{path.name}: executor", remedy="write slurm"
        )
    for key in ("array_parallelism", "max_array_size"):
        if getattr(profile, key) < 1:
            raise UserError("out of range", where=f"{path.name}: {key}", remedy="give 1 or more")
    check_resources(profile.resources, path.name)
    return profile


def resources_for(kind: str, *layers: dict[str, Any]) -> Resources:
    """Resources of one kind of job: defaults < profile < grid."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer.get(kind) or {})
    resources: Resources = checked_section(Resources, merged, f"resources.{kind}")
    return resources
