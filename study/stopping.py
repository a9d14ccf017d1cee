"""Being told to stop: a signal only sets a flag, and the work looks at it where stopping is safe.

SLURM sends USR2 some time before the time limit or a preemption (the launcher asks for it), TERM when the job
is ended without a warning. submitit's own handler would save from rank 0 alone, whatever the others do: this
one replaces it.
"""

from __future__ import annotations

import signal
from types import FrameType

_received: list[signal.Signals] = []


def listen() -> None:
    """From now on USR2 and TERM set the flag. Only the main thread may call this."""
    _received.clear()
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, _take)


def requested() -> bool:
    """Whether this process has been told to stop."""
    return bool(_received)


def warned() -> bool:
    """Whether the first thing it heard was a warning (USR2): then it is for the job to requeue itself."""
    return bool(_received) and _received[0] == signal.SIGUSR2


def _take(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
