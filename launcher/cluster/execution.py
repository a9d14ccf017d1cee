"""How a job is run now: what the grid asks for, and what its earlier failures taught."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from launcher.cluster.diagnosis import diagnose
from launcher.job import attempts, causes
from launcher.job.causes import Execution
from launcher.planning.sites import Site
from study.files import read_json, write_json
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.paths import JobPaths


def read_execution(folder: JobPaths) -> Execution | None:
    """How the latest attempt was told to run; None before the first submission."""
    if not folder.execution.is_file():
        return None
    data = read_json(folder.execution)
    return Execution(Resources(**data["resources"]), data["remedied"], tuple(data["changes"]))


def write_execution(folder: JobPaths, execution: Execution, site: Site) -> None:
    """Tell the next attempt how to run."""
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
    """How an unfinished job is run now; a sentence when it is not to be.

    states: SLURM's word for tasks that ended. automatic: nobody asked, so that a job which failed is run
    again only where that can help. cancelled: its task was taken out of the queue before it began.
    """
    asked = site.resources[job.kind]
    before = read_execution(folder) or Execution(asked)
    found = diagnose(folder, states)
    if found.cause is None:
        if automatic and cancelled:
            return "it was cancelled"
        return Execution(causes.with_remedies(asked, before.remedied), before.remedied, before.changes)
    limit = site.profile.max_mem_gib if site.profile is not None else None
    again = causes.remedy(found.cause, job.kind, before, asked, limit)
    if again is None:
        return f"{found.cause}, and there is no more to give; change resources.{job.kind} in the grid"
    left = causes.tries_left(found.cause, found.attempts, attempts.progress_of(folder))
    if automatic and left <= 0:
        return found.message or found.cause
    return again
