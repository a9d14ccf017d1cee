"""Values of a row: each form of options and answers, and a sentence with the place for what is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.items.item import Item
from evaluation.items.load import load_items
from evaluation.items.row import read_item
from study.benchmarks.definition import Columns, columns_of
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
    sentence = refused(of_rows(tmp_path, [row(0), row(1, **{column: HALF})]))
    begin = "sw.jsonl, split 'test', row 2: "
    assert sentence == f"{begin}{column} holds half a character (the lone surrogate \\ud83d)"


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
def test_a_row_whose_split_is_null_is_not_dropped(tmp_path: Path, suffix: str) -> None:
    sentence = refused(of_rows(tmp_path, [row(0), row(1, split="dev"), row(2, split=None)], suffix))
    assert sentence == f"sw.{suffix}, row 3: split is null; name it, or leave the column out"


def test_the_splits_of_a_file_are_listed(tmp_path: Path) -> None:
    sentence = refused(of_rows(tmp_path, [row(0), row(1, split="dev"), row(2)], split="validation"))
    assert sentence == "sw.jsonl: no rows in split 'validation'; the file has 'dev', 'test'"


PLAIN = Columns(["id"], "question", ["a", "b", "c"], "gold", "letter")


def read(columns: Columns, **changes: Any) -> Item | None:
    row = {"id": 1, "question": "q", "a": "x", "b": "y", "c": "z", "gold": "B", "choices": ["x", "y", "z"]}
    return read_item({**row, **changes}, columns, "here")


def wrong(columns: Columns, **changes: Any) -> str:
    with pytest.raises(RecordError) as caught:
        read(columns, **changes)
    return str(caught.value).removeprefix("here: ")


@pytest.mark.parametrize(
    ("answer_as", "right", "mistakes", "expected"),
    [
        ("letter", ["B"], ["b", "D", 1, None], "one of A, B, C"),
        ("index", [1, "1"], [3, "3", "B", -1, 1.0, True, None], "one of 0, 1, 2"),
        ("number", [2, "2"], [0, 4, "0", "B", None], "one of 1, 2, 3"),
        ("text", ["y"], ["w", "Y", "B", 1, None], "one of x, y, z"),
    ],
)
@pytest.mark.parametrize("options", [["a", "b", "c"], ["choices"]])
def test_an_answer_is_a_letter_an_index_a_number_or_a_text(
    answer_as: str, right: list[Any], mistakes: list[Any], expected: str, options: list[str]
) -> None:
    columns = dataclasses.replace(PLAIN, answer_as=answer_as, options=options)
    for gold in right:
        assert read(columns, gold=gold) == Item("1", "all", "q", ("x", "y", "z"), 1)
    for gold in mistakes:
        assert wrong(columns, gold=gold) == f"gold is {gold!r}, expected {expected}"


def test_an_answer_that_is_the_text_of_two_options_is_refused() -> None:
    columns = dataclasses.replace(PLAIN, answer_as="text")
    assert wrong(columns, gold="x", b="x") == "gold is 'x', expected one of x, x, z"


def test_options_in_a_list() -> None:
    columns = dataclasses.replace(PLAIN, options=["choices"], max_options=3)
    two = read(columns, choices=["x", "y", None, " "])
    assert two is not None
    assert two.options == ("x", "y")
    assert wrong(columns, choices="xyz") == "choices is 'xyz', expected a list of options"
    assert wrong(columns, choices=["x"], gold="A") == "has 1 options, expected 2 to 3"
    assert wrong(columns, choices=list("wxyz")) == "has 4 options, expected 2 to 3"
    assert wrong(columns, choices=["x", 2]) == "option 2 is not text"
    assert wrong(columns, choices=[*"abcdefghijk", None, "m"]) == "option number 12 is absent"


def test_a_gap_skips_a_row_only_where_the_columns_say_so() -> None:
    exact = dataclasses.replace(PLAIN, min_options=3)
    assert wrong(PLAIN, b=None) == wrong(exact, b=" ") == "option number 2 is absent"
    assert wrong(exact, c=None) == "option number 3 is absent"
    for columns, gap in ((PLAIN, {"b": None}), (exact, {"b": None}), (exact, {"c": None})):
        assert read(dataclasses.replace(columns, skip_gaps=True), **gap) is None
    shorter = read(PLAIN, c=None)
    assert shorter is not None
    assert shorter.options == ("x", "y")
    skipping = dataclasses.replace(PLAIN, skip_gaps=True)
    assert wrong(skipping, b=None, c=None) == "has 1 options, expected 2 to 3"


def test_an_option_in_a_column_that_is_not_read_is_refused() -> None:
    for options, more in ((["a", "b", "c"], "d"), (["o1", "o2", "o3"], "o4")):
        filled = dict(zip(options, "xyz", strict=True))
        said = wrong(dataclasses.replace(PLAIN, options=options), **filled, **{more: "w"})
        assert said == f"{more} is filled; options are read up to {options[-1]}"


def test_an_id_of_several_columns_and_a_passage() -> None:
    columns = dataclasses.replace(PLAIN, id=["link", "number"], passage="text", subject="topic")
    given = {"link": "https://x", "number": 3, "text": " p ", "topic": "law"}
    assert read(columns, **given) == Item("https://x/3", "law", "q", ("x", "y", "z"), 1, passage=" p ")
    assert wrong(columns, **{**given, "text": " "}) == "text is blank"
    assert wrong(columns, **{**given, "number": None}) == "number is None, expected a whole number or text"
