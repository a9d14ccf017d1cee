"""The rows of `tables/differences.*`, and their layout for people.

A row is a contrast and metric over a language, a resource bucket or all languages. Its axes are those of cell
a, `contrast` names both cells. See `analysis/results/differences.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from analysis.reading.headline import WITH_DIFFERENCES
from analysis.reading.shards import Study
from analysis.results.differences import (
    SIGNIFICANT,
    DifferenceRow,
    difference_rows,
    has_seeds,
)
from analysis.results.names import signed
from analysis.results.settings import axis_names
from analysis.tables.calibration import BINS, BINS_NOTE, INTERVALS, Fields, column_heading
from analysis.tables.typesetting import Column, Document, by_level, column

NOTE = (
    "Differences a - b of the two cells of a contrast, over the same examples. "
    f"{BINS_NOTE} raw: probability over the full vocabulary; ren.: renormalised over the options. NLL in "
    f"nats. Buckets and all: macro means over languages. {INTERVALS} A difference of ECEs has no interval, "
    "since the ECE of the better calibrated cell is biased more: read that of the L2 ECEs. Seeds that share "
    "the order of the data are paired, others are not (Welch). One seed on a side compares checkpoints, not "
    "methods. low - high: how much more changed in low-resource languages. *: p below .05 that there is no "
    "difference, two-sided, over languages after Holm's correction within a contrast and metric; for buckets "
    "and all languages as it is. false_discovery: p adjusted over all tests of this study (Benjamini and "
    "Hochberg). equivalence: p of two one-sided tests that the difference is the margin or more, either "
    "way. seed_share: of the squared standard error; language_sd: "
    "over the languages of a mean. n: examples, of one seed; n seeds: of a."
)


def note_of(study: Study, rows: Sequence[Fields]) -> str:
    """The note, with how many tests there are."""
    tests = [row for row in rows if row["p_value"] is not None]
    families = {(row["benchmark"], row["split"], row["contrast"], row["metric"]) for row in tests}
    found = sum(row["p_value"] < SIGNIFICANT for row in tests)
    after = sum(row["false_discovery"] < SIGNIFICANT for row in tests)
    return (
        f"{NOTE} Margin: {study.equivalence_margin:g}. This study makes {len(tests):,} tests in "
        f"{len(families):,} families (contrast and metric): {found:,} have a p below .05, {after:,} also "
        "after the correction over the whole study."
    )


def table_columns(study: Study) -> list[str]:
    """The names of all columns."""
    return [
        *_names(study),
        *("metric", "missing", "value", "low", "high", "p_value", "holm", "false_discovery", "equivalence"),
        *("standard_error", "degrees_of_freedom", "seed_share", "language_sd"),
        *("n", "paired_seeds", *BINS),
        *("job_ids_a", "job_ids_b", "record_hash_a", "record_hash_b"),
    ]


def _names(study: Study) -> list[str]:
    """The columns that identify a row, without its metric."""
    axes = [axis for axis in axis_names(study) if axis != "seed"]
    return ["benchmark", "split", "protocol", *axes, "contrast", "num_seeds", "level", "name"]


def table_rows(study: Study) -> list[Fields]:
    """The table, a dict per row with the keys of `table_columns`; empty without a contrast."""
    columns = table_columns(study)
    return [
        {column: fields.get(column) for column in columns}
        for row in difference_rows(study)
        for fields in _fields(row)
    ]


def _fields(row: DifferenceRow) -> list[Fields]:
    """A row per metric, without its empty columns."""
    contrast = row.contrast
    shared: Fields = {
        **dict(contrast.a.cell.axes),
        **dict(zip(("benchmark", "split", "protocol"), contrast.test, strict=True)),
        "contrast": contrast.label,
        "num_seeds": row.a.num_seeds if row.a else 0,
        "level": row.level,
        "name": row.name,
        "missing": None if row.missing is None else str(row.missing),
        "paired_seeds": contrast.shares_data_order if has_seeds(row) else None,
        **BINS,
    }
    for side, of_side in (("a", row.a), ("b", row.b)):
        shared[f"job_ids_{side}"] = of_side.job_ids if of_side else []
        shared[f"record_hash_{side}"] = of_side.record_hash if of_side else None
    rows = []
    for metric in WITH_DIFFERENCES:
        difference = row.differences.get(metric.name)
        numbers = {} if difference is None or row.a is None else {**asdict(difference), "n": row.a.n}
        rows.append({**shared, "metric": metric.name, **numbers})
    return rows


def for_people(study: Study, rows: Sequence[Fields]) -> Document:
    """A row per contrast and language, bucket or model, with its metrics side by side."""
    size = len(WITH_DIFFERENCES)
    together = [rows[start : start + size] for start in range(0, len(rows), size)]
    firsts = [members[0] for members in together]
    names = [name for name in _names(study) if name not in ("num_seeds", "level", "name")]
    columns = [
        column(column_heading(name), [row[name] for row in firsts])
        for name in (*names, "name", "num_seeds", "missing", "n", *BINS)
    ]
    num_keys = len(columns)
    for place, metric in enumerate(WITH_DIFFERENCES):
        fields = [_difference_text(members[place]) for members in together]
        columns.append(Column(metric.heading, True, fields))
    shown = [one.heading for one in columns[num_keys:] if set(one.fields) != {"-"}]
    origins = [
        " against ".join(
            f"records {row[f'record_hash_{side}'] or '-'} of jobs {' '.join(row[f'job_ids_{side}'])}"
            for side in ("a", "b")
        )
        for row in firsts
    ]
    return Document(
        study,
        note_of(study, rows),
        by_level([row["level"] for row in firsts], columns, keep=["contrast", *shown]),
        origins,
    )


def _difference_text(row: Fields) -> str:
    """`+.012 [+.003, +.021] *`."""
    if row["value"] is None:
        return "-"
    if row["low"] is None:
        return signed(row["value"])
    p = row["holm"] if row["level"] == "language" else row["p_value"]
    mark = " *" if p < SIGNIFICANT else ""
    return f"{signed(row['value'])} [{signed(row['low'])}, {signed(row['high'])}]{mark}"
