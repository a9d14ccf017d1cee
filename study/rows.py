"""Rows of local data files, JSONL or Parquet: training data and benchmarks are read by one reader."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import RecordError

Row: TypeAlias = Mapping[str, Any]


def read_rows(file: Path) -> list[Row]:
    """All rows of a .parquet file, or of a .jsonl file with one object a line; blank lines do not count.

    Raises RecordError naming the file, and the line of what is not JSON.
    """
    if file.suffix == ".parquet":
        with reading_parquet(file):
            return list(pq.read_table(file).to_pylist())
    rows: list[Row] = []
    try:
        with file.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    rows.append(parse_line(line, f"{file}, line {number}"))
    except UnicodeDecodeError as error:
        raise RecordError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from None
    return rows


@contextmanager
def reading_parquet(file: Path) -> Iterator[None]:
    """Raise RecordError, which names the file, for what pyarrow raises: a torn file, a page, a text in it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{file}: not readable as Parquet ({' '.join(str(error).split())})") from None


def parse_line(line: str, where: str) -> Row:
    """A line of a .jsonl file; raises RecordError, which begins with `where`, for anything but an object."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise RecordError(f"{where}: not readable as JSON ({str(error).partition(';')[0]})") from None
    if not isinstance(row, dict):
        raise RecordError(f"{where}: not a JSON object")
    return row
