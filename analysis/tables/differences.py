"""The rows of `tables/differences.*`, and how people see them.

A row is a contrast and metric x (a language | a resource bucket | all languages); the axes are those of the
trained cell that it is about, `contrast` says what it was set against. See `analysis/results/differences.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from analysis.reading.shards import Study
from analysis.results.differences import METRICS, difference_rows
from analysis.results.labels import axis_names, signed
from analysis.tables.calibration import BINS, BINS_NOTE, HEADINGS, INTERVALS, SECTIONS
from analysis.tables.typesetting import Column, Document, Section, field_text, sort_columns

NOTE = (
    "Differences a - b of the two cells of a contrast, over the same examples. "
    f"{BINS_NOTE} raw: probability over the full vocabulary; ren.: renormalised over the options. NLL in "
    f"nats. Buckets and all: macro means over languages. {INTERVALS} Intervals of differences of ECEs allow "
    "for what bias may be left on either side. Differences have no room for what answers that are all right "
    "do not show, but of accuracies of -1 or 1. No p is below that of the sign test of as many examples, or "
    "below .05 where the interval holds 0. *: p below .05 that there is no difference, two-sided, over "
    "languages after Holm's correction within a contrast and metric; for buckets and all languages as it is. "
    "n: examples, of one seed; n seeds: of a."
)
SIGNIFICANT = 0.05

Row = dict[str, Any]


def table_columns(study: Study) -> list[str]:
    """The names of all columns."""
    axes = [axis for axis in axis_names(study) if axis != "seed"]
    return [
        *("benchmark", "split", "protocol", *axes, "contrast", "num_seeds", "level", "name", "metric"),
        *("missing", "value", "low", "high", "p_value", "holm", "n", *BINS),
        *("job_ids_a", "job_ids_b", "record_hash_a", "record_hash_b"),
    ]


def table_rows(study: Study) -> list[Row]:
    """The table, one dict a row, all with the keys of `table_columns`; without a contrast there is none."""
    axes = [axis for axis in axis_names(study) if axis != "seed"]
    return [
        {
            **dict(zip(("benchmark", "split", "protocol"), row.contrast.test, strict=True)),
            **{axis: row.contrast.a.get(axis) for axis in axes},
            "contrast": row.contrast.label,
            "num_seeds": row.num_seeds,
            "level": row.level,
            "name": row.name,
            "metric": row.metric,
            "missing": row.missing,
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "p_value": row.p_value,
            "holm": row.holm,
            "n": row.n,
            **BINS,
            "job_ids_a": list(row.job_ids_a),
            "job_ids_b": list(row.job_ids_b),
            "record_hash_a": row.record_hash_a,
            "record_hash_b": row.record_hash_b,
        }
        for row in difference_rows(study)
    ]


def for_people(study: Study, rows: Sequence[Row]) -> Document:
    """A row for each contrast and language, bucket or model, its metrics side by side."""
    together = [list(group) for _, group in groupby(rows, key=_of)]
    origins = [
        " against ".join(
            f"records {row[f'record_hash_{side}'] or '-'} of jobs {' '.join(row[f'job_ids_{side}'])}"
            for side in ("a", "b")
        )
        for row, *_ in together
    ]
    return Document(study, NOTE, list(_sections(together)), origins)


def _of(row: Row) -> tuple[Any, ...]:
    """What a row is of, without its metric."""
    names = list(row)
    return tuple(row[name] for name in names[: names.index("metric")])


def _sections(together: Sequence[Sequence[Row]]) -> Iterator[Section]:
    for level, title in SECTIONS.items():
        numbers = [number for number, (row, *_) in enumerate(together, start=1) if row["level"] == level]
        if not numbers:
            continue
        chosen = [together[number - 1] for number in numbers]
        names = [name for name in chosen[0][0] if name not in ("level", "metric", *SPREAD, "name")]
        names.insert(names.index("num_seeds"), "name")
        columns = []
        for name in names:
            if name == "name" and level == "all":
                continue
            values = [rows[0][name] for rows in chosen]
            is_number = all(value is None or isinstance(value, int | float) for value in values)
            heading = level if name == "name" else HEADINGS.get(name, name)
            columns.append(Column(heading, is_number, [field_text(value) for value in values]))
        for place, metric in enumerate(METRICS):
            fields = [_difference_text(rows[place]) for rows in chosen]
            columns.append(Column(HEADINGS.get(metric, metric), True, fields))
        varied, same = sort_columns(columns, keep=[level, "contrast"])
        yield Section(title, numbers, varied, same)


SPREAD = (
    *("value", "low", "high", "p_value", "holm"),
    *("job_ids_a", "job_ids_b", "record_hash_a", "record_hash_b"),
)
"""Columns that for people are in the metric's, or below the tables."""


def _difference_text(row: Row) -> str:
    """`+.012 [+.003, +.021] *`."""
    if row["value"] is None:
        return "-"
    p = row["holm"] if row["level"] == "language" else row["p_value"]
    mark = " *" if p < SIGNIFICANT else ""
    return f"{signed(row['value'])} [{signed(row['low'])}, {signed(row['high'])}]{mark}"
