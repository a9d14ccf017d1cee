"""Rows of the diagnostics' tables: what names them, and their means over languages and over seeds.

A row is a dict, and the rows of one table have the same keys in the same order. `missing` says why a row has
no numbers; a mean with such a member is missing itself. All means are macro: each language counts the same.
`num_bins`, `bin_scheme` and `bin_edges` are of the ECE (of others `analysis.metrics` says them), `job_ids`
and `record_hash` say what a row was computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.reading.shards import BUCKETS, Cell, Test
from analysis.results.aggregate import combined_hash
from analysis.tables.calibration import BINS
from study.languages import LANGUAGES

Row = dict[str, Any]
LAST = (*BINS, "job_ids")


def named(test: Test, cell: Cell, axes: Sequence[str]) -> Row:
    """The columns that say what was asked of which cell."""
    return {
        **dict(zip(("benchmark", "split", "protocol"), test, strict=True)),
        **{axis: cell.get(axis) for axis in axes},
        "num_seeds": 1,
    }


def finished(row: Row, numbers: Row | str, columns: Sequence[str], job_ids: Iterable[str]) -> Row:
    """A row with its numbers, or with the reason why it has none; a number of None is missing by itself."""
    told = {} if isinstance(numbers, str) else numbers
    return {
        **row,
        "missing": numbers if isinstance(numbers, str) else None,
        **{column: told.get(column) for column in columns},
        **BINS,
        "job_ids": list(dict.fromkeys(job_ids)),
    }


def with_macro(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of languages, then the means over each resource bucket and over all languages.

    rows: of one cell, that differ in `name`, the language, alone. `n` is summed.
    """
    yield from rows
    for bucket in BUCKETS:
        if members := [row for row in rows if _bucket(row["name"]) == bucket]:
            yield _mean(members, columns, {"level": "bucket", "name": bucket, "average": "macro"})
    if rows:
        yield _mean(rows, columns, {"level": "all", "name": "all", "average": "macro"})


def with_seeds(rows: Sequence[Row], columns: Sequence[str], keys: Sequence[str]) -> list[Row]:
    """The rows, then, where several agree in all `keys` but their seed, the means over the seeds."""
    if not any("seed" in row for row in rows):
        return list(rows)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys if key != "seed"), []).append(row)
    several = [members for members in groups.values() if len(members) > 1]
    return [
        *rows,
        *(_mean(m, columns, {"seed": None, "num_seeds": len(m)}, n=m[0].get("n")) for m in several),
    ]


def with_hashes(rows: Iterable[Row], hashes: Mapping[str, str]) -> list[Row]:
    """The rows with `record_hash`, over the records of those of their jobs that have some.

    hashes: job id -> of its records. None where a row is missing because records of it are.
    """
    combined: dict[tuple[str, ...], str] = {}  # many rows are of the same jobs
    found = []
    for row in rows:
        there = tuple(job_id for job_id in row["job_ids"] if job_id in hashes)
        if there and there not in combined:
            combined[there] = combined_hash({job_id: hashes[job_id] for job_id in there})
        is_lost = row["missing"] and len(there) < len(row["job_ids"])
        found.append({**row, "record_hash": None if is_lost else combined.get(there)})
    return found


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


def _mean(rows: Sequence[Row], columns: Sequence[str], changed: Row, *, n: int | None = None) -> Row:
    lacking = [row for row in rows if row["missing"]]
    numbers: Row | str
    if lacking:
        numbers = lacking[0]["missing"] if len(rows) == 1 else f"{len(lacking)} of {len(rows)} missing"
    else:
        numbers = {column: _column_mean([row[column] for row in rows], column) for column in columns}
        if "n" in columns:
            numbers["n"] = sum(row["n"] for row in rows) if n is None else n
    row = {key: value for key, value in rows[0].items() if key not in (*columns, "missing", *LAST)} | changed
    return finished(row, numbers, columns, (job_id for row in rows for job_id in row["job_ids"]))


def _column_mean(values: Sequence[float | None], column: str) -> float | None:
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return None
    # a temperature acts as a factor
    return float(np.exp(np.mean(np.log(found))) if column == "temperature" else np.mean(found))


def _bucket(language: str) -> str:
    return LANGUAGES[language].bucket if language in LANGUAGES else "other"
