"""training/data/rows.py: which rows a run trains on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.errors import JobError, RecordError
from study.grid.sources import embedded_source
from study.jobs.specs import Hyperparameters, Source
from tests.training.toys import fixture
from training.data import rows
from training.data.rows import open_rows

AYA = "ai2-adapt-dev/tulu_v3.9_aya_100k"
NUMBERED = [{"instruction": str(i), "output": "x", "source": "ab"[i % 2]} for i in range(50)]
Opener = Callable[[list[Any]], Source]


@pytest.fixture(params=["jsonl", "parquet", "hub"])
def opener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """A source of given rows, of each kind; read a few at a time, so that rows lie in several reads."""
    monkeypatch.setattr(rows, "READ_AT_ONCE", 7)

    def make(content: list[Any]) -> Source:
        if request.param == "hub":
            import datasets

            loaded = datasets.Dataset.from_list(content)
            monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_options: loaded)
            return Source("hub", "org/data", "0" * 12)
        file = tmp_path / f"rows.{request.param}"
        if request.param == "parquet":
            pq.write_table(pa.Table.from_pylist(content), file)
        else:
            file.write_text("\n\n".join(json.dumps(row) for row in content) + "\n", encoding="utf-8")
        return Source("local", str(file), "0" * 12)

    return make


def read(source: Source, **hyper: Any) -> list[Any]:
    return [row for _, row in open_rows(source, Hyperparameters(**hyper))]


def numbers(source: Source, **hyper: Any) -> list[int]:
    return [int(row["instruction"]) for row in read(source, **hyper)]


def test_all_rows_in_their_order(opener: Opener) -> None:
    found = open_rows(opener(NUMBERED), Hyperparameters())
    assert [row for _, row in found] == NUMBERED
    assert [row for _, row in found] == NUMBERED  # again
    assert (found.num_read, found.num_excluded, len(found)) == (50, 0, 50)


@pytest.mark.parametrize("name", ["tulu3", "openhermes"])
def test_nested_columns(opener: Opener, name: str) -> None:
    assert read(opener(fixture(name))) == fixture(name)


def test_sub_sampling_is_by_seed(opener: Opener) -> None:
    source = opener(NUMBERED)
    first = numbers(source, num_examples=10, seed=1)
    assert first == numbers(source, num_examples=10, seed=1)
    assert first != numbers(source, num_examples=10, seed=2)
    assert first == sorted(set(first))
    assert len(first) == 10
    assert numbers(source, num_examples=50, seed=1) == list(range(50))
    # as it always was: models that were trained so are made again from the same rows
    chosen = np.random.default_rng(1).choice(50, 10, replace=False)
    assert first == sorted(chosen.tolist())


def test_sources_are_left_out_before_sub_sampling(opener: Opener) -> None:
    source = opener(NUMBERED)
    found = open_rows(source, Hyperparameters(exclude_sources=("a",)))
    assert [int(row["instruction"]) for _, row in found] == list(range(1, 50, 2))
    assert (found.num_read, found.num_excluded, len(found)) == (50, 25, 25)
    drawn = numbers(source, exclude_sources=("a",), num_examples=20)
    assert len(drawn) == 20
    assert {number % 2 for number in drawn} == {1}


def test_aya_is_left_out(opener: Opener) -> None:
    assert [row["id"] for row in read(opener(fixture("tulu3")), exclude_sources=(AYA,))] == [
        "flan_v2_converted_0",
        "tulu_v3.9_wildchat_100k_2",
        "no_robots_converted_3",
        "oasst1_converted_5",
        "tulu_v3.9_wildchat_100k_6",
        "tulu_v3.9_wildchat_100k_7",
    ]


def test_a_row_of_no_source_stays(opener: Opener) -> None:
    left = read(opener(fixture("openhermes")), exclude_sources=("airoboros2.2", "CamelAI"))
    sources = [row["source"] for row in left]
    assert sources == ["glaive-code-assist", "UnnaturalInstructions", None, "lmsys1mchat"]


def test_a_slip_in_a_source_lets_nothing_in(opener: Opener) -> None:
    source = opener(fixture("tulu3"))
    with pytest.raises(JobError, match=rf"no row is of 'tulu_v3.9_aya_100k'; did you mean '{AYA}'\?$"):
        open_rows(source, Hyperparameters(exclude_sources=("tulu_v3.9_aya_100k",)))
    with pytest.raises(JobError, match=r"no row is of 'x'; valid: ai2-adapt-dev/flan_v2_converted, ai2"):
        open_rows(source, Hyperparameters(exclude_sources=(AYA, "x")))
    everything = tuple({row["source"] for row in fixture("tulu3")})
    with pytest.raises(JobError, match="leaves no row"):
        open_rows(source, Hyperparameters(exclude_sources=everything))
    with pytest.raises(JobError, match="needs a column 'source', and the rows have none"):
        open_rows(opener(fixture("tulu_stanford_alpaca")), Hyperparameters(exclude_sources=(AYA,)))


def test_embedded_rows_are_made_by_seed() -> None:
    source = embedded_source("cldr-instruct")
    assert len(read(source)) == 1000
    assert len(read(source, num_examples=30)) == 30
    assert read(source, num_examples=30) != read(source, num_examples=30, seed=1)
    with pytest.raises(JobError, match="needs a column 'source'"):
        open_rows(source, Hyperparameters(exclude_sources=("x",)))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    source = Source("local", str(file), "0" * 12)
    file.write_text('{"instruction": "1", "output": "x"}\n\n{broken')
    with pytest.raises(RecordError, match=r"rows\.jsonl, line 3: not valid JSON"):
        read(source)
    file.write_bytes(b'{"instruction": "\xff"}')
    with pytest.raises(RecordError, match=r"rows\.jsonl: not UTF-8"):
        read(source)
    file.write_text("\n")
    with pytest.raises(JobError, match="has no rows"):
        read(source)
    (tmp_path / "rows.parquet").write_text("no")
    with pytest.raises(RecordError, match=r"rows\.parquet: not readable as Parquet"):
        read(Source("local", str(tmp_path / "rows.parquet"), "0" * 12))


def test_rows_say_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    places = [where for where, _ in open_rows(Source("local", str(file), "0" * 12), Hyperparameters())]
    assert places == [f"{file}, line 2", f"{file}, line 4"]
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "rows.parquet")
    source = Source("local", str(tmp_path / "rows.parquet"), "0" * 12)
    (where, row), _ = open_rows(source, Hyperparameters(num_examples=2, seed=3))
    assert where == f"{tmp_path / 'rows.parquet'}, row {row['a'] - 1}"


@pytest.mark.parametrize(
    ("column", "hyper"), [("instruction", {}), ("source", {"exclude_sources": ("a",)})], ids=["row", "source"]
)
def test_a_damaged_page_is_told(tmp_path: Path, column: str, hyper: dict[str, Any]) -> None:
    """The end of the file, which is read first, is whole."""
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(NUMBERED), file)
    group = pq.ParquetFile(file).metadata.row_group(0)
    (page,) = (
        chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema == column
    )
    content = bytearray(file.read_bytes())
    begin, size = page.dictionary_page_offset, page.total_compressed_size
    content[begin : begin + size] = bytes(size)
    file.write_bytes(content)
    with pytest.raises(RecordError, match=r"rows\.parquet: not readable as Parquet \("):
        read(Source("local", str(file), "0" * 12), **hyper)
