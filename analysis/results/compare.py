"""Two studies side by side: `compare A B`, over the cells that both have, item by item the same questions.

A cell is a model under the same values of every axis, on the same benchmark, split, protocol and language.
Differences are B - A. A language's numbers are means over the seeds that both have of it, those of a bucket
and of all languages macro means over those languages. What only one has is listed, and takes no part.

A difference has a 95% interval and a p-value from bootstrap replicates that both studies share. Seeds are
paired as well: a seed's difference is one number, and their spread enters as Student's t. So a row whose
languages have different seeds has neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.inference.estimates import Estimate, difference, holm, interval, mean, over_seeds, p_value
from analysis.reading.loading import load_studies
from analysis.reading.shards import BUCKETS, Cell, Shard, Study, Test, resource_order
from study.axes import axis_text
from study.errors import RecordError, UserError
from study.paths import StudyPaths

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = {
    "accuracy": "accuracy",
    "confidence_raw": "conf. raw",
    "ece_raw": "ECE raw",
    "confidence_renormalised": "conf. ren.",
    "ece_renormalised": "ECE ren.",
}
"""What is compared, and its short heading."""
NAMED = 3


@dataclass(frozen=True, eq=False)
class Pair:
    """One shard as both studies have it, with metrics on both sides and the same items."""

    a: Shard
    b: Shard

    @property
    def cell(self) -> Cell:
        """Without its seed."""
        return self.a.cell.without("seed")


@dataclass(frozen=True)
class Change:
    """A number in A and in B, and what the examples say of the difference."""

    a: float
    b: float
    low: float | None
    """95%, of the difference; None, as the p-value, where languages have different seeds."""
    high: float | None
    p_value: float | None
    """Two-sided, that there is no difference."""
    holm: float | None
    """The same after Holm's correction over the languages of a cell; None for buckets and all languages."""

    @property
    def difference(self) -> float:
        return self.b - self.a


@dataclass(frozen=True)
class Row:
    """A cell without its seed x (a language | a resource bucket | all languages)."""

    test: Test
    cell: Cell
    level: str
    name: str
    n: int
    """Items, of one seed; over several languages their sum."""
    num_seeds: int
    """The fewest that a language of this row has."""
    changes: Mapping[str, Change]
    pairs: Sequence[Pair]


@dataclass(frozen=True, eq=False)
class Comparison:
    a: Study
    b: Study
    rows: tuple[Row, ...]
    rest: tuple[str, ...]
    """What was not compared, and why, in sentences."""


def compare(a_dir: Path, b_dir: Path) -> Comparison:
    """Compare two study folders.

    Raises UserError where one is not a study, they have no result in common, or they asked other items.
    """
    a, b = load_studies([a_dir, b_dir])
    ours, theirs = ({shard.place: shard for shard in study.shards} for study in (a, b))
    pairs, rest = [], []
    for place in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(place), theirs.get(place)
        if one is not None and other is not None and one.metrics is not None and other.metrics is not None:
            _require_same_items(one, a_dir, other, b_dir)
            pairs.append(Pair(one, other))
        else:
            rest.append((one or other, _why_not(one, other)))
    if not pairs:
        raise UserError(
            f"has no result in common with {b_dir}",
            where=str(a_dir),
            remedy="compare studies with the same model, axes, benchmark, split, protocol and language",
        )
    return Comparison(a, b, tuple(_rows(pairs)), tuple(_sentences(rest)))


def _why_not(one: Shard | None, other: Shard | None) -> str:
    if other is None:
        return "only in A"
    if one is None:
        return "only in B"
    reasons = [f"{name}: {shard.missing}" for name, shard in (("A", one), ("B", other)) if shard.missing]
    return ", ".join(reasons)


def _sentences(rest: Sequence[tuple[Shard | None, str]]) -> Iterator[str]:
    """One for each cell and reason, with its languages."""
    languages: dict[tuple[str, str], list[str]] = {}
    for shard, why in rest:
        assert shard is not None
        cell = " · ".join([*shard.test, *(axis_text(axis, value) for axis, value in shard.cell.axes)])
        languages.setdefault((cell, why), []).append(shard.language)
    for (cell, why), codes in languages.items():
        yield f"{cell}: {', '.join(sorted(codes, key=resource_order))} ({why})"


