"""`calsweep retry`: run failed cells again, after whatever was wrong is mended."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from launcher.cluster import ledger
from launcher.cluster.advance import with_arrays
from launcher.commands.sweep import find_step, run_here, submit
from launcher.planning.sites import read_site
from launcher.planning.tasks import missing_tasks
from launcher.state.status import ACTIVE, JobStatus, Survey, survey
from study.errors import UserError
from study.jobs.job import KINDS
from study.jobs.plan import Plan
from study.paths import StudyPaths
from study.terminal import print_json

AGAIN = ("failed", "blocked", "stale")
ENDING_TRIES, ENDING_POLL_S = 20, 2.0
"""A task that has failed is in the queue for a moment more."""


def retry(
    plan: Plan, paths: StudyPaths, named: Sequence[str], options: argparse.Namespace, console: Console
) -> int:
    """Run what failed again, what it blocks and what vanished, or the named jobs; returns the exit code.

    The jobs run from the code as it is now: the mend may be in it. On this machine they run in the
    foreground. Raises UserError when another launcher is at work.
    """
    site = read_site(paths.site)
    with ledger.held(paths) as lock:
        found = survey(plan, paths, fresh=True)
        if site.profile is not None:
            if found.look.trouble is not None:
                # not knowing is not an empty queue: this asks again, patiently, and says what is wrong
                find_step(plan, paths, site, lock, chosen=())
            found = _settled(found, paths)
        chosen = choose(found, named)
        _print_choice(found, chosen, named, console)
        if not chosen:
            if options.json:
                print_json({"study": paths.root.name, "folder": str(paths.root), "submitted": {}})
            return 0
        analyses = {job.job_id for job in plan.of_kind("analyse")}
        if site.profile is None:
            # its tables are about to be out of date, or are: complete, it would not run
            for job_id in analyses:
                paths.job(job_id).done.unlink(missing_ok=True)
            busy = {job.job_id for job in plan.jobs} - chosen - analyses
            tasks = missing_tasks(plan, paths, site.languages_per_task, busy)
            return run_here(plan, tasks, paths, site, options, console)
        step = find_step(plan, paths, site, lock, chosen=chosen)
        if not step.batches and not step.deferred and not analyses & chosen:
            step = dataclasses.replace(step, analysis=None, replaced=None)
        refused = {job_id: why for job_id, why in step.refused.items() if job_id in chosen}
        for why, count in Counter(refused.values()).items():
            jobs = "1 job is" if count == 1 else f"{count} jobs are"
            console.print(f"[red]{jobs} not run again[/]: {escape(why)}", highlight=False, soft_wrap=True)
        code = submit(step, plan, paths, site, lock, options, console)
        return code or int(bool(refused))


def _settled(found: Survey, paths: StudyPaths) -> Survey:
    """The study when no failed job is ending any more: till then it cannot be submitted again."""
    for _ in range(ENDING_TRIES):
        tasks = ledger.task_of(with_arrays(ledger.read(paths.ledger), found.look.queue))
        entries = found.look.queue.entries
        ending = [
            status.job.name
            for status in found.statuses
            if status.state in AGAIN
            and (task := tasks.get(status.job.job_id)) in entries
            and task is not None
            and entries[task].alive == "running"
        ]
        if not ending and found.look.trouble is None:
            return found
        time.sleep(ENDING_POLL_S)
        found = survey(found.plan, paths, fresh=True)
    if found.look.trouble is not None:
        raise UserError(found.look.trouble, where="cluster", remedy="try again when it does")
    raise UserError("SLURM is still ending it", where=ending[0], remedy="try again in a minute")


def choose(found: Survey, named: Iterable[str]) -> set[str]:
    """The jobs to run again: with each what it needs and is not there, and what waits for it.

    named: job ids; none for all that failed, are blocked, or vanished. Of those named, what is complete or
    in the queue is left alone.
    """
    by_id = {status.job.job_id: status for status in found.statuses}
    wanted = set(named) or {job_id for job_id, status in by_id.items() if status.state in AGAIN}
    analyses = {job_id for job_id in wanted if by_id[job_id].job.kind == "analyse"}
    chosen = {job_id for job_id in wanted if _is_open(by_id[job_id])}
    for status in reversed(found.statuses):  # what it needs, and what that needs
        if status.job.job_id in chosen - analyses:
            chosen |= {need for need in status.job.needs if _is_open(by_id[need])}
    makers = {job_id for job_id in chosen & wanted if by_id[job_id].job.kind in ("prepare", "train")}
    for status in found.statuses:  # in plan order: a training brings its evaluations along
        job = status.job
        if job.kind != "analyse" and _is_open(status) and makers & set(job.needs):
            chosen.add(job.job_id)
            makers.add(job.job_id)
    return chosen


def _is_open(status: JobStatus) -> bool:
    return status.state != "done" and status.state not in ACTIVE


def _print_choice(found: Survey, chosen: set[str], named: Sequence[str], console: Console) -> None:
    states: Mapping[str, JobStatus] = {status.job.job_id: status for status in found.statuses}
    for job_id in named:
        if job_id not in chosen:
            status = states[job_id]
            left = f"{status.job.kind} {status.job.name} ({job_id}) is {status.state}: left alone"
            console.print(escape(left), highlight=False, soft_wrap=True)
    if not chosen:
        console.print("nothing to retry", highlight=False)
        return
    of_kind = Counter(states[job_id].job.kind for job_id in chosen)
    parts = ", ".join(f"{of_kind[kind]} {kind}" for kind in KINDS if of_kind[kind])
    console.print(f"[bold]retry[/] {len(chosen)} jobs ({parts})", highlight=False)
