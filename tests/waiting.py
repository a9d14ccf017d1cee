"""Waits for what must happen, with a limit that only a hang reaches. No test asserts a speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

HANG_S = 180.0
"""Whatever takes longer hangs, even on two busy cores."""
T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, *, limit_s: float = HANG_S, every_s: float = 0.05) -> T:
    """Wait until a condition returns something true, and return it."""
    end = time.monotonic() + limit_s
    while not (result := condition()):
        assert time.monotonic() < end, f"waited {limit_s:.0f} s, and it never came: {what}"
        time.sleep(every_s)
    return result
