"""The cluster a grid names: this machine, or a SLURM site described by a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from study.config import ClusterProfile, Grid, load_profile, resources_for
from study.errors import UserError
from study.job import KINDS
from study.specs import Resources


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
    return Site(profile, {kind: resources_for(kind, *layers) for kind in KINDS})
