"""Do the tables of a study follow from its records? Each is computed again and compared, field by field."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from analysis.aggregate import load_study
from analysis.tables import FORMATS, Row, Table, study_tables, table_path
from study.errors import RecordError, UserError

TOLERANCE = 1e-12
"""Absolute: another machine's exp may differ in its last place."""

EXACT = ("job_ids", "job_ids_a", "job_ids_b", "record_hash")

TextRow = Mapping[str, str]


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong."""

    files: tuple[Path, ...]
    num_rows: int
    """Of the tables, as the records give them."""
    num_shards: int
    num_missing: int
    """Shards that are not done, or failed: their rows are marked, which is no difference."""
    num_refused: int
    """Shards that are done, with records that cannot be used."""
    differences: tuple[str, ...]
    """A sentence for each row of a file that the records do not give, naming its cell."""
    refused: tuple[str, ...]
    """A sentence for each shard refused, naming its file."""

    @property
    def is_right(self) -> bool:
        return not self.differences and not self.refused


def verify(study_dir: Path) -> Verification:
    """Compare the tables that were written, in every format, with the records.

    Raises UserError where the folder is not a study or has no tables.
    """
    study = load_study(study_dir)
    tables = study_tables(study)
    files = [
        (path, name, table)
        for table in tables
        for name in FORMATS
        if (path := table_path(study_dir, table.name, name)).is_file()
    ]
    if not files:
        raise UserError(
            "has no tables to verify",
            where=str(study_dir),
            remedy=f"write them: python -m analysis tables {study_dir}",
        )
    differences = [
        f"{path.name}: {difference}"
        for path, name, table in files
        for difference in _differences(name, path.read_bytes(), table)
    ]
    refused = [shard for shard in study.missing if shard.is_refused]
    return Verification(
        files=tuple(path for path, _, _ in files),
        num_rows=sum(len(table.rows) for table in tables),
        num_shards=len(study.shards),
        num_missing=len(study.missing) - len(refused),
        num_refused=len(refused),
        differences=tuple(differences),
        refused=tuple(str(shard.missing) for shard in refused),
    )


def _differences(name: str, content: bytes, table: Table) -> Iterator[str]:
    try:
        if name in READERS:
            yield from _compare_rows(READERS[name](content), table)
        else:
            rendered = FORMATS[name][1](table)
            assert isinstance(rendered, str)
            yield from _compare_lines(content.decode("utf-8"), rendered)
    except (RecordError, UnicodeDecodeError, csv.Error) as error:
        yield f"is not a table ({error})"


def _from_csv(content: bytes) -> list[TextRow]:
    """Raises RecordError for a row with more or fewer fields than the header."""
    header, *lines = [*csv.reader(io.StringIO(content.decode("utf-8"), newline=""))] or [[]]
    for number, fields in enumerate(lines, start=1):
        if len(fields) != len(header):
            raise RecordError(f"row {number} has {len(fields)} fields, the header {len(header)}")
    return [dict(zip(header, fields, strict=True)) for fields in lines]


def _from_parquet(content: bytes) -> list[TextRow]:
    """Raises RecordError where it is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise RecordError(str(error).splitlines()[0]) from None
    return [_as_text(row) for row in table.to_pylist()]


READERS: dict[str, Callable[[bytes], list[TextRow]]] = {"csv": _from_csv, "parquet": _from_parquet}
"""The formats in full precision. The others are compared as text."""


def _as_text(row: Row) -> TextRow:
    """As the CSV has it: missing is empty, job ids are separated by spaces."""
    return {
        name: "" if value is None else " ".join(value) if isinstance(value, list) else str(value)
        for name, value in row.items()
    }


def _compare_rows(found: Sequence[TextRow], table: Table) -> Iterator[str]:
    columns, keys = list(table.columns), table.keys
    if found and list(found[0]) != columns:
        yield f"has the columns {', '.join(found[0])}; the records give {', '.join(columns)}"
        return
    left = {_key(row, keys): row for row in map(_as_text, table.rows)}
    for row in found:
        truth = left.pop(_key(row, keys), None)
        if truth is None:
            yield f"{_cell(row, keys)}: is not a row of this study, or there twice"
            continue
        wrong = [
            f"{column} is {row[column] or 'empty'}, the records give {truth[column] or 'none'}"
            for column in columns
            if not _same(row[column], truth[column], exactly=column in EXACT)
        ]
        if wrong:
            yield f"{_cell(row, keys)}: {'; '.join(wrong)}"
    for row in left.values():
        yield f"{_cell(row, keys)}: the row is missing"


def _key(row: TextRow, keys: Sequence[str]) -> tuple[str | float, ...]:
    return tuple(row[name] if (number := _number(row[name])) is None else number for name in keys)


def _cell(row: TextRow, keys: Sequence[str]) -> str:
    return " ".join(f"{name}={row[name]}" for name in keys if row[name] not in ("", "none"))


def _same(one: str, other: str, *, exactly: bool) -> bool:
    if one == other or exactly:
        return one == other
    a, b = _number(one), _number(other)
    return a is not None and b is not None and abs(a - b) <= TOLERANCE


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _compare_lines(found: str, expected: str) -> Iterator[str]:
    lines = zip_longest(found.splitlines(), expected.splitlines())
    for number, (line, truth) in enumerate(lines, start=1):
        if line != truth:
            said, gives = ("nothing" if text is None else f"'{text}'" for text in (line, truth))
            yield f"line {number} is {said}, the records give {gives}"
