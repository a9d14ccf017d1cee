"""How fast a running job is and how long it will take, from its progress reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BETWEEN = {"items": 256, "steps": 1}
"""Units between two progress reports: a part of records (`evaluation.shard.PART_SIZE`), a step."""
QUIET_S, QUIET_REPORTS = 10, 3
STALLED_S, STALLED_REPORTS = 300, 10
"""A job that reports nothing for so many seconds, and for so many reports that were due, gets no estimate
(QUIET), and is shown as stalled (STALLED).
"""
STALLED_WITHOUT_SPEED_S = 1800
"""Before a first report and at the end, while models are loaded and saved, no report is due."""
CLOCK_S = 0.1
"""Times of files lag behind the clock that a program reads, by some ticks of the kernel."""


@dataclass(frozen=True)
class Pace:
    """How fast a running job is.

    unit, done, total: of its progress; None before the first report of this attempt.
    silent_s: since its last report, or since it began. per_s, left_s: units per second, and seconds left;
    None if they are unknown or out of date. num_waiting: jobs of the same task that come after it.
    """

    silent_s: float
    stalled: bool
    unit: str | None = None
    done: int | None = None
    total: int | None = None
    per_s: float | None = None
    left_s: float | None = None
    num_waiting: int = 0


def pace_of(progress: Mapping[str, Any] | None, began: float, reported: float | None, now: float) -> Pace:
    """The pace of a running job.

    progress: the content of its progress.json, written at `reported`. began: when its attempt did. Times are
    seconds since the epoch.
    """
    if progress is None or reported is None or reported < began - CLOCK_S:  # of an earlier attempt
        silent_s = max(0.0, now - began)
        return Pace(silent_s, silent_s > STALLED_WITHOUT_SPEED_S)
    unit, done, total = progress["unit"], progress["done"], progress["total"]
    silent_s, per_s = max(0.0, now - reported), progress.get(f"{unit}_per_s")
    if not per_s or done >= total:  # complete, it saves its result
        return Pace(silent_s, silent_s > STALLED_WITHOUT_SPEED_S, unit, done, total)
    report_s = BETWEEN[unit] / per_s
    if silent_s > max(QUIET_S, QUIET_REPORTS * report_s):
        stalled = silent_s > max(STALLED_S, STALLED_REPORTS * report_s)
        return Pace(silent_s, stalled, unit, done, total)
    # since its last report it has done less than what the next one will add
    left_s = max(0.0, (total - done) / per_s - min(silent_s, report_s))
    return Pace(silent_s, False, unit, done, total, per_s, left_s)


def describe(pace: Pace) -> str:
    """A pace in words: `512 of 14042 items, 36.2 items/s, 6 min left`."""
    if pace.total is None:
        return f"{'stalled, ' if pace.stalled else ''}starting for {duration(pace.silent_s)}"
    words = [f"{pace.done} of {pace.total} {pace.unit}"]
    if pace.per_s is not None and pace.left_s is not None:
        speed = f"{pace.per_s:.0f}" if pace.per_s >= 100 else f"{pace.per_s:.3g}"
        words += [f"{speed} {pace.unit}/s", f"{duration(pace.left_s)} left"]
    elif pace.stalled:
        words.append(f"stalled: no progress for {duration(pace.silent_s)}")
    elif pace.silent_s > QUIET_S:
        words.append(f"no progress for {duration(pace.silent_s)}")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """A time in words: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
