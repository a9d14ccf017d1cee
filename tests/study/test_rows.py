"""study/rows.py: both formats, and what is wrong where."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.errors import RecordError
from study.rows import read_rows

ROWS: list[dict[str, Any]] = [{"a": "ä", "b": [1, 2]}, {"a": None, "b": []}]


def test_both_formats_give_the_same_rows(tmp_path: Path) -> None:
    parquet, lines = tmp_path / "x.parquet", tmp_path / "x.jsonl"
    pq.write_table(pa.Table.from_pylist(ROWS), parquet)
    lines.write_text('{"a": "ä", "b": [1, 2]}\n\n{"a": null, "b": []}\n', encoding="utf-8")
    assert read_rows(parquet) == read_rows(lines) == ROWS


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"a": 1}\n{"a": \n', r"x\.jsonl, line 2: not valid JSON"),
        (b'{"a": 1}\n[1]\n', r"x\.jsonl, line 2: not a JSON object"),
        (b"\xff\xfe{", r"x\.jsonl: not UTF-8"),
    ],
)
def test_what_is_not_rows_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    with pytest.raises(RecordError, match=sentence):
        read_rows(file)


def test_torn_parquet(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1 torn")
    with pytest.raises(RecordError, match=r"x\.parquet: not readable as Parquet"):
        read_rows(file)


def test_a_damaged_page_of_parquet(tmp_path: Path) -> None:
    """The end of the file, which is read first, is whole; the rows are not."""
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [f"{i} {i * i}" for i in range(1000)]}), file)
    content = bytearray(file.read_bytes())
    content[40:1040] = bytes(1000)
    file.write_bytes(content)
    assert pq.ParquetFile(file).metadata.num_rows == 1000
    with pytest.raises(RecordError, match=r"x\.parquet: not readable as Parquet \("):
        read_rows(file)


def test_a_text_of_parquet_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["find me"]}), file, compression="none", use_dictionary=False)
    file.write_bytes(file.read_bytes().replace(b"find me", b"find \xff\xff"))
    with pytest.raises(RecordError, match=r"x\.parquet: not readable as Parquet \("):
        read_rows(file)
