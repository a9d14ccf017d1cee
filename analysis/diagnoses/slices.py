"""tables/slices.csv: calibration by subject, category, cultural sensitivity and quality of the items.

The ECE of a small slice is large by chance: compare it with its floor, and look at n.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.diagnoses.rows import Row, Table, finished, language_rows, with_macro
from analysis.metrics import floor_over_bins
from analysis.metrics.diagnostics import slice_rows
from analysis.reading.cell_records import Answers, CellRecords
from analysis.reading.scored import CONFIDENCES
from study.bins import bin_predictions, error_over_bins
from study.errors import RecordError

if TYPE_CHECKING:
    import pyarrow as pa

SLICED_BY = ("subject", "category", "cultural_sensitivity", "quality")
NO_ITEMS = f"no items table: subject is that of the records, {', '.join(SLICED_BY[1:])} are not known"
COLUMNS = (
    "n",
    "accuracy",
    *(f"{metric}_{kind}" for kind in CONFIDENCES for metric in ("confidence", "ece", "ece_floor")),
)


def slices_rows(records: CellRecords) -> Iterator[Row]:
    """The slices of one cell: each language, then macro means over the languages that have the slice.

    A property that an items table lacks has no row: most benchmarks do not say cultural sensitivity, for
    example. A language that is missing has one row, without a slice; the means over it are missing.
    """
    by_slice: dict[tuple[str, str], list[Row]] = {}
    for language, answers in records.answers.items():
        file = records.items.get(language)
        items = _subjects(answers) if file is None else _read(file)
        for column in [name for name in SLICED_BY if name in items.column_names]:
            for value, members in _slices(answers, items, column, file).items():
                keys = {"sliced_by": column, "slice": value, "level": "language", "name": language}
                row = finished(
                    {**keys, "average": "none"}, _numbers(answers, members), [records.shards[language].job_id]
                )
                by_slice.setdefault((column, value), []).append(row)
    # a language without records, or without an items table, is marked once
    unsliced = language_rows(records, {"sliced_by": None, "slice": None}, lambda language: NO_ITEMS)
    yield from (row for row in unsliced if row["name"] not in records.items or row["name"] in records.missing)
    missing = [row for row in unsliced if row["name"] in records.missing]
    for (column, value), rows in by_slice.items():
        of_missing = [{**row, "sliced_by": column, "slice": value} for row in missing]
        for row in with_macro([*rows, *of_missing], COLUMNS):
            if row["level"] != "language" or not row["missing"]:
                yield row


def _read(file: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=["example_id", *SLICED_BY])


def _slices(
    answers: Answers, items: pa.Table, column: str, file: Path | None
) -> Mapping[str, NDArray[np.int64]]:
    try:
        return slice_rows(answers.scored.example_ids.tolist(), items, column)
    except ValueError as error:
        raise RecordError(f"{file}: {error}") from None


def _subjects(answers: Answers) -> pa.Table:
    """What the records themselves say about their items."""
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


TABLE = Table(
    "slices",
    ("sliced_by", "slice", "level", "name", "average"),
    COLUMNS,
    slices_rows,
    is_shown=lambda row: row["sliced_by"] == "cultural_sensitivity" and row["level"] != "language",
)
