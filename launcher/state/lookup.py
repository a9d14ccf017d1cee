"""Find a study by its folder or grid file, and a job by the first characters of its id: for all commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from study.errors import UserError
from study.grid.config import load_grid
from study.jobs.job import Job
from study.jobs.plan import Plan, read_plan
from study.paths import StudyPaths


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY", help="a study's folder, or its grid file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def study_paths(name: Path) -> StudyPaths:
    """Where a study is; raises UserError when there is neither such a folder nor such a grid file."""
    if not name.exists():
        raise UserError("no such study", where=str(name), remedy="give <outputs>/<study> or a grid file")
    return StudyPaths(name.resolve() if name.is_dir() else load_grid(name).study_dir)


def open_study(name: Path) -> tuple[Plan, StudyPaths]:
    """A study's plan and folder; raises UserError when there is none."""
    paths = study_paths(name)
    return read_plan(paths), paths


def find_job(plan: Plan, prefix: str) -> Job:
    """Raises UserError when no job's id begins with `prefix`, or several do."""
    matches = [job for job in plan.jobs if job.job_id.startswith(prefix)]
    if len(matches) != 1:
        count = f"{len(matches)} job ids" if matches else "no job id"
        raise UserError(f"matches {count}", where=prefix, remedy="see calsweep status --json")
    return matches[0]


def find_jobs(plan: Plan, prefixes: Sequence[str]) -> list[str]:
    return [find_job(plan, prefix).job_id for prefix in prefixes]
