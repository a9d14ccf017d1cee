"""The rows of `tables/calibration.*`, and their layout for people.

A row is one of `analysis/results/table.py`. `average` says how languages were averaged: `macro` (each counts
the same), `micro` (each example does), `none` for a single language. A row with something missing has a
reason in `missing`, and no numbers. `_low` and `_high` are the ends of a 95% interval. `job_ids` and
`record_hash` say what a row was computed from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.inference.bootstrap import NUM_REPLICATES
from analysis.reading.headline import HEADLINE, METRICS, Metric
from analysis.reading.shards import Study
from analysis.results.names import short
from analysis.results.settings import axis_names
from analysis.results.table import Row, long_table
from analysis.tables.typesetting import Column, Document, by_level, column
from study.axes import axis_label
from study.bins import NUM_BINS

BINS = {"num_bins": NUM_BINS, "bin_scheme": "equal_width", "bin_edges": "(lo, hi]"}
BINS_NOTE = f"Bins of the ECE: {NUM_BINS} of equal width, (lo, hi], 0 in the first."
INTERVALS = (
    "Intervals: 95%, the estimate plus and minus t standard errors, questions from "
    f"{NUM_REPLICATES:,} bootstrap replicates paired by example id over all cells, training seeds from their "
    "spread. L2 ECE: the root-mean-square calibration error over the bins, without the bias that the ECE "
    "has; below 0 where a model shows less than noise alone would; interval by score. Where the answers of "
    "a cell, or of every cell of a mean, are all right, or all wrong, accuracy, gap and L2 ECE have Clopper "
    "and Pearson's room."
)
NOTE = (
    f"{BINS_NOTE} raw: probability over the full "
    "vocabulary; renormalised (ren.): over the options (option_text: raw is per token of the answer, 1 / "
    "perplexity, and has no ECE). ECE floor: about the ECE of a perfectly calibrated "
    f"model with the same confidences. {INTERVALS} macro: mean over languages; micro: over examples. n: "
    "examples, of one seed; questions: different ones, where languages share them. NLL in nats. A dash: "
    "missing, or an axis that the cell does not have."
)
NOT_FOR_PEOPLE = ("job_ids", "record_hash", "level", "num_shards", "num_missing")
"""Columns that the file shows elsewhere."""

Fields = dict[str, Any]


def table_rows(study: Study) -> list[Fields]:
    """The table, a dict per row; all have the same keys in the same order."""
    axes = axis_names(study)
    return [_fields(row, axes) for row in long_table(study).rows]


def number_columns(metric: Metric) -> list[str]:
    """A metric's column, those of its interval and that of its floor, as far as it has them."""
    columns = [metric.name]
    columns += [f"{metric.name}_low", f"{metric.name}_high"] if metric.has_interval else []
    return [*columns, *([metric.floor_name] if metric.has_floor else [])]


def _fields(row: Row, axes: Sequence[str]) -> Fields:
    numbers: Fields = {"n": row.n, "num_questions": row.num_questions}
    for metric in METRICS:
        number = row[metric.name]
        ends = (number.low, number.high) if metric.has_interval else ()
        floor = (number.floor,) if metric.has_floor else ()
        numbers |= dict(zip(number_columns(metric), (number.value, *ends, *floor), strict=True))
    return {
        **dict(zip(("benchmark", "split", "protocol"), row.test, strict=True)),
        **{axis: row.cell.get(axis) for axis in axes},
        "num_seeds": row.num_seeds,
        "level": row.level,
        "name": row.name,
        "average": "none" if row.level == "language" else row.average,
        "missing": None if row.missing is None else str(row.missing),
        "num_shards": len(row.shards),
        "num_missing": row.num_missing,
        **numbers,
        **BINS,
        "job_ids": row.job_ids,
        "record_hash": row.record_hash,
    }


def column_heading(name: str) -> str:
    """The heading of a column that is not a metric's."""
    return {"num_seeds": "n seeds", "num_questions": "questions"}.get(name, axis_label(name))


def for_people(study: Study, rows: Sequence[Fields]) -> Document:
    """A section per level: models, buckets, languages. Rows are numbered as in the CSV."""
    names = list(rows[0])
    columns = [
        column(column_heading(name), [row[name] for row in rows])
        for name in names[: names.index("num_questions") + 1]
        if name not in NOT_FOR_PEOPLE
    ]
    num_keys = len(columns)
    for metric in METRICS:
        columns.append(Column(metric.heading, True, [_number_text(row, metric) for row in rows]))
        if metric.has_floor:
            floors = [_decimals(row[metric.floor_name]) for row in rows]
            columns.append(Column(metric.floor_heading, True, floors))
    origins = [f"records {row['record_hash'] or '-'} of jobs {' '.join(row['job_ids'])}" for row in rows]
    shown = [one.heading for one in columns[num_keys:] if set(one.fields) != {"-"}]
    columns += [column(name, [row[name] for row in rows]) for name in BINS]
    return Document(study, NOTE, by_level([row["level"] for row in rows], columns, keep=shown), origins)


def _number_text(row: Fields, metric: Metric) -> str:
    """`.123 [.101, .146]` for the headline metrics; there is no room for the intervals of others."""
    value = row[metric.name]
    if value is None or metric not in HEADLINE:
        return _decimals(value)
    return f"{short(value)} [{short(row[f'{metric.name}_low'])}, {short(row[f'{metric.name}_high'])}]"


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
