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

READ_AT_ONCE = 1000
Row: TypeAlias = Mapping[str, Any]


def read_rows(file: Path) -> list[Row]:
    """All rows of a file, as `iterate_rows` gives them."""
    return list(iterate_rows(file))


def iterate_rows(file: Path) -> Iterator[Row]:
    """The rows of a .parquet file, or of a .jsonl file with one object per line, read as they are needed.

    Raises RecordError naming the file, and the line of what is not JSON.
    """
    if file.suffix == ".parquet":
        with reading_parquet(file):
            for batch in pq.ParquetFile(file).iter_batches(READ_AT_ONCE):
                yield from batch.to_pylist()
    else:
        yield from (parse_line(line, where) for where, line in lines(file))


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """(where it is, text) of each line of a .jsonl file that is not blank. Raises RecordError."""
    try:
        with file.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"{file}, line {number}", line
    except UnicodeDecodeError as error:
        raise RecordError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from None


@contextmanager
def reading_parquet(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a torn file, page or text into a RecordError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{file}: not readable as Parquet ({' '.join(str(error).split())})") from None


def parse_line(line: str, where: str) -> Row:
    """A line of a .jsonl file. Raises RecordError, which begins with `where`, for anything but an object."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise RecordError(f"{where}: not readable as JSON ({str(error).partition(';')[0]})") from None
    if not isinstance(row, dict):
        raise RecordError(f"{where}: not a JSON object")
    return row
