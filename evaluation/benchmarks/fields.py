"""What the readers of benchmark rows share: one column of a row, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.items import LETTERS
from study.errors import RecordError


def text(row: Mapping[str, Any], column: str, where: str) -> str:
    """A column that must hold text, and not blanks alone.

    Raises RecordError when the column is missing or holds something else.
    """
    value = cell(row, column, where)
    if not isinstance(value, str):
        raise RecordError(f"{where}: {column} is {value!r}, expected text")
    if not value.strip():
        raise RecordError(f"{where}: {column} is blank")
    return value


def optional_text(row: Mapping[str, Any], column: str, where: str, *, absent: str = "") -> str | None:
    """A column that may be missing, null, blank or `absent`: then None.

    Raises RecordError when it holds something else than text.
    """
    value = row.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RecordError(f"{where}: {column} is {value!r}, expected text or null")
    return value if value.strip() not in ("", absent) else None


def optional_share(row: Mapping[str, Any], column: str, where: str) -> float | None:
    """A column that may be missing or null, else a number in [0, 1], also as text.

    Raises RecordError for anything else.
    """
    value = row.get(column)
    if value is None:
        return None
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise RecordError(f"{where}: {column} is {value!r}, expected a number in [0, 1]")
    return share


def cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    """A column that must exist; its value may be null.

    Raises RecordError when it does not.
    """
    if column not in row:
        raise RecordError(f"{where}: there is no column '{column}'; columns are {sorted(row)}")
    return row[column]


def filled_options(values: list[Any], where: str) -> tuple[str, ...] | None:
    """The options up to the first absent one (null or blank), or None when a later one is filled.

    With such a gap the options can be neither closed up (letters and label would shift) nor shown.
    Raises RecordError for an option that is not text.
    """
    for value in values:
        if value is not None and not isinstance(value, str):
            raise RecordError(f"{where}: option {value!r} is not text")
    filled = [value is not None and value.strip() != "" for value in values]
    count = filled.index(False) if False in filled else len(filled)
    return None if any(filled[count:]) else tuple(values[:count])


def letter_index(answer: Any, num_options: int, where: str) -> int:
    """The index of an answer letter.

    Raises RecordError when it is no letter of an option that exists.
    """
    letters = LETTERS[:num_options]
    if not isinstance(answer, str) or len(answer) != 1 or answer not in letters:
        raise RecordError(f"{where}: answer is {answer!r}, expected one of {', '.join(letters)}")
    return letters.index(answer)
