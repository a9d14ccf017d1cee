"""`verify` on the table of differences."""

from __future__ import annotations

import csv

import pytest

from analysis.tables.files import write_tables
from analysis.verification.verify import verify
from tests.analysis.studies import StudyFolder, random_letters
from tests.analysis.verification.test_verify import CELL, edit_csv

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *[("low", "0.5"), ("high", ""), ("p_value", "0.9"), ("holm", "1.0"), ("false_discovery", "0.9")],
        *[("equivalence", "0.1"), ("paired_seeds", "True"), ("n", "59"), ("num_bins", "10")],
        *[("job_ids_b", "0" * 16), ("record_hash_a", "0" * 16), ("record_hash_b", "")],
    ],
)
def test_a_changed_row_of_differences_is_found(written: StudyFolder, column: str, value: str) -> None:
    path = written.root / "tables" / "differences.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    place = next(i for i, row in enumerate(rows) if (row["name"], row["metric"]) == ("yo", "ece_l2_raw"))
    edit_csv(path, place, column, value)
    (sentence,) = verify(written.root).differences
    cell = f"{CELL} label_smoothing=0.0 contrast=SFT ε=0 - base level=language name=yo metric=ece_l2_raw"
    assert sentence.startswith(f"differences.csv: {cell}: {column} is {value or 'empty'}, the records give ")


def test_a_changed_difference_in_parquet_is_found(written: StudyFolder) -> None:
    path = written.root / "tables" / "differences.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["low"] += 1e-9
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    (sentence,) = verify(written.root).differences
    assert sentence.startswith("differences.parquet: benchmark=cldr ")
    assert ": low is " in sentence


def test_a_study_without_contrasts_has_empty_differences(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", random_letters("x", 20, 1.0, 0.5, 0.9))
    written = write_tables(folder.root)
    assert written["differences.csv"].read_text().count("\n") == 1
    table = pq.read_table(written["differences.parquet"])
    assert (table.num_rows, table.schema.field("num_bins").type) == (0, pa.int64())
    result = verify(folder.root)
    assert result.is_right
    assert len(result.files) == 8