def _require_same_items(one: Shard, a_dir: Path, other: Shard, b_dir: Path) -> None:
    """Differences are paired: of other questions they would say nothing about the models."""
    if one.items == other.items:
        return
    ours, theirs = _items(one, a_dir), _items(other, b_dir)
    a, b = (
        dict(zip(t["example_id"].to_pylist(), t["label"].to_pylist(), strict=True)) for t in (ours, theirs)
    )
    problems = {
        "only in A": [i for i in a if i not in b],
        "only in B": [i for i in b if i not in a],
        "with another right option": [i for i in a if i in b and a[i] != b[i]],
    }
    told = [
        f"{len(ids)} {problem} ({', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''})"
        for problem, ids in problems.items()
        if ids
    ]
    if told:
        raise UserError(
            f"asked other items than {b_dir}: {', '.join(told)}",
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


def _rows(pairs: Sequence[Pair]) -> Iterator[Row]:
    groups: dict[tuple[Test, Cell], dict[str, list[Pair]]] = {}
    for pair in pairs:
        languages = groups.setdefault((pair.a.test, pair.cell), {})
        languages.setdefault(pair.a.language, []).append(pair)
    for (test, cell), found in groups.items():
        languages = {code: found[code] for code in sorted(found, key=resource_order)}
        yield from _corrected(
            [_row(test, cell, "language", code, [members]) for code, members in languages.items()]
        )
        for bucket in BUCKETS:
            if chosen := [members for members in languages.values() if members[0].a.bucket == bucket]:
                yield _row(test, cell, "bucket", bucket, chosen)
        yield _row(test, cell, "all", "all", list(languages.values()))


def _row(test: Test, cell: Cell, level: str, name: str, languages: Sequence[Sequence[Pair]]) -> Row:
    counts = [{pair.a.metrics.n for pair in members if pair.a.metrics} for members in languages]
    if any(len(of_language) > 1 for of_language in counts):
        raise RecordError(
            f"seeds of one cell have different numbers of examples: {name} of {', '.join(test)}"
        )
    return Row(
        test=test,
        cell=cell,
        level=level,
        name=name,
        n=sum(min(of_language) for of_language in counts),
        num_seeds=min(len(members) for members in languages),
        changes={metric: _change(languages, metric) for metric in NUMBERS},
        pairs=[pair for members in languages for pair in members],
    )


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows of a cell's languages, with Holm's correction over them."""
    corrected = {metric: holm({row.name: row.changes[metric].p_value for row in rows}) for metric in NUMBERS}
    return [
        replace(
            row,
            changes={
                metric: replace(change, holm=corrected[metric][row.name])
                for metric, change in row.changes.items()
            },
        )
        for row in rows
    ]


def _change(languages: Sequence[Sequence[Pair]], metric: str) -> Change:
    """The one place where the numbers of pairs become those of a row: over seeds, then over languages."""
    each = [
        np.mean([(getattr(p.a.metrics, metric), getattr(p.b.metrics, metric)) for p in members], axis=0)
        for members in languages
    ]
    a, b = np.mean(each, axis=0)
    paired = _paired(languages, metric)
    if paired is None:
        return Change(float(a), float(b), None, None, None, None)
    return Change(float(a), float(b), *interval(paired), p_value(paired), None)


def _paired(languages: Sequence[Sequence[Pair]], metric: str) -> Estimate | None:
    """B - A: of each seed over languages, then over seeds; None where languages have different seeds."""
    by_seed: dict[Any, list[Pair]] = {}
    for members in languages:
        for pair in members:
            by_seed.setdefault(pair.a.cell.get("seed"), []).append(pair)
    if len({len(members) for members in languages}) > 1 or any(
        len(pairs) != len(languages) for pairs in by_seed.values()
    ):
        return None
    differences = []
    for pairs in by_seed.values():
        a, b = (mean([_estimate(shard, metric) for shard in side]) for side in _sides(pairs))
        assert a is not None  # as b: of shards with metrics
        assert b is not None
        differences.append(difference(b, a))
    return over_seeds(differences)


def _sides(pairs: Sequence[Pair]) -> tuple[list[Shard], list[Shard]]:
    return [pair.a for pair in pairs], [pair.b for pair in pairs]


def _estimate(shard: Shard, metric: str) -> Estimate:
    assert shard.estimates is not None  # a pair has metrics
    return shard.estimates[metric]
