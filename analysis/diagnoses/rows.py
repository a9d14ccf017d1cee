"""A table of `diagnose`, and its rows: their names, and their means over languages and over seeds.

A row is a dict, and the rows of one table have the same keys in the same order. `missing` says why a row has
no numbers; a mean with such a member is missing itself. All means are macro: each language counts the same.
`num_bins`, `bin_scheme` and `bin_edges` describe the ECE (for others see `analysis.metrics`), `job_ids` and
`record_hash` say what a row was computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.inference.clustered import mean_over_seeds
from analysis.reading.cell_records import CellRecords
from analysis.reading.shards import BUCKETS, Cell, Shard, Study, Test, bucket_of
from analysis.results.aggregate import combined_hash
from analysis.tables.calibration import BINS

Row = dict[str, Any]
COUNTS = ("n", "agreeing")
"""Columns that are summed over languages."""


@dataclass(frozen=True)
class Table:
    """tables/<name>.csv. Its rows come either from the records of each cell or from the metrics of a test."""

    name: str
    keys: tuple[str, ...]
    """The columns that say, beside the test and the cell, what a row is about."""
    columns: tuple[str, ...]
    """Its numbers."""
    cell_rows: Callable[[CellRecords], Iterable[Row]] | None = None
    """The rows of one cell on one test, from `finished`. Called in the process that reads the cell."""
    test_rows: Callable[[Study, Test], Iterable[tuple[Cell, Row]]] | None = None
    """The rows of all cells on one test, each with its cell."""
    over_seeds: bool = False
    """Whether means over seeds follow the rows."""
    intervals: tuple[str, ...] = ()
    """Columns whose 95% interval is in the columns `<name>_low` and `<name>_high`."""
    is_shown: Callable[[Row], bool] | None = None
    """If given, the table is long: only these rows stay in memory, all others just as text."""
    to_markdown: Callable[[Study, Sequence[Row]], str] | None = None
    """Also writes tables/<name>.md."""
    note: str = ""
    """What the Markdown says below its title."""

    def named(self, test: Test, cell: Cell, axes: Sequence[str], row: Row) -> Row:
        """A row with all columns but `record_hash`, in order."""
        return {
            **dict(zip(("benchmark", "split", "protocol"), test, strict=True)),
            **{axis: cell.get(axis) for axis in axes},
            "num_seeds": row.get("num_seeds", 1),
            **{key: row[key] for key in self.keys},
            "missing": row["missing"],
            **{column: row.get(column) for column in self.columns},
            **BINS,
            "job_ids": row["job_ids"],
        }

    def with_seed_means(self, rows: Sequence[Row], axes: Sequence[str]) -> list[Row]:
        """The named rows of one test, then the mean of those that agree in all but their seed."""
        names = [name for name in (*axes, *self.keys) if name != "seed"]
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in names), []).append(row)
        several = [group for group in groups.values() if len(group) > 1]
        return [*rows, *(_seed_mean(group, self.columns, self.intervals) for group in several)]


def finished(keys: Row, numbers: Row | str, job_ids: Iterable[str]) -> Row:
    """A row with its numbers, or with the reason why it has none; a column that is left out is empty."""
    values, reason = ({}, numbers) if isinstance(numbers, str) else (numbers, None)
    return {**keys, **values, "missing": reason, "job_ids": list(dict.fromkeys(job_ids))}


def language_rows(
    records: CellRecords,
    keys: Row,
    numbers_of: Callable[[str], Row | str],
    used: Callable[[str], Iterable[Shard]] = lambda language: (),
) -> list[Row]:
    """A row for each language of a cell.

    numbers_of: the numbers of a language that has records, or why there are none. used: the shards that a
    row is computed from, beside its own.
    """
    rows = []
    for language, shard in records.shards.items():
        numbers = numbers_of(language) if language in records.answers else str(shard.missing)
        job_ids = [shard.job_id, *(other.job_id for other in used(language))]
        row = {**keys, "level": "language", "name": language, "average": "none"}
        rows.append(finished(row, numbers, job_ids))
    return rows


def with_macro(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of languages, then the means over each resource bucket and over all languages.

    rows: from one cell, and different in `name`, the language, alone. COUNTS are summed.
    """
    yield from rows
    for bucket in BUCKETS:
        if members := [row for row in rows if bucket_of(row["name"]) == bucket]:
            yield _mean(members, columns, {"level": "bucket", "name": bucket, "average": "macro"})
    if rows:
        yield _mean(rows, columns, {"level": "all", "name": "all", "average": "macro"})


