"""`calsweep cancel`: remove a study's tasks from the queue. What they have saved stays."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection

from launcher.cluster import ledger, scheduler
from launcher.cluster.advance import note_found_arrays, with_arrays
from launcher.cluster.scheduler import Queue
from launcher.state.lookup import add_study_arguments, find_jobs, open_study
from launcher.state.status import is_held
from study.errors import UserError
from study.jobs.plan import Plan
from study.paths import StudyPaths
from study.terminal import print_json

WAIT_S = 60
"""A task that saves when it is signalled may take as long as SLURM's KillWait, usually 30 s."""
POLL_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="ids of jobs; without any, the whole study")


def run(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    tasks, left = cancel(plan, paths, find_jobs(plan, options.jobs))
    paths.queue.unlink(missing_ok=True)  # the next `status` queries SLURM
    if options.json:
        print_json({"cancelled": tasks, "left": left})
    elif not tasks:
        print("nothing of this study is in the queue")
    else:
        print(f"cancelled {len(tasks)} tasks; what they have saved stays")
        if left:
            print(f"{len(left)} of them are still ending: squeue --me")
    return 1 if left else 0


def cancel(plan: Plan, paths: StudyPaths, chosen: Collection[str]) -> tuple[list[str], list[str]]:
    """Cancel the tasks of the chosen jobs, or of the study if none is chosen, and wait for their end.

    Holds the study's lock meanwhile, so that the job that continues the study cannot submit more.
    Returns the cancelled tasks, and those that are still ending after WAIT_S. Raises UserError when another
    launcher works on the study, and when SLURM does not answer.
    """
    if not any(submission.cluster == "slurm" for submission in ledger.read(paths.ledger)):
        if is_held(paths.lock):
            raise UserError(
                "runs on this machine, in the foreground",
                where=str(paths.root),
                remedy="press Ctrl-C in its terminal",
            )
        return [], []
    if not scheduler.is_installed():
        raise UserError("SLURM is not on the PATH", where="cluster", remedy="run this on a login node")
    if not chosen and is_held(paths.lock):
        _cancel_running_analysis(plan, paths)
    with ledger.held(paths):
        queue = scheduler.ask_queue()
        note_found_arrays(paths, queue)
        tasks = _alive(paths, queue, chosen)
        scheduler.cancel(_whole_arrays(tasks, queue))
        return sorted(tasks), _wait(tasks)


def _cancel_running_analysis(plan: Plan, paths: StudyPaths) -> None:
    """End the job that continues the study: while it submits, it holds the study's lock."""
    analyses = {job.job_id for job in plan.of_kind("analyse")}
    queue = scheduler.ask_queue()
    running = [task for task in _alive(paths, queue, analyses) if queue.entries[task].alive == "running"]
    scheduler.cancel(running)


def _alive(paths: StudyPaths, queue: Queue, chosen: Collection[str]) -> set[str]:
    """Tasks in the queue that have one of the chosen jobs, or any job of the study if none is chosen; also
    those whose launcher was killed before it noted their id.
    """
    return {
        task
        for submission in with_arrays(ledger.read(paths.ledger), queue)
        if submission.cluster == "slurm"
        for task, pack in submission.tasks.items()
        if task in queue.entries and queue.entries[task].alive
        if not chosen or set(chosen) & set(pack)
    }


def _whole_arrays(tasks: Collection[str], queue: Queue) -> list[str]:
    """The shortest arguments for scancel: the id of an array if all of its remaining tasks are cancelled."""
    left = {task for task, entry in queue.entries.items() if entry.alive} - set(tasks)
    kept = {task.split("_")[0] for task in left}
    arrays = {task.split("_")[0] for task in tasks}
    return [*(arrays - kept), *(task for task in tasks if task.split("_")[0] in kept)]


def _wait(tasks: Collection[str]) -> list[str]:
    """Wait until the tasks have left the queue; returns those that have not after WAIT_S."""
    end = time.monotonic() + WAIT_S
    left = sorted(tasks)
    while left:
        queue = scheduler.ask_queue()
        left = [task for task in left if task in queue.entries and queue.entries[task].alive]
        if time.monotonic() >= end:
            break
        if left:
            time.sleep(POLL_S)
    return left
