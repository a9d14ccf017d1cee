"""Rows of local data files, JSONL or Parquet: training data and benchmarks are read by one reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        try:
            return list(pq.read_table(file).to_pylist())
        except pa.ArrowInvalid as error:
            raise RecordError(f"{file}: not readable as Parquet ({error})") from None
    rows: list[Row] = []
    try:
        with file.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    rows.append(parse_line(line, f"{file}, line {number}"))
    except UnicodeDecodeError as error:
        raise RecordError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from None
    return rows


def parse_line(line: str, where: str) -> Row:
    """A line of a .jsonl file; raises RecordError, which begins with `where`, for anything but an object."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: not valid JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise RecordError(f"{where}: not a JSON object")
    return row
