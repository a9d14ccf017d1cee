"""Why a job ended, and the remedy for each kind of failure."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.job.attempts import Attempt
from study.errors import CalsweepError
from study.jobs.resources import Resources

USER_ERROR = "user error"
HOST_MEMORY = "out of host memory"
GPU_MEMORY = "out of GPU memory"
TIME_LIMIT = "time limit"
NODE_FAILURE = "node failure"
PREEMPTED = "preempted"
KILLED = "killed"
CANCELLED = "cancelled"
ERROR = "error"

AUTOMATIC_TRIES: Mapping[str, int] = {
    NODE_FAILURE: 10,
    PREEMPTED: 20,
    HOST_MEMORY: 3,
    GPU_MEMORY: 6,
    TIME_LIMIT: 2,
    KILLED: 2,
}
"""Attempts in a row without progress, after which a job is not started again automatically.

Causes not listed are never retried: a user error or a bug would fail again.
"""

MEMORY_FACTOR = 1.5
ATTEMPT_BEGINS = "calsweep: attempt "
"""The first line of each attempt on standard error; its name follows."""
LOG_TAIL_LINES = 40
_PATTERNS = (
    (
        HOST_MEMORY,
        re.compile(r"exceeded (job |step )?memory limit|oom[-_ ]kill|out of memory handler", re.I),
    ),
    (GPU_MEMORY, re.compile(r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError", re.I)),
    (NODE_FAILURE, re.compile(r"DUE TO NODE FAILURE", re.I)),
    (PREEMPTED, re.compile(r"DUE TO PREEMPTION", re.I)),
    (TIME_LIMIT, re.compile(r"DUE TO TIME LIMIT", re.I)),
    (CANCELLED, re.compile(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED", re.I)),
)
# the error of a rank after another one died
_LOST_RANK = re.compile(r"gloo/transport/|closed by (remote )?peer|remote process exited", re.I)
_STATES = {
    "OUT_OF_MEMORY": HOST_MEMORY,
    "TIMEOUT": TIME_LIMIT,
    "DEADLINE": TIME_LIMIT,
    "NODE_FAIL": NODE_FAILURE,
    "BOOT_FAIL": NODE_FAILURE,
    "PREEMPTED": PREEMPTED,
    "CANCELLED": CANCELLED,
    "REVOKED": CANCELLED,
}


def of_exception(error: BaseException) -> str:
    """The cause of a failure that the job reports with this exception."""
    if isinstance(error, CalsweepError):
        return USER_ERROR
    name, text = type(error).__name__, str(error)
    if isinstance(error, RuntimeError) and _LOST_RANK.search(text):
        return KILLED
    if name == "OutOfMemoryError" or "CUDA out of memory" in text:  # torch is not imported for its class
        return GPU_MEMORY
    return HOST_MEMORY if isinstance(error, MemoryError) else ERROR


def of_silence(state: str | None, logs: Sequence[Path]) -> str:
    """The cause of an end that the job could not report.

    state: SLURM's state of the task, None if unknown. logs: the attempt's standard error and output, where
    SLURM writes its reason; on sites that kill for memory without cgroups, it is found only there.
    """
    if state in _STATES:
        return _STATES[state]
    # logs are appended to: the messages of earlier attempts precede this one's first line
    text = "\n".join(tail(log).rpartition(ATTEMPT_BEGINS)[2] for log in logs)
    for cause, pattern in _PATTERNS:
        if pattern.search(text):
            return cause
    return KILLED


def tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log; empty if there is no such file."""
    if not log.is_file():
        return ""
    with log.open(encoding="utf-8", errors="replace") as stream:
        return "".join(deque(stream, lines))


@dataclass(frozen=True)
class Execution:
    """How a job runs: `execution.json`. Outside its identity.

    remedied: resources that were changed after earlier failures. changes: these in words, oldest first.
    """

    resources: Resources
    remedied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    changes: Sequence[str] = ()


def remedy(
    cause: str, kind: str, before: Execution, requested: Resources, max_mem_gib: float | None = None
) -> Execution | None:
    """How to run a job again after it ended by `cause`; None if running it again cannot help.

    before: how the attempt that ended ran. requested: the resources of grid and profile now, which the user
    may have changed since. After a lack of memory, the job gets more, or smaller batches.
    """
    resources = with_remedies(requested, before.remedied)
    if cause == HOST_MEMORY:
        new: float = math.ceil(before.resources.mem_gib * MEMORY_FACTOR)
        new = max(min(new, max_mem_gib) if max_mem_gib is not None else new, requested.mem_gib)
        if new <= before.resources.mem_gib:
            return None
        given: dict[str, Any] = {"mem_gib": new}
    elif cause == GPU_MEMORY:
        names = ("batch_tokens",) if kind == "evaluate" else ("micro_batch_size", "micro_batch_tokens")
        given = {name: min(getattr(before.resources, name) // 2, getattr(requested, name)) for name in names}
        if min(given.values()) < 1:
            return None
    else:
        return Execution(resources, before.remedied, before.changes)
    changes = ", ".join(f"{name} {getattr(before.resources, name):g} -> {to:g}" for name, to in given.items())
    return Execution(
        dataclasses.replace(resources, **given),
        {**before.remedied, **given},
        (*before.changes, f"{cause}: {changes}"),
    )


def with_remedies(requested: Resources, remedied: Mapping[str, Any]) -> Resources:
    """The requested resources, with at least the memory and at most the batch sizes in `remedied`."""
    better = {name: max if name == "mem_gib" else min for name in remedied}
    changes = {name: better[name](getattr(requested, name), value) for name, value in remedied.items()}
    return dataclasses.replace(requested, **changes)


def tries_left(cause: str, attempts: Sequence[Attempt], progress: int) -> int:
    """How often the job may still be started again automatically after an attempt ended by `cause`.

    progress: units of work that are done now. Only attempts without progress count: a long training may be
    preempted a hundred times.
    """
    allowed = AUTOMATIC_TRIES.get(cause, 0)
    reached = [*(attempt.progress for attempt in attempts[1:]), progress]
    futile = 0
    for attempt, after in zip(reversed(attempts), reversed(reached), strict=True):
        if after > attempt.progress:
            break
        futile += 1
    return allowed - futile
