"""One row of a benchmark as an item, by the columns that its definition names; every value is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.items.item import LETTERS, Item
from study.benchmarks.definition import Columns
from study.errors import RecordError

ONLY_SUBJECT = "all"
"""The subject of all items of a benchmark that has no subjects."""
NOT_ANNOTATED = "-"
"""Global-MMLU's cultural sensitivity where nobody annotated it."""


def read_item(row: Mapping[str, Any], columns: Columns, where: str) -> Item | None:
    """A row as an item, or None when its options have a gap and `columns.skip_gaps` is set.

    where: file and row, for messages.
    Raises RecordError for a missing column, a value that is blank or of another type, too few or too many
    options, and an answer that is none of them or disagrees with the second answer column.
    """
    example_id = "/".join(_identifier(row, column, where) for column in columns.id)
    options = _options(row, columns, where)
    if options is None:
        return None
    label = _label(row, columns, options, where)
    if columns.answer_index is not None and (index := _cell(row, columns.answer_index, where)) != label:
        answer = row[columns.answer]
        raise RecordError(f"{where}: {columns.answer} is {answer} but {columns.answer_index} is {index!r}")
    sensitivity = _optional_text(row, columns.cultural_sensitivity, where) or NOT_ANNOTATED
    return Item(
        example_id=example_id,
        subject=ONLY_SUBJECT if columns.subject is None else _text(row, columns.subject, where),
        question=_text(row, columns.question, where),
        options=options,
        label=label,
        category=_optional_text(row, columns.category, where),
        cultural_sensitivity=None if sensitivity.strip() == NOT_ANNOTATED else sensitivity,
        quality=_optional_text(row, columns.quality, where),
        share_equal_to_english=_optional_share(row, columns.share_equal_to_english, where),
        passage=None if columns.passage is None else _text(row, columns.passage, where),
    )


def _cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    """The value of a column that must exist; it may be null."""
    if column not in row:
        raise RecordError(f"{where}: there is no column '{column}'; columns are {sorted(row)}")
    return row[column]


def _identifier(row: Mapping[str, Any], column: str, where: str) -> str:
    value = _cell(row, column, where)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise RecordError(f"{where}: {column} is {value!r}, expected a whole number or text")
    return _whole(str(value), column, where)


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    value = _cell(row, column, where)
    if not isinstance(value, str):
        raise RecordError(f"{where}: {column} is {value!r}, expected text")
    if not value.strip():
        raise RecordError(f"{where}: {column} is blank")
    return _whole(value, column, where)


def _optional_text(row: Mapping[str, Any], column: str | None, where: str) -> str | None:
    """The text of a column that may be missing, null or blank: then None."""
    value = None if column is None else row.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RecordError(f"{where}: {column} is {value!r}, expected text or null")
    return _whole(value, str(column), where) if value.strip() else None


def _optional_share(row: Mapping[str, Any], column: str | None, where: str) -> float | None:
    """A number in [0, 1], also written as text, in a column that may be missing or null: then None."""
    value = None if column is None else row.get(column)
    if value is None:
        return None
    try:
        share = float(value)
    except (TypeError, ValueError, OverflowError):
        share = -1.0
    if not 0 <= share <= 1:
        raise RecordError(f"{where}: {column} is {value!r}, expected a number in [0, 1]")
    return share


def _whole(value: str, column: str, where: str) -> str:
    """The text, unless it holds a lone surrogate: JSON can spell one, and no tokenizer accepts it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise RecordError(f"{where}: {column} holds half a character (the lone surrogate {half})") from None
    return value


def _options(row: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, ...] | None:
    """The options up to the first absent one, or None when they have a gap that skips the row.

    With a gap, the options can neither be closed up (letters and label would shift) nor shown.
    """
    fewest, most = columns.min_options, columns.max_options
    texts: list[str] = []
    for name, value in _option_cells(row, columns, where):
        if value is not None and not isinstance(value, str):
            raise RecordError(f"{where}: option {value!r} is not text")
        texts.append(_whole(value or "", name, where))
    filled = [_is_filled(text) for text in texts]
    count = filled.index(False) if False in filled else len(filled)
    if any(filled[count:]) or (fewest == most and count < most):
        if columns.skip_gaps:
            return None
        raise RecordError(f"{where}: option number {count + 1} is absent")
    if not fewest <= count <= most:
        expected = f"{fewest} to {most}" if fewest < most else str(most)
        raise RecordError(f"{where}: has {count} options, expected {expected}")
    return tuple(texts[:count])


def _option_cells(row: Mapping[str, Any], columns: Columns, where: str) -> list[tuple[str, Any]]:
    """(column, value) of each option, from separate columns or from one column that holds a list."""
    names = columns.options
    if len(names) == 1:
        values = _cell(row, names[0], where)
        if not isinstance(values, list):
            raise RecordError(f"{where}: {names[0]} is {values!r}, expected a list of options")
        return [(names[0], value) for value in values]
    # the columns of options that every row has must exist; local files may leave out others
    for name in names[: columns.min_options]:
        _cell(row, name, where)
    unit = "([A-Za-z]|[0-9]+)"  # that tells one option's column from the next: option_a, option_0
    alike = re.compile(re.escape(re.sub(f"{unit}$", "", names[-1])) + unit)
    for name in row:
        if name not in names and alike.fullmatch(name) and _is_filled(row[name]):
            raise RecordError(f"{where}: {name} is filled; options are read up to {names[-1]}")
    return [(name, row.get(name)) for name in names]


def _is_filled(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def _label(row: Mapping[str, Any], columns: Columns, options: Sequence[str], where: str) -> int:
    """The index of the right option, from the answer's column."""
    answer, count = _cell(row, columns.answer, where), len(options)
    forms = {"letter": LETTERS[:count], "index": range(count), "number": range(1, count + 1), "text": options}
    valid = [str(value) for value in forms[columns.answer_as]]
    written = str(answer) if type(answer) is int else answer  # a bool is not a number here
    if valid.count(written) != 1:
        raise RecordError(f"{where}: {columns.answer} is {answer!r}, expected one of {', '.join(valid)}")
    return valid.index(written)
