"""Prediction parts: the contract's columns, exact round trips, and every way in which parts are refused."""

from __future__ import annotations

import dataclasses
import struct
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.errors import RecordError
from study.records import Prediction, ShardInfo, part_range, parts, read_part, read_predictions, write_part

INFO = ShardInfo("0123456789abcdef", "org/model", "cldr", "sw", "test", "letter")
CONTRACT = {
    "example_id": pa.string(),
    "subject": pa.string(),
    "label": pa.int16(),
    "scores": pa.list_(pa.float32()),
    "option_mass": pa.float32(),
    "option_num_tokens": pa.list_(pa.int16()),
    "rotation": pa.int16(),
    "num_prompt_tokens": pa.int32(),
}


def prediction(name: str, **changes: object) -> Prediction:
    plain = Prediction(name, "geography", 1, [-1.5, -0.25], 0.75, None, 0, 40)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def some(*names: str) -> list[Prediction]:
    return [prediction(name) for name in names]


def test_columns_types_and_metadata_are_the_contracts(tmp_path: Path) -> None:
    path = write_part(tmp_path, 3, some("a", "b"), INFO)
    assert path.name == "part-000003-000005.parquet"
    schema = pq.read_schema(path)
    assert schema.names == list(CONTRACT)
    assert {
        field.name: field.type.value_type if pa.types.is_list(field.type) else field.type for field in schema
    } == {name: kind.value_type if pa.types.is_list(kind) else kind for name, kind in CONTRACT.items()}
    assert [field.name for field in schema if pa.types.is_list(field.type)] == ["scores", "option_num_tokens"]
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert metadata == {
        "schema_version": "1",
        "job_id": "0123456789abcdef",
        "model": "org/model",
        "benchmark": "cldr",
        "language": "sw",
        "split": "test",
        "protocol": "letter",
    }


def float32(value: float) -> float:
    number: float = struct.unpack("f", struct.pack("f", value))[0]
    return number


PREDICTIONS = st.lists(
    st.builds(
        Prediction,
        example_id=st.text(st.characters(codec="utf-8")),
        subject=st.text(st.characters(codec="utf-8")),
        label=st.integers(-(2**15), 2**15 - 1),
        scores=st.lists(st.floats(width=32, allow_nan=False), max_size=6),
        option_mass=st.none() | st.floats(0, 1, width=32),
        option_num_tokens=st.none() | st.lists(st.integers(0, 2**15 - 1), max_size=6),
        rotation=st.integers(0, 9),
        num_prompt_tokens=st.integers(0, 2**31 - 1),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda p: (p.example_id, p.rotation),
)


@settings(max_examples=60, deadline=None)
@given(predictions=PREDICTIONS, data=st.data())
def test_round_trip_in_parts(predictions: list[Prediction], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(predictions)))
    with tempfile.TemporaryDirectory() as name:
        write_part(Path(name), 0, predictions[:cut], INFO)
        if predictions[cut:]:
            write_part(Path(name), cut, predictions[cut:], INFO)
        table, info = read_predictions(Path(name))
    assert info == INFO
    assert [Prediction(**row) for row in table.to_pylist()] == predictions