def with_hashes(rows: Iterable[Row], hashes: Mapping[str, str]) -> list[Row]:
    """The rows with `record_hash`, over the records of those of their jobs that have some.

    hashes: by job id. None where a row is missing because some of its records are.
    """
    combined: dict[tuple[str, ...], str] = {}  # many rows have the same jobs
    hashed = []
    for row in rows:
        read = tuple(job_id for job_id in row["job_ids"] if job_id in hashes)
        if read and read not in combined:
            combined[read] = combined_hash({job_id: hashes[job_id] for job_id in read})
        lacks_records = row["missing"] and len(read) < len(row["job_ids"])
        hashed.append({**row, "record_hash": None if lacks_records else combined.get(read)})
    return hashed


def hashes_of(shards: Iterable[Shard]) -> dict[str, str]:
    """The hash of the records of each shard that has some, by job id."""
    return {shard.job_id: shard.record_hash for shard in shards if shard.record_hash is not None}


def by_group(rows: Iterable[Row], axes: Sequence[str]) -> dict[tuple[Test, Cell], list[Row]]:
    """Rows by their test and cell without its seed; where there are means over seeds, those alone."""
    groups: dict[tuple[Test, Cell], list[Row]] = {}
    for row in rows:
        cell = Cell(tuple((axis, row[axis]) for axis in axes if row[axis] is not None)).without("seed")
        groups.setdefault(((row["benchmark"], row["split"], row["protocol"]), cell), []).append(row)
    return {
        key: [row for row in members if row["num_seeds"] == max(row["num_seeds"] for row in members)]
        for key, members in groups.items()
    }


def _seed_mean(rows: Sequence[Row], columns: Sequence[str], intervals: Sequence[str]) -> Row:
    mean = _mean(rows, columns, {"seed": None, "num_seeds": len(rows)})
    if mean["missing"]:
        return mean
    counts = [name for name in COUNTS if mean.get(name) is not None]
    mean |= {name: rows[0]["n"] if name == "n" else mean[name] / len(rows) for name in counts}
    for name in intervals:
        if mean[f"{name}_low"] is not None:
            ends = [(row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
            low, high = mean_over_seeds([row[name] for row in rows], ends)
            mean |= {f"{name}_low": low, f"{name}_high": high}
    return mean


def _mean(rows: Sequence[Row], columns: Sequence[str], changed: Row) -> Row:
    """The mean of each column, under the keys of the first row and what is changed in them."""
    lacking = [row for row in rows if row["missing"]]
    numbers: Row | str
    if lacking:
        numbers = lacking[0]["missing"] if len(rows) == 1 else f"{len(lacking)} of {len(rows)} missing"
    else:
        numbers = {column: _column_mean([row.get(column) for row in rows], column) for column in columns}
    keys = {**rows[0], **dict.fromkeys(columns), **changed}
    return finished(keys, numbers, (job_id for row in rows for job_id in row["job_ids"]))


def _column_mean(values: Sequence[Any], column: str) -> Any:
    """The mean of a column; the sum of a count; of reasons, how many there are, or the only one."""
    present = [value for value in values if value is not None]
    if column.endswith("_missing"):
        one = present[0] if len(set(present)) == 1 and len(present) == len(values) else None
        return one or (f"{len(present)} of {len(values)} missing" if present else None)
    if len(present) < len(values):
        return None
    if column in COUNTS:
        return sum(present)
    # a temperature acts as a factor
    is_factor = column.startswith("temperature")
    return float(np.exp(np.mean(np.log(present))) if is_factor else np.mean(present))
