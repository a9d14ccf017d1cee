"""tables/slices.csv: calibration by subject, category, cultural sensitivity and quality of the items.

Small slices have a large ECE by chance: read it beside its floor and n.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.diagnoses.rows import Row, finished, named, with_macro
from analysis.metrics import floor_over_bins
from analysis.metrics.diagnostics import slice_rows
from analysis.reading.cell_records import Answers, CellRecords, Reader
from analysis.reading.scored import CONFIDENCES
from study.bins import bin_predictions, error_over_bins
from study.errors import RecordError

if TYPE_CHECKING:
    import pyarrow as pa

SLICED_BY = ("subject", "category", "cultural_sensitivity", "quality")
COLUMNS = (
    "n",
    "accuracy",
    *(f"{metric}_{kind}" for kind in CONFIDENCES for metric in ("confidence", "ece", "ece_floor")),
)


def slices_rows(reader: Reader, here: CellRecords, axes: Sequence[str]) -> Iterator[Row]:
    """The slices of one cell: each language, then macro means over the languages that have the slice.

    What an items table does not say, as most benchmarks do not know of cultural sensitivity, has no row. A
    language that is missing is a row of each property, without a value; its means are missing.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    lacking: list[Row] = []
    for language, shard in here.shards.items():
        row = {**named(here.test, here.cell, axes), "sliced_by": None, "slice": None}
        row |= {"level": "language", "name": language, "average": "none"}
        if language not in here.answers:
            lacking.append(finished(row, str(shard.missing), COLUMNS, [shard.job_id]))
            continue
        answers = here.answers[language]
        items = _read(reader.items_file(shard))
        if items is None:
            told = f"no items table: subject is that of the records, {', '.join(SLICED_BY[1:])} are not known"
            lacking.append(finished(row, told, COLUMNS, [shard.job_id]))
            items = _items_of(answers)
        for column in [name for name in SLICED_BY if name in items.column_names]:
            for value, members in _slices(answers, items, column, reader.items_file(shard)).items():
                sliced = {**row, "sliced_by": column, "slice": value}
                numbers = _numbers(answers, members)
                found.setdefault((column, value), []).append(
                    finished(sliced, numbers, COLUMNS, [shard.job_id])
                )
    yield from lacking
    gone = [row for row in lacking if row["name"] not in here.answers]
    for (column, value), rows in found.items():
        missing = [{**row, "sliced_by": column, "slice": value} for row in gone]
        for row in with_macro([*rows, *missing], COLUMNS):
            if row["level"] != "language" or not row["missing"]:
                yield row


def _read(file: Path | None) -> pa.Table | None:
    import pyarrow.parquet as pq

    return None if file is None else pq.read_table(file, columns=["example_id", *SLICED_BY])


def _slices(
    answers: Answers, items: pa.Table, column: str, file: Path | None
) -> Mapping[str, NDArray[np.int64]]:
    try:
        return slice_rows(answers.scored.example_ids.tolist(), items, column)
    except ValueError as error:
        raise RecordError(f"{file}: {error}") from None


def _items_of(answers: Answers) -> pa.Table:
    """What the records themselves say of their items."""
    import pyarrow.compute as pc

    table = answers.table
    return table.filter(pc.equal(table["rotation"], 0)).select(["example_id", "subject"])


def _numbers(answers: Answers, members: NDArray[np.int64]) -> Row:
    correct = answers.examples.correct[members]
    row: Row = {"n": len(members), "accuracy": float(np.mean(correct))}
    for kind in CONFIDENCES:
        confidence = answers.examples.confidence[kind][members]
        bins = bin_predictions(confidence, correct)
        row[f"confidence_{kind}"] = float(np.mean(confidence))
        row[f"ece_{kind}"], row[f"ece_floor_{kind}"] = error_over_bins(bins), floor_over_bins(bins)
    return row
