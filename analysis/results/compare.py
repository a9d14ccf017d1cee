"""Two studies side by side: `compare A B`, over the cells that both have, item by item the same questions.

A cell is a model under the same values of every axis, on the same benchmark, split, protocol and language.
Differences are B - A. A language's numbers are means over the seeds that both have of it, those of a bucket
and of all languages macro means over those languages. What only one has is listed, and takes no part.

A difference has a 95% interval and a p-value from bootstrap replicates that both studies share, by the same
rule as in one study (`analysis/inference/changes.py`): the axes of a cell are the same, so its seeds are
paired. A row whose languages have different seeds has neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.inference.changes import change
from analysis.inference.estimates import Estimate, mean, over_seeds
from analysis.reading.headline import METRICS, WITH_DIFFERENCES, Metric
from analysis.reading.loading import load_studies
from analysis.reading.shards import Cell, Shard, Test, resource_order
from analysis.results.aggregate import by_seed
from analysis.results.differences import Difference, corrected, inferred
from analysis.results.table import Level, Row, groups, summarise
from study.axes import axis_text
from study.bins import signed_root
from study.errors import UserError
from study.paths import StudyPaths

if TYPE_CHECKING:
    import pyarrow as pa

COMPARED = [metric for metric in METRICS if metric in WITH_DIFFERENCES]
MAX_NAMED_ITEMS = 3


@dataclass(frozen=True)
class Compared:
    """One metric in A and in B."""

    a: float
    b: float
    difference: Difference


@dataclass(frozen=True, eq=False)
class ComparedRow:
    """A cell without its seed, over a language, a resource bucket or all languages."""

    test: Test
    cell: Cell
    level: Level
    name: str
    n: int
    """Items, of one seed; over several languages their sum."""
    num_seeds: int
    """The fewest that a language of this row has."""
    changes: Mapping[str, Compared]
    """By metric, where the protocol has it."""
    job_ids_a: list[str]
    job_ids_b: list[str]
    """In the order of those of A."""


@dataclass(frozen=True, eq=False)
class Comparison:
    rows: tuple[ComparedRow, ...]
    rest: tuple[str, ...]
    """What was not compared, and why, in sentences."""


def compare(a_dir: Path, b_dir: Path) -> Comparison:
    """Compare two study folders.

    Raises UserError where one is not a study, they have no result in common, or they asked other items.
    """
    a, b = ({shard.place: shard for shard in study.shards} for study in load_studies([a_dir, b_dir]))
    pairs: dict[Shard, Shard] = {}
    rest: dict[tuple[str, str], list[str]] = {}
    for place in dict.fromkeys([*a, *b]):
        one, other = a.get(place), b.get(place)
        if one and other and one.metrics and other.metrics:
            _require_same_items(one, a_dir, other, b_dir)
            pairs[one] = other
        elif shard := one or other:
            cell = " · ".join([*shard.test, *(axis_text(axis, value) for axis, value in shard.cell.axes)])
            rest.setdefault((cell, _why_not(one, other)), []).append(shard.language)
    if not pairs:
        raise UserError(
            f"has no result in common with {b_dir}",
            where=str(a_dir),
            remedy="compare studies with the same model, axes, benchmark, split, protocol and language",
        )
    sentences = (
        f"{cell}: {', '.join(sorted(codes, key=resource_order))} ({why})"
        for (cell, why), codes in rest.items()
    )
    return Comparison(tuple(_rows(pairs)), tuple(sentences))


def _why_not(one: Shard | None, other: Shard | None) -> str:
    if other is None:
        return "only in A"
    if one is None:
        return "only in B"
    return ", ".join(f"{name}: {s.missing}" for name, s in (("A", one), ("B", other)) if s.missing)


def _require_same_items(one: Shard, a_dir: Path, other: Shard, b_dir: Path) -> None:
    """Differences are paired: of other questions they would say nothing about the models."""
    if one.items == other.items:
        return
    a, b = (
        dict(zip(table["example_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        for table in (_items(one, a_dir), _items(other, b_dir))
    )
    problems = {
        "only in A": [i for i in a if i not in b],
        "only in B": [i for i in b if i not in a],
        "with another right option": [i for i in a if i in b and a[i] != b[i]],
    }
    named = [
        f"{len(ids)} {problem} ({', '.join(ids[:MAX_NAMED_ITEMS])}{', ...' * (len(ids) > MAX_NAMED_ITEMS)})"
        for problem, ids in problems.items()
        if ids
    ]
    if named:
        raise UserError(
            f"asked other items than {b_dir}: {', '.join(named)}",
            where=f"{a_dir}: {', '.join(one.test)}, {one.language}",
            remedy="compare studies of the same items of a benchmark",
        )


def _items(shard: Shard, study_dir: Path) -> pa.Table:
    """The items of a shard, whose files have been checked: example_id and the right option as it came."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from study.records import parts

    folder = StudyPaths(Path(study_dir)).job(shard.job_id).predictions
    columns = ["example_id", "label", "rotation"]
    table = pa.concat_tables([pq.read_table(path, columns=columns) for path in parts(folder)])
    return table.filter(pc.equal(table["rotation"], 0)).select(["example_id", "label"])


