"""THE long table of a study: every number that a view shows is a field of it.

A row is a cell on a test, over one language, a resource bucket or all languages. Rows of one seed come first;
a cell with several seeds then has the means over them. Over a bucket and over all languages there are a macro
row and a micro row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from analysis.inference.estimates import Estimate, interval
from analysis.reading.headline import METRICS
from analysis.reading.shards import (
    BUCKETS,
    Average,
    Cell,
    Metrics,
    Missing,
    Shard,
    Study,
    Test,
    resource_order,
)
from analysis.results.aggregate import by_seed, combined_hash, mean_estimate, mean_metrics

Level = Literal["language", "bucket", "all"]
AVERAGES: dict[Level, tuple[Average, ...]] = {
    "language": ("macro",),
    "bucket": ("macro", "micro"),
    "all": ("macro", "micro"),
}
FLOORS = {metric.name: metric.floor_name for metric in METRICS if metric.has_floor}


@dataclass(frozen=True)
class Number:
    """One metric of a row."""

    value: float | None = None
    """None where the row is missing, or the protocol has no such number."""
    low: float | None = None
    """Of the 95% interval; None where the metric has none."""
    high: float | None = None
    floor: float | None = None
    """Of an ECE: about what a perfectly calibrated model would show."""
    missing: Missing | None = None
    """Why the row is missing."""


NOT_PLANNED = Number(missing=Missing("not planned"))
"""A cell that the study does not ask in this language: there is no such job."""


@dataclass(frozen=True, eq=False)
class Row:
    """The mean over some shards of one cell, or the reason why there is none."""

    cell: Cell
    """Without its seed where the row is a mean over seeds."""
    level: Level
    name: str
    """The language, the bucket or `all`."""
    average: Average
    shards: tuple[Shard, ...]
    metrics: Metrics | None
    _numbers: dict[str, Number] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> Number:
        """A metric by its name, computed when it is first asked for."""
        if metric not in self._numbers:
            self._numbers[metric] = self._number(metric)
        return self._numbers[metric]

    def _number(self, metric: str) -> Number:
        if self.metrics is None:
            return Number(missing=self.missing)
        low, high = self.interval(metric) or (None, None)
        floor = self.metrics.values[FLOORS[metric]] if metric in FLOORS else None
        return Number(self.value(metric), low, high, floor)

    def value(self, metric: str) -> float | None:
        """A metric without its interval, which takes longer to compute."""
        return None if self.metrics is None else self.metrics.values[metric]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """(low, high), 95%, of examples like these, and where there are several seeds of others."""
        estimate = self.estimate(metric)
        return None if estimate is None else interval(estimate)

    def estimate(self, metric: str) -> Estimate | None:
        """The mean with its paired replicates; None where it is missing, or the metric has no interval."""
        return mean_estimate(self.shards, metric, self.average)

    @property
    def test(self) -> Test:
        return self.shards[0].test

    @property
    def n(self) -> int | None:
        """Examples of one seed; over several languages their sum."""
        return None if self.metrics is None else self.metrics.n

    @property
    def num_questions(self) -> int | None:
        """Different questions; fewer than `n` where languages share them."""
        estimate = self.estimate("accuracy")
        return None if estimate is None else estimate.num_items

    @cached_property
    def num_seeds(self) -> int:
        """1 for a base model too."""
        return len(by_seed(self.shards))

    @property
    def num_missing(self) -> int:
        return sum(shard.missing is not None for shard in self.shards)

    @property
    def missing(self) -> Missing | None:
        """Why there are no numbers: the reason itself for one shard, else how many of how many."""
        if self.num_missing == 0:
            return None
        if len(self.shards) == 1:
            return self.shards[0].missing
        return Missing("incomplete", f"{self.num_missing} of {len(self.shards)} missing")

    @property
    def job_ids(self) -> list[str]:
        return [shard.job_id for shard in self.shards]

    @property
    def record_hash(self) -> str | None:
        """Over the records that the numbers were computed from, 16 hex; None where the row is missing."""
        if self.metrics is None:
            return None
        return combined_hash({shard.job_id: shard.record_hash or "" for shard in self.shards})


@dataclass(frozen=True, eq=False)
class LongTable:
    """All rows of a study."""

    study: Study
    rows: tuple[Row, ...]

    def row(self, test: Test, cell: Cell, name: str = "all") -> Row | None:
        """The row of a language, or the macro row of a bucket or of all; None where it was not planned.

        A cell without its seed has the mean over its seeds.
        """
        return self._index.get((test, cell, name))

    def number(self, test: Test, cell: Cell, name: str, metric: str) -> Number:
        """One metric of a row, NOT_PLANNED where there is no such row."""
        row = self.row(test, cell, name)
        return NOT_PLANNED if row is None else row[metric]

    def places(self, test: Test, cells: Iterable[Cell]) -> list[tuple[Level, str]]:
        """The level and name of every row that any of the cells has, in the order of the table."""
        shards = [shard for cell in cells for shard in self.study.select(test, cell)]
        return [(level, name) for level, name, _ in groups(shards)]

    def names(self, test: Test, cells: Iterable[Cell], level: Level) -> list[str]:
        """The languages or buckets that any of the cells has, from rich to poor in resources."""
        return [name for of_level, name in self.places(test, cells) if of_level == level]

    @cached_property
    def _index(self) -> dict[tuple[Test, Cell, str], Row]:
        index: dict[tuple[Test, Cell, str], Row] = {}
        for row in self.rows:  # means over seeds come last, and stand for the cell without its seed
            if row.level == "language" or row.average == "macro":
                index[row.test, row.cell.without("seed"), row.name] = row
                index[row.test, row.cell, row.name] = row
        return index


@lru_cache(maxsize=2)
def long_table(study: Study) -> LongTable:
    """The long table; the same for every view of a study."""
    runs = study.runs()
    over_seeds = [cell for cell in study.groups() if sum(run.without("seed") == cell for run in runs) > 1]
    return LongTable(
        study,
        tuple(
            summarise(members, average, cell=cell, level=level, name=name)
            for test in study.tests()
            for cell in (*runs, *over_seeds)
            for level, name, members in groups(study.select(test, cell))
            for average in AVERAGES[level]
        ),
    )


def groups(shards: Sequence[Shard]) -> Iterator[tuple[Level, str, list[Shard]]]:
    """Each language, each resource bucket and all languages that have shards, from rich to poor."""
    for language in sorted({shard.language for shard in shards}, key=resource_order):
        yield "language", language, [shard for shard in shards if shard.language == language]
    for bucket in BUCKETS:
        if members := [shard for shard in shards if shard.bucket == bucket]:
            yield "bucket", bucket, members
    if shards:
        yield "all", "all", list(shards)


def summarise(
    shards: Sequence[Shard],
    average: Average = "macro",
    *,
    cell: Cell | None = None,
    level: Level = "all",
    name: str = "all",
) -> Row:
    """The mean over shards of one cell (any languages, any seeds); a single shard is its own mean.

    Raises ValueError for no shards, RecordError where seeds have different numbers of examples.
    """
    if not shards:
        raise ValueError("there are no shards to summarise.")
    cell = shards[0].cell.without("seed") if cell is None else cell
    return Row(cell, level, name, average, tuple(shards), mean_metrics(shards, average))
