"""The rows of `tables/calibration.*`, and how people see them.

A row is a cell x (a language | a resource bucket | all languages). Rows of one seed come first; a cell with
several seeds then has the means over them (`seed` empty, `num_seeds` above 1). `average` says how languages
were averaged: `macro` (each counts the same), `micro` (each example does), `none` for a single language. A
row with something missing has a reason in `missing`, and no numbers. `_low` and `_high` are the ends of a
95% interval. `job_ids` and `record_hash` say what a row was computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from analysis.inference.bootstrap import NUM_REPLICATES
from analysis.reading.measure import METRIC_NAMES, WITH_INTERVALS
from analysis.reading.shards import BUCKETS, Average, Cell, Shard, Study, Test
from analysis.results.aggregate import Summary, summarise
from analysis.results.labels import axis_names, short
from analysis.tables.typesetting import Column, Document, Section, field_text, sort_columns
from study.bins import NUM_BINS

BINS = {"num_bins": NUM_BINS, "bin_scheme": "equal_width", "bin_edges": "(lo, hi]"}
BINS_NOTE = f"Bins of the ECE: {NUM_BINS} of equal width, (lo, hi], 0 in the first."
INTERVALS = (
    f"Intervals: 95%, from {NUM_REPLICATES:,} bootstrap replicates, paired by example id over all cells; "
    "seeds add their spread by Student's t; of an ECE without its upward bias, which the ECE itself has: it "
    "may lie above its interval, most where it is near its floor. Where the answers of a cell, or of every "
    "cell of a mean, are all right, or all wrong, accuracy, gap and ECE have Clopper and Pearson's room."
)
NOTE = (
    f"{BINS_NOTE} raw: probability over the full "
    "vocabulary; renormalised (ren.): over the options. ECE floor: about the ECE of a perfectly calibrated "
    f"model with the same confidences. {INTERVALS} macro: mean over languages; micro: over examples. n: "
    "examples, of one seed. NLL in nats. A dash: missing, or an axis that the cell does not have."
)

HEADINGS = {
    "learning_rate": "lr",
    "label_smoothing": "smoothing",
    "num_seeds": "n seeds",
    **{
        f"{metric}_{kind}": f"{text} {short_kind}"
        for metric, text in (("confidence", "conf."), ("ece", "ECE"), ("ece_floor", "floor"))
        for kind, short_kind in (("raw", "raw"), ("renormalised", "ren."))
    },
    "nll": "NLL",
    "brier": "Brier",
    "option_mass": "mass",
}
"""Short headings of the tables for people."""
SHOWN_INTERVALS = ("accuracy", "confidence_raw", "ece_raw", "confidence_renormalised", "ece_renormalised")
NOT_FOR_PEOPLE = (
    "job_ids",
    "record_hash",
    "level",
    "num_shards",
    "num_missing",
    "gap_raw",
    "gap_renormalised",
    *(f"{metric}_{end}" for metric in WITH_INTERVALS for end in ("low", "high")),
)
"""Left out of them: told elsewhere in the file, in `missing`, or the difference of two columns."""
SECTIONS = {"all": "Per model", "bucket": "Per resource bucket", "language": "Per language"}
"""Their headings, by the level of their rows."""

Row = dict[str, Any]


def table_rows(study: Study) -> list[Row]:
    """The table, one dict a row, all with the same keys in the same order."""
    axes = axis_names(study)
    runs = study.runs()
    seeds = {group: sum(run.without("seed") == group for run in runs) for group in study.groups()}
    cells = runs + [group for group, num_seeds in seeds.items() if num_seeds > 1]
    return [row for test in study.tests() for cell in cells for row in _cell_rows(study, test, cell, axes)]


def _cell_rows(study: Study, test: Test, cell: Cell, axes: Sequence[str]) -> Iterator[Row]:
    shards = study.select(test, cell)

    def row(level: str, name: str, average: Average | None, members: Sequence[Shard]) -> Row:
        summary = summarise(members, average or "macro")
        return {
            **dict(zip(("benchmark", "split", "protocol"), test, strict=True)),
            **{axis: cell.get(axis) for axis in axes},
            "num_seeds": summary.num_seeds,
            "level": level,
            "name": name,
            "average": average or "none",
            "missing": None if summary.missing is None else str(summary.missing),
            "num_shards": len(members),
            "num_missing": summary.num_missing,
            **_numbers(summary),
            **BINS,
            "job_ids": summary.job_ids,
            "record_hash": summary.record_hash,
        }

    averages: tuple[Average, ...] = ("macro", "micro")
    for language in study.languages():
        if members := study.select(test, cell, language):
            yield row("language", language, None, members)
    for bucket in BUCKETS:
        if members := [shard for shard in shards if shard.bucket == bucket]:
            for average in averages:
                yield row("bucket", bucket, average, members)
    if shards:
        for average in averages:
            yield row("all", "all", average, shards)


def _numbers(summary: Summary) -> Row:
    """Each metric, and right behind it the ends of its interval where it has one."""
    numbers: Row = {}
    for metric in METRIC_NAMES:
        numbers[metric] = getattr(summary.metrics, metric, None)
        if metric in WITH_INTERVALS:
            low, high = summary.interval(metric) or (None, None)
            numbers |= {f"{metric}_low": low, f"{metric}_high": high}
    return numbers


def for_people(study: Study, rows: Sequence[Row]) -> Document:
    """A section for each model, bucket and language; rows have the numbers of the CSV's."""
    origins = [f"records {row['record_hash'] or '-'} of jobs {' '.join(row['job_ids'])}" for row in rows]
    return Document(study, NOTE, list(_sections(rows)), origins)


def _sections(rows: Sequence[Row]) -> Iterator[Section]:
    for level, title in SECTIONS.items():
        numbers = [number for number, row in enumerate(rows, start=1) if row["level"] == level]
        if not numbers:
            continue
        columns = []
        for name in rows[0]:
            if name in NOT_FOR_PEOPLE or (name == "name" and level == "all"):
                continue
            values = [rows[number - 1][name] for number in numbers]
            is_number = all(value is None or isinstance(value, int | float) for value in values)
            heading = level if name == "name" else HEADINGS.get(name, name)
            fields = [_field(rows[number - 1], name) for number in numbers]
            columns.append(Column(heading, is_number, fields))
        varied, same = sort_columns(columns, keep=[level])
        yield Section(title, numbers, varied, same)


def _field(row: Row, name: str) -> str:
    """What is measured with three decimals, and its interval where there is room for one."""
    value = row[name]
    if name not in METRIC_NAMES or not isinstance(value, float):
        return field_text(value)
    if name not in SHOWN_INTERVALS:
        return f"{value:.3f}"
    return f"{short(value)} [{short(row[f'{name}_low'])}, {short(row[f'{name}_high'])}]"