def test_scores_are_rounded_to_float32_and_nothing_else(tmp_path: Path) -> None:
    scores = [-0.1, -1e-30, -123.456789, float("-inf")]
    write_part(tmp_path, 0, [prediction("a", scores=scores, option_mass=0.1)], INFO)
    (row,) = read_predictions(tmp_path)[0].to_pylist()
    assert row["scores"] == [float32(score) for score in scores]
    assert row["option_mass"] == float(np.float32(0.1))
    assert row["option_num_tokens"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"label": None},
        {"scores": None},
        {"scores": [None, -1.0]},
        {"example_id": None},
        {"rotation": None},
        {"num_prompt_tokens": None},
        {"option_num_tokens": [None]},
    ],
    ids=str,
)
def test_a_missing_value_is_refused_when_written(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises((pa.ArrowInvalid, RecordError)):
        write_part(tmp_path, 0, [prediction("a", **change)], INFO)
    assert not list(tmp_path.iterdir())


def refused(folder: Path) -> str:
    with pytest.raises(RecordError) as caught:
        read_predictions(folder)
    return str(caught.value).replace(str(folder), "")


def test_no_parts(tmp_path: Path) -> None:
    assert refused(tmp_path) == ": no prediction parts"
    assert refused(tmp_path / "none") == ": no prediction parts"


def test_a_gap(tmp_path: Path) -> None:
    write_part(tmp_path, 0, some("a"), INFO)
    write_part(tmp_path, 2, some("c"), INFO)
    assert refused(tmp_path) == "/part-000002-000003.parquet: follows a gap after item 1"


def test_a_missing_first_part(tmp_path: Path) -> None:
    write_part(tmp_path, 2, some("c"), INFO)
    assert refused(tmp_path) == "/part-000002-000003.parquet: follows a gap after item 0"


def test_an_overlap(tmp_path: Path) -> None:
    write_part(tmp_path, 0, some("a", "b"), INFO)
    write_part(tmp_path, 1, some("c"), INFO)
    assert refused(tmp_path) == "/part-000001-000002.parquet: overlaps the part before it"


def test_a_doubled_id_unless_it_is_rotated(tmp_path: Path) -> None:
    write_part(tmp_path, 0, some("a", "b"), INFO)
    write_part(tmp_path, 2, some("b"), INFO)
    assert refused(tmp_path) == ": example 'b' (rotation 0) occurs more than once"
    write_part(tmp_path, 2, [prediction("b", rotation=1)], INFO)
    assert read_predictions(tmp_path)[0].num_rows == 3


def test_another_schema_version(tmp_path: Path) -> None:
    write_part(tmp_path, 0, some("a"), dataclasses.replace(INFO, schema_version="2"))
    assert refused(tmp_path).endswith("schema version '2', this program reads 1")


@pytest.mark.parametrize("field", ["job_id", "model", "benchmark", "language", "split", "protocol"])
def test_parts_of_different_shards(tmp_path: Path, field: str) -> None:
    write_part(tmp_path, 0, some("a"), INFO)
    write_part(tmp_path, 1, some("b"), dataclasses.replace(INFO, **{field: "other"}))
    assert refused(tmp_path) == ": parts of 2 different shards"


def test_a_renamed_part(tmp_path: Path) -> None:
    path = write_part(tmp_path, 0, some("a", "b"), INFO)
    path.rename(tmp_path / "part-000000-000003.parquet")
    assert refused(tmp_path) == "/part-000000-000003.parquet: holds 2 rows, its name says 3"


@pytest.mark.parametrize(
    "name", ["part-x-3.parquet", "part-1.parquet", "part-1-2-3.parquet", "part-²-3.parquet"]
)
def test_a_name_that_is_no_parts(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="not the name of a prediction part"):
        part_range(tmp_path / name)


def test_parts_are_ordered_by_item(tmp_path: Path) -> None:
    for name, lo, hi in [
        ("part-1000000-1000001", 1_000_000, 1_000_001),
        ("part-000000-1000000", 0, 1_000_000),
    ]:
        (tmp_path / f"{name}.parquet").touch()
        assert part_range(tmp_path / f"{name}.parquet") == (lo, hi)
    (tmp_path / ".part-000005-000006.parquet.1.tmp").touch()  # of a writer that was killed
    assert [path.name for path in parts(tmp_path)] == [
        "part-000000-1000000.parquet",
        "part-1000000-1000001.parquet",
    ]


def test_a_torn_file(tmp_path: Path) -> None:
    path = write_part(tmp_path, 0, some("a"), INFO)
    path.write_bytes(path.read_bytes()[:-10])
    assert refused(tmp_path).startswith("/part-000000-000001.parquet: not readable as Parquet (")
    path.write_bytes(b"")
    assert refused(tmp_path).startswith("/part-000000-000001.parquet: not readable as Parquet (")


def rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)


def test_foreign_columns_and_types(tmp_path: Path) -> None:
    path = write_part(tmp_path, 0, some("a"), INFO)
    table, _ = read_part(path)
    rewrite(path, table.drop_columns(["rotation"]))
    assert "columns are ['example_id'," in refused(tmp_path)
    index = table.schema.get_field_index("label")
    rewrite(path, table.set_column(index, "label", table["label"].cast(pa.int64())))
    assert refused(tmp_path).endswith(": column label is int64, expected int16")
    scores = table["scores"].cast(pa.list_(pa.float64()))
    rewrite(path, table.set_column(table.schema.get_field_index("scores"), "scores", scores))
    assert "column scores is list<" in refused(tmp_path)
    rewrite(path, table.set_column(index, "label", pa.array([None], pa.int16())))
    assert refused(tmp_path).endswith(": column label holds nulls")


def test_metadata_that_lacks_a_key(tmp_path: Path) -> None:
    path = write_part(tmp_path, 0, some("a"), INFO)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema_version": "1"}), path)
    assert refused(tmp_path).endswith("metadata lacks job_id")
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert refused(tmp_path).endswith("schema version None, this program reads 1")


def test_a_folder_that_looks_like_a_partition(tmp_path: Path) -> None:
    """Outputs may lie in /scratch/user=me: that is no column."""
    folder = tmp_path / "label=7" / "subject=x"
    write_part(folder, 0, some("a"), INFO)
    table, _ = read_predictions(folder)
    assert table.column_names == list(CONTRACT)
    assert table["label"].to_pylist() == [1]
