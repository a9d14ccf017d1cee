"""How a job runs now: what the grid requests, with the remedies for its earlier failures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from launcher.cluster.endings import ending_of
from launcher.job import attempts, causes
from launcher.job.causes import Execution
from launcher.planning.sites import Site, SlurmSite
from study.files import read_json, write_json
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.paths import JobPaths


def read_execution(folder: JobPaths) -> Execution | None:
    """How the latest attempt runs or ran; None before the first submission."""
    if not folder.execution.is_file():
        return None
    data = read_json(folder.execution)
    return Execution(Resources(**data["resources"]), data["remedied"], tuple(data["changes"]))


def write_execution(folder: JobPaths, execution: Execution, site: Site) -> None:
    """Fix how the next attempt runs."""
    write_json(
        folder.execution,
        {**dataclasses.asdict(execution), "tracking": dataclasses.asdict(site.tracking)},
    )


def decide(
    job: Job,
    folder: JobPaths,
    site: Site,
    states: Mapping[str, str],
    *,
    automatic: bool,
    cancelled: bool = False,
) -> Execution | str:
    """How an unfinished job is to run now, or a sentence that says why it is not started again.

    states: SLURM's states of ended tasks. automatic: no user asked for it, so a failed job is started again
    only if that can help. cancelled: its task was removed from the queue before it began.
    """
    requested = site.resources[job.kind]
    before = read_execution(folder) or Execution(requested)
    ending = ending_of(folder, states)
    if ending.cause is None:
        if automatic and cancelled:
            return "it was cancelled"
        resources = causes.with_remedies(requested, before.remedied)
        return Execution(resources, before.remedied, before.changes)
    limit = site.profile.max_mem_gib if isinstance(site, SlurmSite) else None
    remedied = causes.remedy(ending.cause, job.kind, before, requested, limit)
    if remedied is None:
        return f"{ending.cause}, and no automatic remedy is left; change resources.{job.kind} in the grid"
    left = causes.tries_left(ending.cause, ending.attempts, attempts.progress_of(folder))
    if automatic and left <= 0:
        return ending.message or ending.cause
    return remedied
