"""Queries to SLURM: one squeue call for everything, one sacct call for ended tasks, with back-off."""

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
"""Waits before the second, third, ... try, each stretched at random so that launchers spread out."""
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
class QueueEntry:
    """One task in the queue, or one that ended a moment ago.

    state: as SLURM names it. reason: why it waits or ended. comment: the --comment of its submission.
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
    """The user's jobs as squeue lists them, each task of an array separately.

    Ended tasks stay listed for a few minutes (MinJobAge); a task that is absent ended before that.
    """

    entries: Mapping[str, QueueEntry] = field(default_factory=dict)

    @property
    def num_submitted(self) -> int:
        """Jobs that count against a limit on submitted jobs, including those of other studies."""
        return sum(entry.alive is not None for entry in self.entries.values())

    def array_of(self, token: str) -> str | None:
        """The array that was submitted with this token; None if there is none."""
        for task, entry in self.entries.items():
            if token and entry.comment.endswith(token):
                return task.split("_")[0]
        return None


class SchedulerBusyError(UserError):
    """SLURM did not answer, however often it was asked."""


def is_installed() -> bool:
    """Whether this machine can query SLURM."""
    return shutil.which("squeue") is not None


def ask_queue(*, tries: int | None = None) -> Queue:
    """One squeue call, repeated with back-off while the controller is busy or restarts.

    tries: the most calls; None for as many as BACKOFF_S allows.
    Raises SchedulerBusyError when it does not answer: an unknown queue must not pass for an empty one. Raises
    UserError when it lists jobs without the requested columns.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--me", "--format=%i|%T|%r|%k"]
    entries = {}
    for line in ask(command, tries=tries).splitlines():
        task, *words = line.strip().split("|", 3)
        if len(words) == 3:
            entries[task] = QueueEntry(*words)
        elif task[:1].isdigit():
            # a job, which would be submitted twice if it were ignored; other lines are notices of the site
            raise UserError(
                f"squeue printed '{line.strip()}', without the columns of {command[-1]}",
                where="cluster",
                remedy="check whether squeue is a wrapper on this machine",
            )
    return Queue(entries)


def ask_ended(array_ids: Sequence[str]) -> dict[str, str] | None:
    """One sacct call: task -> the state in which it last ended. None where accounting does not answer."""
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
    # accounting may be off or slow, or its database down; then only the jobs' own markers are known
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (subprocess.TimeoutExpired, OSError):
        return None
    if done.returncode != 0:
        return None
    rows = (line.partition("|") for line in done.stdout.splitlines())
    return {task: state.split()[0] for task, _, state in rows if state.strip()}


def cancel(tasks: Sequence[str]) -> None:
    """scancel tasks or whole arrays, in one call."""
    if tasks:
        ask(["scancel", *sorted(set(tasks))])


def is_busy(message: str) -> bool:
    """Whether an error message of SLURM says that another try may succeed."""
    return _BUSY.search(message) is not None


def pause(attempt: int) -> None:
    """Wait before the next try; attempt counts from 0."""
    time.sleep(BACKOFF_S[attempt] * random.uniform(1, 1.5))


def ask(command: Sequence[str], *, tries: int | None = None) -> str:
    """Run a command of SLURM that may safely be repeated; returns what it printed.

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
                raise UserError(
                    f"{name} failed ({problem})", where="cluster", remedy="fix the cause that SLURM names"
                )
        if attempt < tries - 1:
            pause(attempt)
    raise SchedulerBusyError(
        f"{name} failed ({problem})", where="cluster", remedy="try again when SLURM answers"
    )


def last_line(text: str) -> str:
    """The last line that a program printed; `no message` when it printed nothing."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1] if lines else "no message"
