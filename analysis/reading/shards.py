"""A study whose records have become numbers: one `Shard` per evaluate job, by cell, test and language.

A missing shard has a reason instead of metrics: nothing missing becomes 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from analysis.inference.estimates import Estimate
from study.bins import Bins
from study.jobs.contrasts import EQUIVALENCE_MARGIN, DeclaredContrast
from study.languages import LANGUAGES

BUCKETS = ("high", "mid", "low", "other")
"""Resource buckets from rich to poor; `other` holds languages that are not in the project's table."""

MissingKind = Literal["not planned", "not done", "failed", "unreadable", "incomplete"]

Average = Literal["macro", "micro"]
Test = tuple[str, str, str]
"""Benchmark, split, protocol."""


@dataclass(frozen=True)
class Missing:
    """Why there is no number."""

    kind: MissingKind
    """`incomplete`: a mean, of which some members are missing."""
    detail: str = ""

    def __str__(self) -> str:
        if self.kind == "incomplete":
            return self.detail
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclass(frozen=True)
class Metrics:
    """The headline metrics of one shard, or a mean of them."""

    n: int
    """Examples, each once however often its options were rotated; of a mean over seeds those of one seed."""
    values: Mapping[str, float | None]
    """By the names and floor names of `headline.METRICS`; None where the protocol has no such number."""

    def __getitem__(self, name: str) -> float:
        """A number that every protocol has. Raises ValueError where it is None."""
        value = self.values[name]
        if value is None:
            raise ValueError(f"there is no {name} under this protocol.")
        return value


@dataclass(frozen=True)
class Cell:
    """One combination of axis values, in the grid's order; a base model has `model` alone."""

    axes: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, axes: Mapping[str, Any]) -> Cell:
        """From a plan: an axis that is null is left out, a list (as in `exclude_sources`) becomes text."""
        return cls(
            tuple(
                (axis, (", ".join(map(str, value)) or "none") if isinstance(value, list) else value)
                for axis, value in axes.items()
                if value is not None
            )
        )

    def get(self, name: str) -> Any:
        """The value of an axis, None where the cell lacks it."""
        return dict(self.axes).get(name)

    def without(self, *names: str) -> Cell:
        return Cell(tuple((axis, value) for axis, value in self.axes if axis not in names))

    @property
    def is_base(self) -> bool:
        """Not trained by this study."""
        return all(axis == "model" for axis, _ in self.axes)


@dataclass(frozen=True, eq=False)
class Shard:
    """One evaluate job: one model on one language."""

    job_id: str
    cell: Cell
    benchmark: str
    split: str
    protocol: str
    language: str
    metrics: Metrics | None
    bins: Mapping[str, Bins] | None
    """By kind of confidence, `raw` and `renormalised`."""
    record_hash: str | None
    """16 hex over the records that the metrics were computed from; None without metrics."""
    missing: Missing | None
    """Why there are no metrics; None when there are."""
    estimates: Mapping[str, Estimate] | None = None
    """By the names of `headline.METRICS` that have an interval; None without metrics."""
    pooled: Mapping[frozenset[str], Mapping[str, Estimate]] = field(default_factory=dict)
    """Micro means of its cell over all languages and each resource bucket, by the job ids in them."""
    items: str | None = None
    """16 hex over the example ids and right options that were asked; None without metrics."""

    @property
    def is_refused(self) -> bool:
        """Done, with records that cannot be used."""
        return self.missing is not None and self.missing.kind == "unreadable"

    @property
    def test(self) -> Test:
        """What was asked."""
        return (self.benchmark, self.split, self.protocol)

    @property
    def place(self) -> tuple[Test, frozenset[tuple[str, Any]], str]:
        """Unique in a study. The order of axes does not matter."""
        return (self.test, frozenset(self.cell.axes), self.language)

    @property
    def bucket(self) -> str:
        return bucket_of(self.language)


@dataclass(frozen=True, eq=False)
class Study:
    """A study's evaluations, whether they ran or not, in the order of the plan."""

    name: str
    description: str
    shards: tuple[Shard, ...]
    contrasts: tuple[DeclaredContrast, ...] = ()
    """Declared by the grid."""
    equivalence_margin: float = EQUIVALENCE_MARGIN
    """A change below this counts as none, in an equivalence test."""

    @property
    def missing(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.missing]

    def tests(self) -> list[Test]:
        """Each test, once."""
        return list(dict.fromkeys(shard.test for shard in self.shards))

    def runs(self) -> list[Cell]:
        """Each cell, once; seeds apart."""
        return list(dict.fromkeys(shard.cell for shard in self.shards))

    def groups(self) -> list[Cell]:
        """Each cell without its seed, once."""
        return list(dict.fromkeys(shard.cell.without("seed") for shard in self.shards))

    def languages(self) -> list[str]:
        """Each language, once, from rich to poor in resources, then by code."""
        return sorted({shard.language for shard in self.shards}, key=resource_order)

    def select(self, test: Test, cell: Cell, language: str | None = None) -> list[Shard]:
        """The shards of a test and cell in all languages or one; a cell without its seed has all seeds."""
        return self._index.get((test, cell, language), [])

    @cached_property
    def _index(self) -> dict[tuple[Test, Cell, str | None], list[Shard]]:
        index: dict[tuple[Test, Cell, str | None], list[Shard]] = {}
        for shard in self.shards:
            for cell in {shard.cell, shard.cell.without("seed")}:
                for language in (shard.language, None):
                    index.setdefault((shard.test, cell, language), []).append(shard)
        return index


def bucket_of(language: str) -> str:
    """The resource bucket of a language, `other` where the project's table lacks it."""
    return LANGUAGES[language].bucket if language in LANGUAGES else "other"


def resource_order(language: str) -> tuple[int, int, str]:
    """Sorts languages from rich to poor: by bucket, Joshi class, code."""
    known = LANGUAGES.get(language)
    return (BUCKETS.index(known.bucket), -known.joshi, language) if known else (len(BUCKETS), 0, language)
