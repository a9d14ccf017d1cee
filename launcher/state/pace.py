"""How fast a running job is and what time it has left, by what it has told so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BETWEEN = {"items": 256, "steps": 1}
"""What a job does between two words of its progress: a part of records (evaluation.shard), a step."""
QUIET_S, QUIET_WORDS = 10, 3
STALLED_S, STALLED_WORDS = 300, 10
"""Silence after which nothing is estimated, and after which a job is called stalled: so many seconds, and so
many words that it should have told.
"""
STALLED_WITHOUT_SPEED_S = 1800
"""Nobody knows how long it takes to load a model, to score a first part, or to save a model."""

CLOCK_S = 0.1
"""The clock of files lags behind the one that a program reads, by some ticks of the kernel."""


@dataclass(frozen=True)
class Pace:
    """How fast a job is, that runs.

    unit, done, total: of its progress; None before the first word of this attempt.
    silent_s: since its last word, or since it began. per_s, left_s: None where they are not known, or not
    true any more. num_waiting: jobs of the same task that come after it.
    """

    silent_s: float
    stalled: bool
    unit: str | None = None
    done: int | None = None
    total: int | None = None
    per_s: float | None = None
    left_s: float | None = None
    num_waiting: int = 0


def pace_of(progress: Mapping[str, Any] | None, began: float, heard: float | None, now: float) -> Pace:
    """The pace of a job that runs.

    progress: what its progress.json says, written at `heard`. began: its attempt. All in seconds since the
    epoch.
    """
    if progress is None or heard is None or heard < began - CLOCK_S:  # of an attempt before
        silent_s = max(0.0, now - began)
        return Pace(silent_s, silent_s > STALLED_WITHOUT_SPEED_S)
    unit, done, total = progress["unit"], progress["done"], progress["total"]
    silent_s, per_s = max(0.0, now - heard), progress.get(f"{unit}_per_s")
    if not per_s or done >= total:  # at its end it saves what it made: that takes the time it takes
        return Pace(silent_s, silent_s > STALLED_WITHOUT_SPEED_S, unit, done, total)
    word_s = BETWEEN[unit] / per_s
    if silent_s > max(QUIET_S, QUIET_WORDS * word_s):
        stalled = silent_s > max(STALLED_S, STALLED_WORDS * word_s)
        return Pace(silent_s, stalled, unit, done, total)
    # what it has not told yet is no more than a word
    left_s = max(0.0, (total - done) / per_s - min(silent_s, word_s))
    return Pace(silent_s, False, unit, done, total, per_s, left_s)


def describe(pace: Pace) -> str:
    """A pace in words: `512 of 14042 items, 36.2 items/s, 6 min left`."""
    if pace.total is None:
        return f"{'stalled, ' if pace.stalled else ''}starting for {duration(pace.silent_s)}"
    told = [f"{pace.done} of {pace.total} {pace.unit}"]
    if pace.per_s is not None and pace.left_s is not None:
        speed = f"{pace.per_s:.0f}" if pace.per_s >= 100 else f"{pace.per_s:.3g}"
        told += [f"{speed} {pace.unit}/s", f"{duration(pace.left_s)} left"]
    elif pace.stalled:
        told.append(f"stalled: nothing new for {duration(pace.silent_s)}")
    elif pace.silent_s > QUIET_S:
        told.append(f"nothing new for {duration(pace.silent_s)}")
    return ", ".join(told)


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
