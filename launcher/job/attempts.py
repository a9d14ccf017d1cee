"""A job's attempts, in its journal `attempts.jsonl`, so that no accounting of SLURM is needed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from study import journal
from study.files import read_json
from study.paths import JobPaths


@dataclass(frozen=True)
class Attempt:
    """One start of a job.

    name: cluster task and restart count. task: the cluster's. began, ended: seconds since the epoch; ended
    is None while it runs, or if it was killed. outcome: done | failed | stopped (after a warning, saved) |
    terminated (by SLURM, without a warning) | None. cause: why it failed.
    progress: units of work that were done when it began.
    """

    name: str
    task: str
    host: str
    began: float
    progress: int
    ended: float | None = None
    outcome: str | None = None
    cause: str | None = None


def begin(folder: JobPaths, name: str, task: str, host: str) -> None:
    _append(folder, event="begin", attempt=name, task=task, host=host, progress=progress_of(folder))


def end(folder: JobPaths, name: str, outcome: str, cause: str | None = None) -> None:
    """Called by the job itself, or after its death by its batch script or launcher; the first call counts."""
    _append(folder, event="end", attempt=name, outcome=outcome, cause=cause)


def read(folder: JobPaths) -> list[Attempt]:
    """All attempts, oldest first."""
    attempts: dict[str, Attempt] = {}
    for line in journal.read(folder.attempts):
        name, time_s = line["attempt"], line["time"]
        if line["event"] == "begin":
            attempts[name] = Attempt(name, line["task"], line["host"], time_s, line["progress"])
        elif name in attempts and attempts[name].outcome is None:
            end = {"ended": time_s, "outcome": line["outcome"], "cause": line["cause"]}
            attempts[name] = replace(attempts[name], **end)
    return list(attempts.values())


def progress_of(folder: JobPaths) -> int:
    """Units of work (steps, items) in the job's last progress report; 0 before the first."""
    if not folder.progress.is_file():
        return 0
    return int(read_json(folder.progress)["done"])


def _append(folder: JobPaths, **event: Any) -> None:
    journal.append(folder.attempts, {"time": round(time.time(), 3), **event})
