"""Commands on a study that exists: status, watch, logs, explain, cancel, retry, gc, sync; and prefetch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from launcher.cluster import ledger
from launcher.commands.explain import explain as explain_job
from launcher.commands.explain import explanation_json, print_explanation, worst
from launcher.job.causes import tail
from launcher.state.logs import logs_of, other_ranks
from launcher.state.matrix import print_status
from launcher.state.status import status_json, survey
from study.errors import UserError
from study.grid.config import load_grid
from study.grid.yaml_files import telling_lines
from study.jobs.job import Job
from study.jobs.plan import Plan, read_plan
from study.paths import StudyPaths
from study.terminal import make_console, print_json, shown

TAIL_LINES = 30


def open_study(name: Path) -> tuple[Plan, StudyPaths]:
    """A study by its folder or by its grid file; raises UserError when there is none."""
    paths = study_paths(name)
    return read_plan(paths), paths


def study_paths(name: Path) -> StudyPaths:
    """Where a study lies, by its folder or by its grid file; raises UserError when there is neither."""
    if not name.exists():
        raise UserError("no such study", where=str(name), remedy="give <outputs>/<study> or a grid file")
    return StudyPaths(name.resolve() if name.is_dir() else load_grid(name).study_dir)


def find_job(plan: Plan, prefix: str) -> Job:
    """A job by the first characters of its id; raises UserError when they name none, or several."""
    matches = [job for job in plan.jobs if job.job_id.startswith(prefix)]
    if len(matches) != 1:
        problem = "no job" if not matches else f"{len(matches)} jobs"
        raise UserError(f"{problem} with that id", where=prefix, remedy="see calsweep status --json")
    return matches[0]


def find_jobs(plan: Plan, prefixes: Sequence[str]) -> list[str]:
    return [find_job(plan, prefix).job_id for prefix in prefixes]


def status(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    found = survey(plan, paths, fresh=options.fresh, all_attempts=options.json)
    if options.json:
        print_json(status_json(found))
    else:
        print_status(found, str(options.study), make_console())
    return found.exit_code


def watch(options: argparse.Namespace) -> int:
    from launcher.commands.watch import watch as watch_study

    paths = study_paths(options.study)
    return watch_study(paths, str(options.study), make_console(), as_json=options.json, fresh=options.fresh)


def logs(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    job = find_job(plan, options.job)
    files, others = logs_of(job, paths), other_ranks(job, paths)
    if not files:
        raise UserError("has no logs yet", where=job.job_id, remedy="it was not started, see calsweep status")
    if options.json:
        told = [{"path": str(file), "tail": tail(file, TAIL_LINES)} for file in files]
        print_json({"job_id": job.job_id, "logs": told, "other_ranks": [str(file) for file in others]})
        return 0
    if options.follow:
        newest = files[-1].stem
        follow = [str(file) for file in files if file.stem == newest]
        sys.stdout.flush()
        os.execvp("tail", ["tail", "-n", str(TAIL_LINES), "-F", *follow])
    for file in files:
        print(f"==> {file}")
        print(tail(file, TAIL_LINES), end="")
    for file in others:
        print(f"also {file}")
    return 0


def explain(options: argparse.Namespace) -> int:
    """Explain a job, and what blocks it; without one, each distinct failure once."""
    plan, paths = open_study(options.study)
    study, console = str(options.study), make_console()
    job = find_job(plan, options.job) if options.job is not None else None
    found = survey(plan, paths, fresh=options.fresh)
    if job is not None:
        (entry,) = [status for status in found.statuses if status.job.job_id == job.job_id]
        told = [(explain_job(entry, found, paths, study), 1)]
        told += [(explain_job(need, found, paths, study), 1) for need in told[0][0].blocked_by[-1:]]
    else:
        told = [(explain_job(entry, found, paths, study), count) for entry, count in worst(found)]
    if options.json:
        data = [{**explanation_json(entry), "num_struck": count} for entry, count in told]
        print_json(data if job is None else {**data[0], "root": data[-1] if len(data) > 1 else None})
        return 0
    if found.look.trouble is not None:
        console.print(f"{found.look.trouble}; what follows may be out of date", style="yellow")
    if not told:
        console.print("nothing failed", highlight=False)
    for index, (explanation, count) in enumerate(told):
        if index:
            console.print()
        print_explanation(explanation, console, num_struck=count)
    return 0


def retry(options: argparse.Namespace) -> int:
    from launcher.commands.retry import retry as retry_jobs

    plan, paths = open_study(options.study)
    named = find_jobs(plan, options.jobs)
    return retry_jobs(plan, paths, named, options, make_console(stderr=options.json))


def cancel(options: argparse.Namespace) -> int:
    from launcher.commands.cancel import cancel as cancel_jobs

    plan, paths = open_study(options.study)
    tasks, left = cancel_jobs(plan, paths, find_jobs(plan, options.jobs))
    paths.queue.unlink(missing_ok=True)  # the next look asks anew
    if options.json:
        print_json({"cancelled": tasks, "left": left})
    elif not tasks:
        print("nothing of this study is in the queue")
    else:
        print(f"cancelled {len(tasks)} tasks; what they have saved stays")
        if left:
            print(f"{len(left)} of them are still ending: squeue --me")
    return 1 if left else 0


def gc(options: argparse.Namespace) -> int:
    """Drop the checkpoints of trainings whose model everybody has who needs it."""
    from launcher.commands.cleaning import collect

    plan, paths = open_study(options.study)
    with nullcontext() if options.dry_run else ledger.held(paths):
        freed = collect(plan, paths, delete=not options.dry_run)
    total = sum(entry.num_bytes for entry in freed)
    if options.json:
        told = [
            {"job_id": entry.job_id, "path": str(entry.path), "bytes": entry.num_bytes} for entry in freed
        ]
        print_json({"freed": told, "bytes": total, "deleted": not options.dry_run})
        return 0
    for entry in freed:
        print(f"{entry.num_bytes / 2**30:10.3f} GiB  {shown(entry.path)}")
    verb = "would be freed" if options.dry_run else "freed"
    print(f"{total / 2**30:.3f} GiB {verb}" if freed else "nothing to drop: what is left is needed")
    return 0


def sync(options: argparse.Namespace) -> int:
    """Upload to W&B what jobs logged without a network."""
    from launcher.commands.sync import print_outcome, sync_json
    from launcher.commands.sync import sync as sync_study

    plan, paths = open_study(options.study)
    outcome = sync_study(plan, paths, make_console(stderr=options.json))
    if options.json:
        print_json(sync_json(outcome))
    else:
        print_outcome(outcome, make_console())
    return outcome.exit_code


def prefetch(options: argparse.Namespace) -> int:
    """Fetch what a grid takes from the hub into the caches that its jobs will read."""
    from launcher.commands.prefetch import prefetch as fetch
    from launcher.planning.plan import build_plan
    from launcher.planning.sites import load_site, read_site

    if options.study.is_dir():  # as it was planned, whatever the hub's branches point to today
        plan, paths = open_study(options.study)
        grid, site = load_grid(paths.grid), read_site(paths.site)
    else:
        with telling_lines(options.study):
            grid = load_grid(options.study)
            plan, site = build_plan(grid), load_site(grid)
    items = fetch(plan, grid, site, make_console())
    print(f"{len(items)} downloads are here" if items else "the grid takes nothing from the hub")
    return 0
