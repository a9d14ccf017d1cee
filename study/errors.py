"""The one exception family.

CalsweepError
├── UserError      a mistake in a grid, a path or a command: one sentence, exit code 2, no traceback
├── RecordError    records on disk that are missing, doubled, torn or foreign
├── JobError       a job that cannot continue, for a reason that its log states in one sentence
├── BudgetError    a forecast above the grid's budget, or unknown where there is a budget: exit code 3
└── Stopped        a job stopped on request, has saved its work, and resumes when it is started again
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CalsweepError(Exception):
    """Base of every error raised on purpose by this project."""


class UserError(CalsweepError):
    """A user's mistake as one sentence: what is wrong, where (a key path or a file), and what to do."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        sentence = f"{where}: {what}" if where else what
        sentence = f"{sentence}; {remedy}" if remedy else sentence
        super().__init__(" ".join(sentence.splitlines()))

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments do not survive the default pickling of exceptions
        return (_rebuild_user_error, (self.what, self.where, self.remedy))


def _rebuild_user_error(what: str, where: str, remedy: str) -> UserError:
    return UserError(what, where=where, remedy=remedy)


class RecordError(CalsweepError):
    """Prediction records that cannot be used."""


class JobError(CalsweepError):
    """A job cannot run; the message says why and what to change."""


class BudgetError(CalsweepError):
    """The forecast does not fit the budget; the message says by what, and what to do."""


class Stopped(CalsweepError):  # noqa: N818 - not an error
    """The job stopped on request (a time limit, a preemption) and has saved its work; not a failure."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A remedy with the valid name closest to `name`, or with all valid names if none is close."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if close:
        best = next(n for n in names if n.lower() == close[0])
        return f"did you mean '{best}'?"
    return "valid: " + ", ".join(names) if names else "there are none"
