"""SLURM asked in batches: one squeue for everything, one sacct for what has ended, with back-off."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from study.errors import UserError

TIMEOUT_S = 60
BACKOFF_S = (1.0, 3.0, 9.0)
"""Waits before the second, third, ... try, each stretched at random: launchers must not knock together."""
_BUSY = re.compile(
    r"unable to contact|socket timed out|zero bytes|connection (refused|timed out|reset)|"
    r"communication (connection )?failure|temporarily|try again|unexpected message",
    re.IGNORECASE,
)
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip
_WAITING = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT",
    "SUSPENDED",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One task in the queue, or of those that ended a moment ago.

    state: SLURM's word. reason: why it waits or ended. comment: what its submission was given.
    """

    state: str
    reason: str
    comment: str

    @property
    def alive(self) -> str | None:
        """`queued`, `running`, or None when it has ended."""
        if self.state in _ENDED:
            return None
        return "queued" if self.state in _WAITING else "running"


@dataclass(frozen=True)
class Queue:
    """The user's jobs as squeue told them, each task of an array on its own.

    Tasks that ended stay in it for a few minutes (MinJobAge); one that is absent has ended before.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def num_submitted(self) -> int:
        """Jobs that count against a limit on submitted jobs, those of other studies included."""
        return sum(entry.alive is not None for entry in self.entries.values())

    def array_of(self, token: str) -> str | None:
        """The array that was submitted with this token."""
        for task, entry in self.entries.items():
            if token and entry.comment.endswith(token):
                return task.split("_")[0]
        return None


class SchedulerBusyError(UserError):
    """SLURM did not answer, several times."""


def is_there() -> bool:
    """Whether this machine can ask SLURM."""
    return shutil.which("squeue") is not None


def ask_queue(*, tries: int | None = None) -> Queue:
    """One squeue call, tried again with back-off while the controller is busy or restarts.

    tries: how often at most; who has an older answer to fall back on need not wait.
    Raises SchedulerBusyError when it does not answer: not knowing is not the same as an empty queue. Raises
    UserError when it tells jobs in other columns than those it was asked for.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--me", "--format=%i|%T|%r|%k"]
    entries = {}
    for line in ask(command, tries=tries).splitlines():
        task, *words = line.strip().split("|", 3)
        if len(words) == 3:
            entries[task] = Entry(*words)
        elif task[:1].isdigit():
            # a job: who leaves it out submits it twice. Anything else is a site's notice
            raise UserError(
                f"squeue answers '{line.strip()}', without the columns {command[-1]}",
                where="cluster",
                remedy="see whether squeue is a wrapper here",
            )
    return Queue(entries)


def ask_ended(array_ids: Sequence[str]) -> dict[str, str] | None:
    """One sacct call: task -> SLURM's state of its last run. None where accounting does not answer."""
    if not array_ids:
        return {}
    if shutil.which("sacct") is None:
        return None
    command = [
        "sacct",
        "-X",
        "-n",
        "-P",
        "--format=JobID,State",
        f"--jobs={','.join(sorted(set(array_ids)))}",
    ]
    # accounting is off, slow, or its database is down: the jobs' own markers remain
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (subprocess.TimeoutExpired, OSError):
        return None
    if done.returncode != 0:
        return None
    told = (line.partition("|") for line in done.stdout.splitlines())
    return {task: state.split()[0] for task, _, state in told if state.strip()}


def cancel(tasks: Sequence[str]) -> None:
    """scancel tasks or whole arrays, in one call."""
    if tasks:
        ask(["scancel", *sorted(set(tasks))])


def is_busy(message: str) -> bool:
    """Whether SLURM's message says that it may work a moment later."""
    return _BUSY.search(message) is not None


def pause(attempt: int) -> None:
    """Wait before trying again; attempt counts from 0."""
    time.sleep(BACKOFF_S[attempt] * random.uniform(1, 1.5))


def ask(command: Sequence[str], *, tries: int | None = None) -> str:
    """Run a query that does no harm when it is repeated; returns what it printed.

    Raises SchedulerBusyError when SLURM does not answer, UserError when it refuses.
    """
    name = command[0]
    tries = len(BACKOFF_S) + 1 if tries is None else tries
    for attempt in range(tries):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            problem = f"no answer in {TIMEOUT_S} s"
        except OSError as error:
            raise UserError(
                f"{name} failed ({error})", where="cluster", remedy="run this on a login node"
            ) from None
        else:
            if done.returncode == 0:
                return done.stdout
            problem = last_line(done.stderr)
            if not is_busy(problem):
                raise UserError(f"{name} failed ({problem})", where="cluster", remedy="see what SLURM says")
        if attempt < tries - 1:
            pause(attempt)
    raise SchedulerBusyError(
        f"{name} failed ({problem})", where="cluster", remedy="try again when SLURM answers"
    )


def last_line(text: str) -> str:
    """What a program said last; `no message` when it said nothing."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1] if lines else "no message"
