"""What the readers of benchmark rows share: one column of a row, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.items.item import LETTERS
from study.errors import RecordError

OPTION = re.compile("option_([a-z]|[0-9]+)")
"""A column of options, in the one schema or the other."""


def text(row: Mapping[str, Any], column: str, where: str) -> str:
    """A column that must hold text, and not blanks alone.

    Raises RecordError when the column is missing or holds something else.
    """
    value = cell(row, column, where)
    if not isinstance(value, str):
        raise RecordError(f"{where}: {column} is {value!r}, expected text")
    if not value.strip():
        raise RecordError(f"{where}: {column} is blank")
    require_whole(value, column, where)
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
    require_whole(value, column, where)
    return value if value.strip() not in ("", absent) else None


def require_whole(value: str, column: str, where: str) -> None:
    """Raises RecordError for text with a lone surrogate: JSON can spell it, no tokenizer takes it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise RecordError(f"{where}: {column} holds half a character (the lone surrogate {half})") from None


def optional_share(row: Mapping[str, Any], column: str, where: str) -> float | None:
    """A column that may be missing or null, else a number in [0, 1], also as text.

    Raises RecordError for anything else.
    """
    value = row.get(column)
    if value is None:
        return None
    try:
        share = float(value)
    except (TypeError, ValueError, OverflowError):
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


def filled_options(row: Mapping[str, Any], columns: Sequence[str], where: str) -> tuple[str, ...] | None:
    """The options up to the first absent one (null or blank), or None when a later one is filled.

    With such a gap the options can be neither closed up (letters and label would shift) nor shown.
    columns: of the options; one that the row does not have is absent.
    Raises RecordError for an option that is not text, or one that is filled in a column behind the last.
    """
    for column in row:
        if column not in columns and OPTION.fullmatch(column) and _is_filled(row[column]):
            raise RecordError(f"{where}: {column} is filled; options are read up to {columns[-1]}")
    texts: list[str] = []
    for column in columns:
        value = row.get(column)
        if value is not None and not isinstance(value, str):
            raise RecordError(f"{where}: option {value!r} is not text")
        require_whole(value or "", column, where)
        texts.append(value or "")
    filled = [_is_filled(one) for one in texts]
    count = filled.index(False) if False in filled else len(filled)
    return None if any(filled[count:]) else tuple(texts[:count])


def _is_filled(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def letter_index(answer: Any, num_options: int, where: str) -> int:
    """The index of an answer letter.

    Raises RecordError when it is no letter of an option that exists.
    """
    letters = LETTERS[:num_options]
    if not isinstance(answer, str) or len(answer) != 1 or answer not in letters:
        raise RecordError(f"{where}: answer is {answer!r}, expected one of {', '.join(letters)}")
    return letters.index(answer)
