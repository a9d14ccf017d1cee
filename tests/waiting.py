"""Waiting in tests: for what must come, with a limit that only a hang meets. No test asserts a speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

HANG_S = 180.0
"""What takes longer hangs, also on two cores that others use, too."""
T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, *, limit_s: float = HANG_S, every_s: float = 0.05) -> T:
    """Wait until a condition gives something true; returns that."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {limit_s:.0f} s in vain: {what}"
        time.sleep(every_s)
    return found
