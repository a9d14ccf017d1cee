"""How a table that was written differs from the one that the records give.

Tables in full precision are compared field by field, rows by their keys; those for people line by line.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from study.errors import RecordError

TOLERANCE = 1e-12
"""For numbers: another machine's exp may differ in its last place."""
SEARCHED = (
    *("temperature", "confidence_after", "ece_after", "ece_floor_after", "nll_after", "ece_change"),
    *("nll_change", "nll_change_low", "nll_change_high", "temperature_label_free", "ece_after_label_free"),
)
"""Columns that follow from a T, whose search ends within 1e-10 of the best one."""
SEARCH_TOLERANCE = 1e-9
P_VALUES = ("p_value", "holm", "false_discovery", "equivalence")
P_TOLERANCE = 1e-9
"""Relative: 1e-13 and 1e-40 are not the same."""
ROOT = "ece_l2"
"""How metrics begin that are roots: of a square of 0 that is off by 1e-17 the root is off by 3e-9."""
ROOT_TOLERANCE = math.sqrt(TOLERANCE)
"""For what changes with the difference of two such roots."""
EXACT = ("job_ids", "job_ids_a", "job_ids_b", "record_hash", "record_hash_a", "record_hash_b")
"""Columns whose fields are text, also where they look like numbers."""


def differences(suffix: str, content: bytes, expected: str, *, note: Sequence[str], again: str) -> list[str]:
    """A sentence for each difference of a file.

    suffix: that of its name. expected: its text, for Parquet that of the CSV with the same rows; empty if the
    study has no such table. note: what tables for people say in this version, in any of these forms.
    again: how to write the file again.
    """
    if not expected:
        return [f"belongs to an earlier plan or version, the records give no such table; {again}"]
    try:
        if suffix == ".csv":
            rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
            return list(compare_rows(rows, expected, again))
        if suffix == ".parquet":
            return list(compare_rows(_from_parquet(content), expected, again))
        text = content.decode("utf-8")
    except (RecordError, UnicodeDecodeError, csv.Error) as error:
        return [f"is not a table ({error})"]
    if not any(form in text for form in note) and any(form in expected for form in note):
        return [f"was written by another version, or has another note; {again}"]
    return list(_compare_lines(text, expected))


def num_rows(expected: str) -> int:
    """The number of rows of a table as CSV."""
    return sum(1 for _ in csv.reader(io.StringIO(expected, newline=""))) - 1


def key_columns(columns: Sequence[str]) -> list[str]:
    """The columns that say what a row is about: all before `missing` but the number of seeds."""
    return [name for name in columns[: columns.index("missing")] if name != "num_seeds"]


def _from_parquet(content: bytes) -> Iterator[list[str]]:
    """The header and the rows as the CSV has them. Raises RecordError if the content is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # no threads: one that still holds Python's bytes as the interpreter ends aborts the process
        table = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise RecordError(str(error).splitlines()[0]) from None
    yield table.column_names
    for row in table.to_pylist():
        yield [
            "" if value is None else " ".join(value) if isinstance(value, list) else str(value)
            for value in row.values()
        ]


def compare_rows(table: Iterator[list[str]], expected: str, again: str) -> Iterator[str]:
    """The differences between two tables, whatever the order of their rows.

    table: the header, then the rows. Only rows that are not equal in the same place stay in memory: a study
    has many slices. Raises RecordError for a row with more or fewer fields than the header.
    """
    given = csv.reader(io.StringIO(expected, newline=""))
    header, columns = next(table, []), next(given)
    if header != columns:
        yield f"was written by another version ({_columns_text(header, columns)}); {again}"
        return
    keys = [columns.index(name) for name in key_columns(columns)]
    metric = columns.index("metric") if "metric" in columns else None
    written: list[list[str]] = []
    left: dict[tuple[str | float, ...], list[str]] = {}
    for number, (row, truth) in enumerate(zip_longest(table, given), start=1):
        if row is not None and len(row) != len(columns):
            raise RecordError(f"row {number} has {len(row)} fields, the header {len(columns)}")
        if row == truth:
            continue
        if row is not None:
            written.append(row)
        if truth is not None:
            left[_key(truth, keys)] = truth
    for row in written:
        expected_row = left.pop(_key(row, keys), None)
        if expected_row is None:
            yield f"{_name(row, columns, keys)}: is not a row of this study, or occurs twice"
            continue
        wrong = [
            f"{column} is {field or 'empty'}, the records give {truth or 'none'}"
            for column, field, truth in zip(columns, row, expected_row, strict=True)
            if not same(field, truth, column, "" if metric is None else row[metric])
        ]
        if wrong:
            yield f"{_name(row, columns, keys)}: {'; '.join(wrong)}"
    for row in left.values():
        yield f"{_name(row, columns, keys)}: the row is missing"


def _columns_text(header: Sequence[str], columns: Sequence[str]) -> str:
    lacking = [name for name in columns if name not in header]
    foreign = [name for name in header if name not in columns]
    parts = [
        f"{word} the columns {', '.join(names)}"
        for word, names in (("lacks", lacking), ("has", foreign))
        if names
    ]
    return "; ".join(parts) or "its columns are in another order"


def _key(row: Sequence[str], keys: Sequence[int]) -> tuple[str | float, ...]:
    return tuple(row[place] if (number := _number(row[place])) is None else number for place in keys)


def _name(row: Sequence[str], columns: Sequence[str], keys: Sequence[int]) -> str:
    return " ".join(f"{columns[place]}={row[place]}" for place in keys if row[place] not in ("", "none"))


def same(field: str, truth: str, column: str, metric: str = "") -> bool:
    """Whether two fields of a column are equal but for the last places of numbers.

    metric: that of the row, in tables with a row per metric.
    """
    if field == truth or column in EXACT:
        return field == truth
    a, b = _number(field), _number(truth)
    if a is None or b is None:
        return False
    if column.startswith(ROOT):
        return math.isclose(a * abs(a), b * abs(b), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if metric.startswith(ROOT) and column in ("value", "low", "high", "equivalence"):
        return math.isclose(a, b, abs_tol=ROOT_TOLERANCE)
    if column in P_VALUES:
        return math.isclose(a, b, rel_tol=P_TOLERANCE, abs_tol=1e-300)
    tolerance = SEARCH_TOLERANCE if column in SEARCHED else TOLERANCE
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _compare_lines(text: str, expected: str) -> Iterator[str]:
    lines = zip_longest(text.splitlines(), expected.splitlines())
    for number, pair in enumerate(lines, start=1):
        if pair[0] != pair[1]:
            line, truth = ("nothing" if line is None else f"'{line}'" for line in pair)
            yield f"line {number} is {line}, the records give {truth}"
