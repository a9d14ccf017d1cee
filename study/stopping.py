"""Requests to stop: a signal only sets a flag, which a job reads where stopping is safe.

SLURM sends USR2 some time before the time limit or a preemption, as the launcher requests, and TERM when it
ends the job without a warning. This replaces submitit's own handler, which would save from rank 0 alone.
"""

from __future__ import annotations

import signal
from types import FrameType

_received: list[signal.Signals] = []


def listen() -> None:
    """Make USR2 and TERM set the flag. Only the main thread may call this."""
    _received.clear()
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, _take)


def requested() -> bool:
    """Whether this process has received a request to stop."""
    return bool(_received)


def warned() -> bool:
    """Whether the first signal was a warning (USR2), after which the job has to be requeued by us."""
    return bool(_received) and _received[0] == signal.SIGUSR2


def _take(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
