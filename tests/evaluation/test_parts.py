"""Completeness: every example once, and none from elsewhere."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.items.item import Item
from evaluation.parts import check_complete, read_own_part
from evaluation.questions import Asked
from study.errors import RecordError
from study.records import Prediction, ShardInfo, write_part

INFO = ShardInfo("0" * 16, "tiny@1", "cldr", "sw", "test", "letter")
ASKED = [Asked(Item(f"q{i}", "s", "?", ("a", "b"), i % 2), 0) for i in range(6)]


def predictions(ids: list[str]) -> list[Prediction]:
    return [Prediction(i, "s", int(i[1:]) % 2, [-1.0, -2.0], 0.5, None, 0, 7) for i in ids]


def test_complete_parts_are_returned_in_order(tmp_path: Path) -> None:
    second = write_part(tmp_path, 4, predictions(["q4", "q5"]), INFO)
    first = write_part(tmp_path, 0, predictions(["q0", "q1", "q2", "q3"]), INFO)
    assert check_complete(tmp_path, ASKED) == [first, second]


def test_missing_doubled_and_foreign_examples_are_named(tmp_path: Path) -> None:
    write_part(tmp_path, 0, predictions(["q0", "q1", "q1", "q77"]), INFO)
    with pytest.raises(RecordError) as caught:
        check_complete(tmp_path, ASKED)
    assert str(caught.value) == (
        f"{tmp_path}: of 6 questions 4 missing (q2, q3, q4, ...), 1 doubled (q1), 1 foreign (q77)"
    )


def test_no_parts_at_all_is_all_missing(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="6 missing"):
        check_complete(tmp_path, ASKED)


def test_a_part_of_another_job_or_of_other_items_is_refused(tmp_path: Path) -> None:
    foreign = ShardInfo("f" * 16, "tiny@1", "cldr", "sw", "test", "letter")
    path = write_part(tmp_path, 0, predictions(["q0", "q1"]), foreign)
    with pytest.raises(RecordError, match="belongs to"):
        read_own_part(path, ASKED, INFO)
    path = write_part(tmp_path, 0, predictions(["q1", "q0"]), INFO)
    with pytest.raises(RecordError, match="are not questions 0 to 2"):
        read_own_part(path, ASKED, INFO)
    path = write_part(tmp_path, 5, predictions(["q5", "q6"]), INFO)
    with pytest.raises(RecordError, match="are not questions 5 to 7"):
        read_own_part(path, ASKED, INFO)


def test_half_a_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = write_part(tmp_path, 0, predictions(["q0", "q1"]), INFO)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordError, match=r"not readable as Parquet .*; remove it and the parts after it"):
        read_own_part(path, ASKED, INFO)


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = write_part(tmp_path, 0, predictions(["q0", "q1"]), INFO)
    table = pq.read_table(path)
    subjects = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"s"]).buffers())
    index = table.schema.get_field_index("subject")
    pq.write_table(table.set_column(index, table.schema.field(index), subjects), path)
    with pytest.raises(RecordError, match="not readable as Parquet"):
        read_own_part(path, ASKED, INFO)


LETTER = {"option_mass": 0.5, "option_num_tokens": None}
TEXT = {"option_mass": None, "option_num_tokens": [1, 2]}


@pytest.mark.parametrize(
    ("protocol", "change"),
    [
        *(("letter", {"scores": s}) for s in ([-1.0], [], [-1.0] * 3, [math.nan, -1], [-math.inf, -1])),
        ("letter", {"option_mass": None}),
        ("letter", {"option_mass": math.nan}),
        ("letter", {"option_mass": 1.5}),
        ("letter", {"option_num_tokens": [1, 2]}),
        ("option_text", {"scores": [-1.0]}),
        ("option_text", {"option_mass": 0.5}),
        ("option_text", {"option_num_tokens": None}),
        ("option_text", {"option_num_tokens": [1]}),
        ("option_text", {"option_num_tokens": [1, 0]}),
    ],
    ids=str,
)
def test_values_that_no_job_writes_are_refused(tmp_path: Path, protocol: str, change: dict[str, Any]) -> None:
    info = dataclasses.replace(INFO, protocol=protocol)
    good, other = (
        dataclasses.replace(one, **(LETTER if protocol == "letter" else TEXT))
        for one in predictions(["q0", "q1"])
    )
    path = write_part(tmp_path, 0, [good, other], info)
    assert read_own_part(path, ASKED, info)[1] == info
    path = write_part(tmp_path, 0, [good, dataclasses.replace(other, **change)], info)
    with pytest.raises(RecordError, match="for 'q1', an item of 2 options; remove it and the parts after it"):
        read_own_part(path, ASKED, info)
