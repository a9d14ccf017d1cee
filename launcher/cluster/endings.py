"""How a job that is not complete ended: from its own markers first, then from SLURM."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import scheduler
from launcher.cluster.scheduler import Queue
from launcher.job import attempts, causes
from launcher.job.attempts import Attempt
from study.files import read_json, write_json
from study.paths import JobPaths

MESSAGES = {
    causes.HOST_MEMORY: "killed for using more memory than requested",
    causes.TIME_LIMIT: "ended by its time limit",
    causes.NODE_FAILURE: "its node failed",
    causes.PREEMPTED: "preempted",
    causes.CANCELLED: "cancelled",
    causes.KILLED: "killed for an unknown reason",
}


@dataclass(frozen=True)
class Ending:
    """cause: one of `causes`; None when the job never began or still runs. message: a sentence."""

    cause: str | None
    message: str | None
    attempts: Sequence[Attempt]


def ending_of(folder: JobPaths, states: Mapping[str, str]) -> Ending:
    """Why a job that is not in the queue is not complete.

    states: SLURM's states of ended tasks, as far as they are known.
    """
    tries = attempts.read(folder)
    if folder.failed.is_file():
        report = read_json(folder.failed)
        return Ending(report["cause"], report["message"], tries)
    if not tries or tries[-1].outcome == "done":
        return Ending(None, None, tries)
    last = tries[-1]
    if last.outcome == "stopped":
        return Ending(causes.TIME_LIMIT, "stopped before its time limit, and not started again", tries)
    cause = last.cause or causes.of_silence(states.get(last.task), log_files(folder))
    return Ending(cause, MESSAGES.get(cause, cause), tries)


def record_failure(folder: JobPaths, attempt: str, task: str, logs: Sequence[Path] | None = None) -> None:
    """Record the failure of an attempt that could not report it itself, with the cause that its logs show.

    logs: of all ranks; None for those of the first rank.
    """
    tries = attempts.read(folder)
    if not tries or tries[-1].name != attempt:  # it died before it could begin
        attempts.begin(folder, attempt, task, platform.node())
    # a rank that reports the loss of another one does not know what killed it
    if not folder.failed.is_file() or read_json(folder.failed)["cause"] == causes.KILLED:
        cause = causes.of_silence(None, log_files(folder) if logs is None else logs)
        if cause == causes.CANCELLED:  # SLURM logs this for the ranks that it ends after one was killed
            cause = causes.KILLED
        report = {"cause": cause, "error": "Killed", "message": MESSAGES.get(cause, cause), "logs": []}
        write_json(folder.failed, report)
    attempts.end(folder, attempt, "failed", read_json(folder.failed)["cause"])


def log_files(folder: JobPaths) -> list[Path]:
    """The logs of the latest task that worked on a job, standard error first."""
    if not folder.logs.is_dir():
        return []
    files = sorted(folder.logs.glob("*"), key=lambda file: file.lstat().st_mtime_ns)
    return sorted(file for file in files if file.stem == files[-1].stem)


def ended_states(queue: Queue, tasks: Iterable[str]) -> dict[str, str]:
    """SLURM's states of tasks that ended: from squeue while it lists them, else from one sacct call."""
    wanted = set(tasks)
    known = {
        task: queue.entries[task].state
        for task in wanted
        if task in queue.entries and queue.entries[task].alive is None
    }
    unknown = wanted - known.keys() - queue.entries.keys()
    if unknown:
        states = scheduler.ask_ended([task.split("_")[0] for task in unknown]) or {}
        known |= {task: states[task] for task in unknown if task in states}
    return known
