"""Rows that would be lost, or fail where nobody can tell why: one sentence with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.items.load import load_items
from evaluation.items.row import read_item
from study.benchmarks.definition import columns_of
from study.errors import JobError, RecordError
from study.jobs.specs import Benchmark, Source
from study.rows import Row

HALF = "x\ud83d y"


def row(number: int, **changes: Any) -> Row:
    return {
        "sample_id": f"s/{number}",
        "subject": "s",
        "question": f"What is {number}?",
        **{f"option_{k}": k for k in "abcd"},
        "answer": "B",
        "split": "test",
        **changes,
    }


def of_rows(folder: Path, rows: list[Row], suffix: str = "jsonl", split: str = "test") -> Benchmark:
    file = folder / f"sw.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return Benchmark("b", Source("local", str(folder), "0" * 16), "global_mmlu", split)


def refused(benchmark: Benchmark) -> str:
    with pytest.raises((JobError, RecordError)) as caught:
        load_items(benchmark, "sw")
    return str(caught.value).removeprefix(f"{benchmark.source.name}/")


@pytest.mark.parametrize("column", ["sample_id", "subject", "question", "option_c", "subject_category"])
def test_half_a_character_is_refused(tmp_path: Path, column: str) -> None:
    told = refused(of_rows(tmp_path, [row(0), row(1, **{column: HALF})]))
    begin = "sw.jsonl, split 'test', row 2: "
    assert told == f"{begin}{column} holds half a character (the lone surrogate \\ud83d)"


@pytest.mark.parametrize("line", ["[" * 100_000, '{"sample_id": ' + "9" * 5000 + "}"], ids=["deep", "long"])
def test_json_that_python_does_not_read_is_refused(tmp_path: Path, line: str) -> None:
    benchmark = of_rows(tmp_path, [row(0)])
    with (tmp_path / "sw.jsonl").open("a") as stream:
        stream.write(line)
    assert refused(benchmark).startswith("sw.jsonl, line 2: not readable as JSON (")


def test_whole_characters_beyond_the_first_plane_are_read(tmp_path: Path) -> None:
    """JSON spells them as two surrogates."""
    (item,) = load_items(of_rows(tmp_path, [row(0, question="x😀")]), "sw")
    assert item.question == "x😀"


def test_half_a_character_in_a_question_id_is_refused() -> None:
    with pytest.raises(RecordError, match="here: question_id holds half a character"):
        read_item({"question_id": HALF}, columns_of("mmlu_prox"), "here")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_row_that_does_not_tell_its_split_is_not_dropped(tmp_path: Path, suffix: str) -> None:
    told = refused(of_rows(tmp_path, [row(0), row(1, split="dev"), row(2, split=None)], suffix))
    assert told == f"sw.{suffix}, row 3: split is null; name it, or leave the column out"


def test_the_splits_of_a_file_are_listed(tmp_path: Path) -> None:
    told = refused(of_rows(tmp_path, [row(0), row(1, split="dev"), row(2)], split="validation"))
    assert told == "sw.jsonl: no rows in split 'validation'; the file has 'dev', 'test'"
