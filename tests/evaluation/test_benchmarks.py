"""Rows to items: hand-written files with each benchmark's own columns."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.items.item import Item
from evaluation.items.load import load_items, load_split
from evaluation.items.row import read_item
from evaluation.items.table import items_table
from study.benchmarks.definition import columns_of
from study.errors import JobError, RecordError, UserError
from study.grid.sources import embedded_source
from study.jobs.specs import Benchmark, Source

FIXTURES = Path(__file__).parent / "fixtures"


def local(folder: Path, schema: str, split: str = "test", num_items: int | None = None) -> Benchmark:
    return Benchmark(schema, Source("local", str(folder), "0" * 16), schema, split, num_items)


def rows_of(schema: str, language: str) -> list[dict[str, Any]]:
    lines = (FIXTURES / schema / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_rows(folder: Path, language: str, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{language}.jsonl").write_text(text, encoding="utf-8")


def test_global_mmlu_rows_become_items() -> None:
    items = load_items(local(FIXTURES / "global_mmlu", "global_mmlu"), "sw")
    assert [item.example_id for item in items] == [
        "abstract_algebra/test/0",
        "geography/test/0",
        "biology/test/0",
    ]
    assert items[0] == Item(
        "abstract_algebra/test/0", "abstract_algebra", "2 + 3 ni ngapi?", ("4", "5", "6", "7"), 1, "STEM"
    )
    assert [item.cultural_sensitivity for item in items] == [None, "CS", "CA"]


def test_a_split_is_chosen_and_cut_to_the_first_items() -> None:
    folder = FIXTURES / "global_mmlu"
    (dev,) = load_items(local(folder, "global_mmlu", split="dev"), "sw")
    assert dev.example_id == "geography/dev/0"
    first = load_items(local(folder, "global_mmlu", num_items=2), "en")
    assert [item.subject for item in first] == ["abstract_algebra", "geography"]


def test_mmlu_prox_rows_become_items_and_the_gap_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split = load_split(local(FIXTURES / "mmlu_prox", "mmlu_prox"), "zh")
    assert [item.example_id for item in split.items] == ["70", "71", "72"]
    assert [len(item.options) for item in split.items] == [3, 10, 5]
    assert [item.label for item in split.items] == [1, 9, 1]
    assert split.items[0].subject == "math"
    assert split.num_skipped == 1
    assert "1 rows skipped" in caplog.text
    assert "[3]" in caplog.text


def test_a_skipped_row_counts_towards_the_first_n_so_that_languages_stay_parallel() -> None:
    split = load_split(local(FIXTURES / "mmlu_prox", "mmlu_prox", num_items=3), "zh")
    assert [item.example_id for item in split.items] == ["70", "71"]
    assert split.num_skipped == 1


@pytest.mark.parametrize(("schema", "language"), [("global_mmlu", "sw"), ("mmlu_prox", "zh")])
def test_parquet_and_jsonl_give_the_same_items(tmp_path: Path, schema: str, language: str) -> None:
    table = pa.Table.from_pylist(rows_of(schema, language))
    pq.write_table(table, tmp_path / f"{language}.parquet")
    expected = load_items(local(FIXTURES / schema, schema), language)
    assert load_items(local(tmp_path, schema), language) == expected


@pytest.mark.parametrize(
    ("schema", "language", "change", "message"),
    [
        ("global_mmlu", "sw", {"answer": "E"}, "answer is 'E', expected one of A, B, C, D"),
        ("global_mmlu", "sw", {"answer": "AB"}, "answer is 'AB'"),
        ("global_mmlu", "sw", {"answer": ""}, "answer is ''"),
        ("global_mmlu", "sw", {"answer": None}, "answer is None"),
        ("global_mmlu", "sw", {"sample_id": None}, "sample_id is None, expected a whole number or text"),
        ("global_mmlu", "sw", {"option_b": 5}, "option 5 is not text"),
        ("global_mmlu", "sw", {"question": None}, "question is None, expected text"),
        ("global_mmlu", "sw", {"question": " \n"}, "question is blank"),
        ("global_mmlu", "sw", {"subject": ""}, "subject is blank"),
        ("global_mmlu", "sw", {"subject_category": 3}, "subject_category is 3, expected text or null"),
        ("global_mmlu", "sw", {"share_equal_to_english": "1.2"}, "expected a number in"),
        ("global_mmlu", "sw", {"share_equal_to_english": "much"}, "is 'much', expected a number in"),
        ("global_mmlu", "sw", {"share_equal_to_english": float("nan")}, "is nan, expected a number in"),
        ("mmlu_prox", "zh", {"answer": "D", "answer_index": 3}, "answer is 'D', expected one of A, B, C"),
        ("mmlu_prox", "zh", {"answer_index": 2}, "answer is B but answer_index is 2"),
        ("mmlu_prox", "zh", {"option_1": None, "option_2": None}, "has 1 options"),
        ("mmlu_prox", "zh", {"question_id": 1.0}, "question_id is 1.0, expected a whole number or text"),
        ("mmlu_prox", "zh", {"question_id": ""}, "question_id is '', expected a whole number or text"),
        ("mmlu_prox", "zh", {"option_10": "x"}, "option_10 is filled; options are read up to option_9"),
        ("mmlu_prox", "zh", {"option_23": 5}, "option_23 is filled"),
        ("global_mmlu", "sw", {"option_e": "x"}, "option_e is filled; options are read up to option_d"),
        ("global_mmlu", "sw", {"share_equal_to_english": 10**400}, "expected a number in"),
        ("mmlu_prox", "zh", {"question": None}, "question is None, expected text"),
        ("mmlu_prox", "zh", {"question": "  "}, "question is blank"),
    ],
)
def test_a_bad_value_names_file_and_row(
    tmp_path: Path, schema: str, language: str, change: dict[str, Any], message: str
) -> None:
    rows = rows_of(schema, language)
    write_rows(tmp_path, language, [rows[1], {**rows[0], **change}])
    with pytest.raises(RecordError, match=message) as caught:
        load_items(local(tmp_path, schema), language)
    assert str(caught.value).startswith(f"{tmp_path / f'{language}.jsonl'}, split 'test', row 2: ")


READ_COLUMNS = {
    "global_mmlu": "sample_id subject question option_a option_b option_c option_d answer".split(),
    "mmlu_prox": "question_id question category option_0 option_1 answer answer_index".split(),
}


@pytest.mark.parametrize(
    ("schema", "column"), [(schema, column) for schema, columns in READ_COLUMNS.items() for column in columns]
)
def test_a_missing_column_is_named(schema: str, column: str) -> None:
    row = rows_of(schema, {"global_mmlu": "sw", "mmlu_prox": "zh"}[schema])[0]
    del row[column]
    with pytest.raises(RecordError, match=f"here: there is no column '{column}'"):
        read_item(row, columns_of(schema), "here")


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 10), st.floats(), st.text(max_size=3), st.just([]),
    st.sampled_from([*"ABCDEFGHIJ", "x", "0.5"]),
)  # fmt: skip


@pytest.mark.parametrize("schema", READ_COLUMNS)
@given(data=st.data())
def test_any_row_is_an_item_a_gap_or_one_sentence(schema: str, data: st.DataObject) -> None:
    """A good row with a few cells replaced or removed."""
    language = {"global_mmlu": "sw", "mmlu_prox": "zh"}[schema]
    row = dict(data.draw(st.sampled_from(rows_of(schema, language))))
    for column in data.draw(st.lists(st.sampled_from([*row, "share_equal_to_english"]), max_size=4)):
        if data.draw(st.booleans()):
            row[column] = data.draw(CELLS)
        else:
            row.pop(column, None)
    item, said = None, ""
    try:
        item = read_item(row, columns_of(schema), "here")
    except RecordError as error:
        said = str(error)
    if item is not None:
        assert item.example_id
        assert item.subject.strip()
        assert item.question.strip()
        assert all(option.strip() for option in item.options)
        assert 2 <= len(item.options) <= 10
        assert "ABCDEFGHIJ"[item.label] == row["answer"]
        assert item.label < len(item.options)
        share = item.share_equal_to_english
        assert share is None or 0 <= share <= 1
    elif said:
        assert said.startswith("here: ")
        assert "\n" not in said


def test_columns_of_absent_options_may_be_left_out() -> None:
    """Two options in a user's own file: XCOPA in MMLU-ProX's columns."""
    row = {
        "question_id": "test-0", "question": "Why?", "option_0": "So.", "option_1": "Thus.",
        "answer": "B", "answer_index": 1, "category": "cause",
    }  # fmt: skip
    item = read_item(row, columns_of("mmlu_prox"), "here")
    assert item is not None
    assert (item.options, item.label) == (("So.", "Thus."), 1)


def test_a_global_mmlu_row_without_four_options_is_skipped(tmp_path: Path) -> None:
    rows = rows_of("global_mmlu", "sw")
    write_rows(tmp_path, "sw", [{**rows[0], "option_d": None}, rows[1]])
    split = load_split(local(tmp_path, "global_mmlu"), "sw")
    assert (len(split.items), split.num_skipped) == (1, 1)


def test_doubled_ids_empty_splits_and_missing_files_are_reported(tmp_path: Path) -> None:
    row = rows_of("global_mmlu", "sw")[0]
    write_rows(tmp_path, "sw", [row, row])
    with pytest.raises(RecordError, match="id 'abstract_algebra/test/0' occurs a second time"):
        load_items(local(tmp_path, "global_mmlu"), "sw")
    with pytest.raises(JobError, match=r"sw\.jsonl: no rows in split 'validation'"):
        load_items(local(tmp_path, "global_mmlu", split="validation"), "sw")
    with pytest.raises(JobError, match=r"yo\.parquet and yo\.jsonl: neither exists; valid: sw"):
        load_items(local(tmp_path, "global_mmlu"), "yo")
    with pytest.raises(JobError, match=r"neither exists; did you mean 'sw'\?"):
        load_items(local(tmp_path, "global_mmlu"), "swa")
    shutil.copy(tmp_path / "sw.jsonl", tmp_path / "sw.parquet")
    with pytest.raises(JobError, match="both exist"):
        load_items(local(tmp_path, "global_mmlu"), "sw")
    (tmp_path / "sw.jsonl").unlink()
    with pytest.raises(RecordError, match="not readable as Parquet"):
        load_items(local(tmp_path, "global_mmlu"), "sw")
    (tmp_path / "sw.parquet").unlink()
    (tmp_path / "sw.jsonl").write_text("\n")
    with pytest.raises(RecordError, match=r"sw\.jsonl: holds no rows"):
        load_items(local(tmp_path, "global_mmlu"), "sw")
    (tmp_path / "sw.jsonl").write_bytes('{"question": "où"}'.encode("latin-1"))
    with pytest.raises(RecordError, match=r"sw\.jsonl: not UTF-8"):
        load_items(local(tmp_path, "global_mmlu"), "sw")
    (tmp_path / "en.jsonl").write_text("{}\n{not json\n")
    with pytest.raises(RecordError, match="line 2: not valid JSON"):
        load_items(local(tmp_path, "global_mmlu"), "en")


def test_rows_without_a_split_column_are_one_split(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "split"} for row in rows_of("global_mmlu", "sw")]
    write_rows(tmp_path, "sw", rows)
    assert len(load_items(local(tmp_path, "global_mmlu"), "sw")) == len(rows)


def test_the_embedded_benchmark_is_parallel_over_languages() -> None:
    benchmark = Benchmark("cldr", embedded_source("cldr"), "global_mmlu", num_items=40)
    swahili, english = load_items(benchmark, "sw"), load_items(benchmark, "en")
    assert len(swahili) == 40
    assert [i.example_id for i in swahili] == [i.example_id for i in english]
    assert [i.label for i in swahili] == [i.label for i in english]
    with pytest.raises(JobError, match=r"no language 'swa'; did you mean 'sw'\?"):
        load_items(benchmark, "swa")


def test_the_columns_that_analysis_slices_by_may_be_missing_but_never_wrong() -> None:
    row, columns = rows_of("global_mmlu", "sw")[0], columns_of("global_mmlu")
    full = read_item({**row, "quality": "B", "share_equal_to_english": "0.25"}, columns, "here")
    assert full is not None
    assert (full.category, full.cultural_sensitivity) == ("STEM", None)
    assert (full.quality, full.share_equal_to_english) == ("B", 0.25)
    optional = ("subject_category", "cultural_sensitivity_label")
    bare = read_item({k: v for k, v in row.items() if k not in optional}, columns, "here")
    assert bare == Item(full.example_id, full.subject, full.question, full.options, full.label)
    absent = dict.fromkeys((*optional, "quality", "share_equal_to_english"))
    null = read_item({**row, **absent}, columns, "here")
    assert null == bare


def test_items_become_a_table_of_one_row_each() -> None:
    items = load_items(local(FIXTURES / "global_mmlu", "global_mmlu"), "sw")
    items += load_items(local(FIXTURES / "mmlu_prox", "mmlu_prox"), "zh")
    embedded = load_items(Benchmark("cldr", embedded_source("cldr"), "global_mmlu", num_items=1), "fil")
    table = items_table([*items, *embedded])
    assert table.column_names == [
        "example_id", "subject", "category", "cultural_sensitivity", "num_options", "quality",
        "share_equal_to_english", "question_characters",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert [list(row.values()) for row in rows[1:4]] == [
        ["geography/test/0", "geography", "Social Sciences", "CS", 4, None, None, 25],
        ["biology/test/0", "biology", "STEM", "CA", 4, None, None, 23],
        ["70", "math", None, None, 3, None, None, 7],
    ]
    assert rows[-1]["quality"] == "A"
    assert rows[-1]["share_equal_to_english"] in (0, 0.25, 0.5, 0.75, 1)
    assert table.schema.field("question_characters").type == pa.int32()
    assert items_table([]).schema == table.schema


def test_hub_rows_are_asked_for_by_config_split_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(rows_of("mmlu_prox", "zh"))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    benchmark = Benchmark("mmlu_prox", Source("hub", "li-lab/MMLU-ProX", "a" * 40), "mmlu_prox")
    assert [item.example_id for item in load_items(benchmark, "zh")] == ["70", "71", "72"]
    assert asked == [(("li-lab/MMLU-ProX", "zh"), {"split": "test", "revision": "a" * 40})]


def test_a_hub_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise ValueError("BuilderConfig 'xx' not found.\nAvailable: ...")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    benchmark = Benchmark("mmlu_prox", Source("hub", "li-lab/MMLU-ProX", "a" * 40), "mmlu_prox")
    with pytest.raises(JobError, match=r"cannot load li-lab/MMLU-ProX \(xx, test\) .* 'xx' not found\.;"):
        load_items(benchmark, "xx")
    with pytest.raises(JobError, match=r"found\.; did you mean 'sw'\?"):
        load_items(benchmark, "sww")


def test_rows_of_an_unknown_schema_are_refused() -> None:
    with pytest.raises(UserError, match="schema: 'belebele' is unknown; valid: global_mmlu, mmlu_prox"):
        load_items(local(FIXTURES / "global_mmlu", "belebele"), "sw")
