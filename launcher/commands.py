"""Commands on a study that exists: status, logs, cancel."""

from __future__ import annotations

import argparse
from collections import deque
from pathlib import Path

from launcher import slurm
from launcher.plan import Plan, read_plan
from launcher.status import job_statuses, print_status, status_json
from launcher.terminal import make_console, print_json
from study.config import load_grid
from study.errors import UserError
from study.paths import StudyPaths

TAIL_LINES = 30


def open_study(name: Path) -> tuple[Plan, StudyPaths]:
    """A study by its folder or by its grid file; raises UserError when there is none."""
    if not name.exists():
        raise UserError("no such study", where=str(name), remedy="give <outputs>/<study> or a grid file")
    paths = StudyPaths(name.resolve() if name.is_dir() else load_grid(name).study_dir)
    return read_plan(paths), paths


def status(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    statuses = job_statuses(plan, paths)
    if options.json:
        print_json(status_json(plan, statuses))
    else:
        print_status(plan, statuses, make_console())
    return 1 if any(entry.state in ("failed", "blocked") for entry in statuses) else 0


def logs(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    matches = [job for job in plan.jobs if job.job_id.startswith(options.job)]
    if len(matches) != 1:
        problem = "no job" if not matches else f"{len(matches)} jobs"
        raise UserError(f"{problem} with that id", where=options.job, remedy="see calsweep status --json")
    folder = paths.job(matches[0].job_id)
    files = sorted(folder.logs.glob("*")) if folder.logs.is_dir() else []
    if not files:
        raise UserError(
            "has no logs yet", where=matches[0].job_id, remedy="it was not started, see calsweep status"
        )
    for file in files:
        print(f"==> {file}")
        with file.open(encoding="utf-8", errors="replace") as stream:
            print("".join(deque(stream, TAIL_LINES)), end="")
    return 0


def cancel(options: argparse.Namespace) -> int:
    _, paths = open_study(options.study)
    tasks = sorted(set(slurm.queued_tasks(paths).values()))
    slurm.cancel(tasks)
    if options.json:
        print_json({"cancelled": tasks})
    else:
        print(f"cancelled {len(tasks)} tasks" if tasks else "nothing of this study is in the queue")
    return 0