def _rows(pairs: Mapping[Shard, Shard]) -> Iterator[ComparedRow]:
    """pairs: from a shard of A to that of B."""
    by_cell: dict[tuple[Test, Cell], list[Shard]] = {}
    for shard in sorted(pairs, key=lambda shard: resource_order(shard.language)):
        by_cell.setdefault((shard.test, shard.cell.without("seed")), []).append(shard)
    in_order = dict.fromkeys((shard.test, shard.cell.without("seed")) for shard in pairs)
    for test, cell in in_order:
        languages: dict[str, tuple[Row, Row]] = {}
        rows = []
        for level, name, members in groups(by_cell[test, cell]):
            b_members = [pairs[shard] for shard in members]
            if level == "language":
                languages[name] = summarise(members), summarise(b_members)
            sides = [languages[code] for code in dict.fromkeys(shard.language for shard in members)]
            rows.append(
                ComparedRow(
                    test=test,
                    cell=cell,
                    level=level,
                    name=name,
                    n=sum(a.n or 0 for a, _ in sides),
                    num_seeds=min(a.num_seeds for a, _ in sides),
                    changes=_changes(sides, members, pairs),
                    job_ids_a=[shard.job_id for shard in members],
                    job_ids_b=[shard.job_id for shard in b_members],
                )
            )
        yield from _with_holm(rows)


def _with_holm(rows: Sequence[ComparedRow]) -> Iterator[ComparedRow]:
    by_language = {
        row.name: {metric: change.difference for metric, change in row.changes.items()}
        for row in rows
        if row.level == "language"
    }
    after = corrected(by_language, [metric.name for metric in COMPARED])
    for row in rows:
        changes = {
            metric: replace(change, difference=after[row.name][metric]) if row.name in after else change
            for metric, change in row.changes.items()
        }
        yield replace(row, changes=changes)


def _changes(
    languages: Sequence[tuple[Row, Row]], members: Sequence[Shard], pairs: Mapping[Shard, Shard]
) -> dict[str, Compared]:
    """languages: of A and B over their seeds, whose means are those of the row. members: shards of A."""
    sides = (members, [pairs[shard] for shard in members])
    changes = {}
    for metric in COMPARED:
        values = [(a.value(metric.name), b.value(metric.name)) for a, b in languages]
        known = [(a, b) for a, b in values if a is not None and b is not None]
        if len(known) == len(values):
            a, b = (_mean(metric, side) for side in zip(*known, strict=True))
            estimates = [_over_seeds(metric.name, len(languages), side) for side in sides]
            of_value = None
            if estimates[0] is not None and estimates[1] is not None:
                of_value = change(estimates[1], estimates[0])
            changes[metric.name] = Compared(a, b, inferred(b - a, of_value))
    return changes


def _mean(metric: Metric, values: Sequence[float]) -> float:
    if metric.is_squared:
        return signed_root(float(np.mean([value * abs(value) for value in values])))
    return float(np.mean(values))


def _over_seeds(metric: str, num_languages: int, shards: Sequence[Shard]) -> Estimate | None:
    """Over languages, then over seeds; None where languages have different seeds."""
    estimates = {}
    for seed, of_seed in by_seed(shards).items():
        if len(of_seed) != num_languages:
            return None
        estimates[seed] = mean([(shard.estimates or {}).get(metric) for shard in of_seed])
    return over_seeds(estimates)
