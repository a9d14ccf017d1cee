"""`calsweep cancel`: take a study's tasks out of the queue. What they have saved stays."""

from __future__ import annotations

import time
from collections.abc import Collection

from launcher.cluster import ledger, scheduler
from launcher.cluster.advance import note_found_arrays, with_arrays
from launcher.cluster.scheduler import Queue
from launcher.state.status import is_held
from study.errors import UserError
from study.jobs.plan import Plan
from study.paths import StudyPaths

WAIT_S = 60
"""A task that saves when it is told to end may take SLURM's KillWait, usually 30 s."""
POLL_S = 1.0


def cancel(plan: Plan, paths: StudyPaths, named: Collection[str]) -> tuple[list[str], list[str]]:
    """Take the named jobs' tasks out of the queue, or all of the study, and wait until they have left.

    Holds the study's lock all the while, so that the job which goes on with the study cannot submit more.
    Returns the tasks that were told to end, and those that had not after a minute. Raises UserError when
    another launcher is at work, and when SLURM does not answer.
    """
    if not any(entry.cluster == "slurm" for entry in ledger.read(paths.ledger)):
        if is_held(paths.lock):
            raise UserError(
                "runs on this machine, in the foreground", where=str(paths.root), remedy="press Ctrl-C there"
            )
        return [], []
    if not scheduler.is_there():
        raise UserError("SLURM is not on the PATH", where="cluster", remedy="run this on a login node")
    _stop_going_on(plan, paths, named)
    with ledger.held(paths):
        queue = scheduler.ask_queue()
        note_found_arrays(paths, queue)
        wanted = _alive(paths, queue, named)
        scheduler.cancel(_whole_arrays(wanted, queue))
        return sorted(wanted), _wait(wanted)


def _stop_going_on(plan: Plan, paths: StudyPaths, named: Collection[str]) -> None:
    """End the job that goes on with the study where it is at work right now: it holds the study's lock."""
    if named or not is_held(paths.lock):
        return
    analyses = {job.job_id for job in plan.of_kind("analyse")}
    queue = scheduler.ask_queue()
    at_work = {task for task in _alive(paths, queue, analyses) if queue.entries[task].alive == "running"}
    scheduler.cancel(sorted(at_work))


def _alive(paths: StudyPaths, queue: Queue, named: Collection[str]) -> set[str]:
    """The study's tasks in the queue, orphans of a killed launcher among them; or those of the named jobs."""
    return {
        task
        for entry in with_arrays(ledger.read(paths.ledger), queue)
        if entry.cluster == "slurm"
        for task, pack in entry.tasks.items()
        if task in queue.entries and queue.entries[task].alive
        if not named or set(named) & set(pack)
    }


def _whole_arrays(wanted: Collection[str], queue: Queue) -> list[str]:
    """Tasks to scancel, as few words as possible: an array by its own id when all that is left of it goes."""
    left = {task for task, entry in queue.entries.items() if entry.alive} - set(wanted)
    kept = {task.split("_")[0] for task in left}
    arrays = {task.split("_")[0] for task in wanted}
    return [*(arrays - kept), *(task for task in wanted if task.split("_")[0] in kept)]


def _wait(wanted: Collection[str]) -> list[str]:
    """The tasks that have not left the queue after a while."""
    end = time.monotonic() + WAIT_S
    left = sorted(wanted)
    while left:
        queue = scheduler.ask_queue()
        left = [task for task in left if task in queue.entries and queue.entries[task].alive]
        if time.monotonic() >= end:
            break
        if left:
            time.sleep(POLL_S)
    return left
