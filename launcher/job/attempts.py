"""A job's attempts, as it tells them itself: `attempts.jsonl`, an event a line. No accounting is needed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from study import journal
from study.files import read_json
from study.paths import JobPaths


@dataclass(frozen=True)
class Attempt:
    """One start of a job.

    name: cluster task and restart count. task: the cluster's. began, ended: seconds since the epoch; ended
    is None while it runs, or when it died without a word. outcome: done | failed | stopped (warned, and
    saved) | terminated (by SLURM, without a warning) | None.
    cause: why it ended, when something went wrong. progress: units of work that lay there when it began.
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
    """Told by the job itself, or by what looks after it when it could not. The first word counts."""
    _append(folder, event="end", attempt=name, outcome=outcome, cause=cause)


def read(folder: JobPaths) -> list[Attempt]:
    """All attempts, oldest first."""
    found: dict[str, Attempt] = {}
    for entry in journal.read(folder.attempts):
        name = entry["attempt"]
        if entry["event"] == "begin":
            keys = ("task", "host", "progress")
            found[name] = Attempt(name, began=entry["time"], **{key: entry[key] for key in keys})
        elif name in found and found[name].outcome is None:
            before = found[name]
            found[name] = Attempt(
                name, before.task, before.host, before.began, before.progress,
                ended=entry["time"], outcome=entry["outcome"], cause=entry["cause"],
            )  # fmt: skip
    return list(found.values())


def progress_of(folder: JobPaths) -> int:
    """Units of work (steps, items) that the job has told; 0 before the first."""
    if not folder.progress.is_file():
        return 0
    return int(read_json(folder.progress)["done"])


def _append(folder: JobPaths, **event: Any) -> None:
    journal.append(folder.attempts, {"time": round(time.time(), 3), **event})
