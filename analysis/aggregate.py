"""A study's prediction records as numbers: one `Shard` per evaluate job, and means over them.

A shard that is not there has a reason instead of metrics, and a mean with such a member is missing itself:
nothing is computed over fewer members than planned, and nothing missing becomes 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis.measure import CONFIDENCES, METRIC_NAMES, Metrics, measure, read_scored
from analysis.metrics import floor_over_bins
from analysis.reading import read_records
from study.bins import Bins, error_over_bins, merge_bins
from study.errors import RecordError, UserError
from study.files import digest, read_json
from study.languages import LANGUAGES
from study.paths import StudyPaths
from study.plan import PLAN_VERSION

BUCKETS = ("high", "mid", "low", "other")
"""Resource buckets from rich to poor; `other` holds languages that are not in the project's table."""

UNREADABLE = "unreadable"

Average = Literal["macro", "micro"]
Test = tuple[str, str, str]
"""Benchmark, split, protocol."""


@dataclass(frozen=True)
class Cell:
    """The axes of the grid that a job stands for, in the grid's order; a base model has `model` alone."""

    axes: tuple[tuple[str, Any], ...]

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
    """Of the records that the metrics were computed from, 16 hex; None where there are no metrics."""
    missing: str | None
    """Why there are no metrics; None when there are."""

    @property
    def is_refused(self) -> bool:
        """Done, with records that cannot be used."""
        return self.missing is not None and self.missing.startswith(UNREADABLE)

    @property
    def test(self) -> Test:
        """What was asked."""
        return (self.benchmark, self.split, self.protocol)

    @property
    def bucket(self) -> str:
        return LANGUAGES[self.language].bucket if self.language in LANGUAGES else "other"


@dataclass(frozen=True, eq=False)
class Study:
    """A study's evaluations, whether they ran or not, in the order of the plan."""

    name: str
    description: str
    shards: tuple[Shard, ...]

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
        """The shards of a test and a cell, of all languages or one; without its seed a cell has all seeds."""
        return self._index.get((test, cell, language), [])

    @cached_property
    def _index(self) -> dict[tuple[Test, Cell, str | None], list[Shard]]:
        index: dict[tuple[Test, Cell, str | None], list[Shard]] = {}
        for shard in self.shards:
            for cell in {shard.cell, shard.cell.without("seed")}:
                for language in (shard.language, None):
                    index.setdefault((shard.test, cell, language), []).append(shard)
        return index


def resource_order(language: str) -> tuple[int, int, str]:
    """Sorts languages from rich to poor: by bucket, Joshi class, code."""
    known = LANGUAGES.get(language)
    return (BUCKETS.index(known.bucket), -known.joshi, language) if known else (len(BUCKETS), 0, language)


@dataclass(frozen=True, eq=False)
class Summary:
    """The mean over some shards, or why there is none."""

    metrics: Metrics | None
    shards: tuple[Shard, ...]
    num_seeds: int
    """1 for a base model too."""

    @property
    def num_missing(self) -> int:
        return sum(shard.missing is not None for shard in self.shards)

    @property
    def missing(self) -> str | None:
        """Why there are no metrics: the reason itself for one shard, else how many of how many."""
        if self.num_missing == 0:
            return None
        if len(self.shards) == 1:
            return self.shards[0].missing
        return f"{self.num_missing} of {len(self.shards)} missing"

    @property
    def job_ids(self) -> list[str]:
        return [shard.job_id for shard in self.shards]

    @property
    def record_hash(self) -> str | None:
        """Of one shard its own, of several 16 hex over theirs with the job ids; None without metrics."""
        if self.metrics is None:
            return None
        if len(self.shards) == 1:
            return self.shards[0].record_hash
        return digest(sorted([shard.job_id, shard.record_hash] for shard in self.shards))


def summarise(shards: Sequence[Shard], average: Average = "macro") -> Summary:
    """The mean over shards of one cell (any languages, any seeds).

    macro: every language counts the same. micro: every example does; its ECE is that of all examples in one
    set of bins. Seeds are averaged last. A single shard is its own mean. Raises ValueError for no shards.
    """
    if not shards:
        raise ValueError("there are no shards to summarise.")
    by_seed: dict[Any, list[Shard]] = {}
    for shard in shards:
        by_seed.setdefault(shard.cell.get("seed"), []).append(shard)
    seeds = [_one_seed(members, average) for members in by_seed.values()]
    complete = [m for m in seeds if m is not None]
    mean = _mean(complete) if len(complete) == len(seeds) else None
    return Summary(mean, tuple(shards), len(by_seed))


def _one_seed(shards: Sequence[Shard], average: Average) -> Metrics | None:
    found = [shard.metrics for shard in shards if shard.metrics is not None]
    if len(found) < len(shards):
        return None
    total = sum(m.n for m in found)
    if average == "macro":
        return _mean(found, n=total)
    pooled: dict[str, Any] = {}
    for kind in CONFIDENCES:
        bins = merge_bins([shard.bins[kind] for shard in shards if shard.bins is not None])
        pooled[f"ece_{kind}"] = error_over_bins(bins)
        pooled[f"ece_floor_{kind}"] = floor_over_bins(bins)
    return _mean(found, n=total, weights=[m.n for m in found], **pooled)


def _mean(
    members: Sequence[Metrics], *, weights: Sequence[int] | None = None, n: int | None = None, **given: Any
) -> Metrics:
    """The mean of each field not `given`; None where a member has None. n: by default the common one."""
    counts = {m.n for m in members}
    if n is None and len(counts) != 1:
        raise RecordError(f"seeds of one cell have different numbers of examples: {sorted(counts)}")
    values: dict[str, Any] = {"n": members[0].n if n is None else n, **given}
    for name in METRIC_NAMES:
        if name not in values:
            column = [getattr(m, name) for m in members]
            values[name] = None if None in column else float(np.average(column, weights=weights))
    return Metrics(**values)


def load_study(study_dir: Path) -> Study:
    """Read a study folder: its plan, and the records of every evaluate job that is complete.

    Raises UserError where the folder is not a study, has another plan version, or plans no evaluation.
    """
    paths = StudyPaths(Path(study_dir))
    if not paths.plan.is_file():
        raise UserError(
            "is not a study (no plan.json)", where=str(study_dir), remedy="give the folder <outputs>/<study>"
        )
    try:
        plan = read_json(paths.plan)
        known = plan["schema_version"] == PLAN_VERSION
        jobs = [
            {"job_id": job["job_id"], **plan["models"][job["model"]], "spec": plan["shards"][job["shard"]]}
            for job in (plan["jobs"] if known else ())
            if job["kind"] == "evaluate"
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"is not a plan ({error!r})", where=str(paths.plan), remedy="sweep the grid again"
        ) from None
    if not known:
        raise UserError(
            "is not a plan of this version of calsweep", where=str(paths.plan), remedy="sweep the grid again"
        )
    if not jobs:
        raise UserError(
            "plans no evaluation", where=str(paths.plan), remedy="add evaluate.benchmarks to the grid"
        )
    shards = tuple(_load_shard(paths, job) for job in jobs)
    return Study(str(plan["study"]), plan.get("description") or "", shards)


def _load_shard(paths: StudyPaths, job: Mapping[str, Any]) -> Shard:
    spec, job_id = job["spec"], str(job["job_id"])
    cell = Cell(tuple((axis, value) for axis, value in job["cell"].items() if value is not None))
    found: Metrics | None = None
    bins: Mapping[str, Bins] | None = None
    record_hash: str | None = None
    missing: str | None = None
    folder = paths.job(job_id)
    if not folder.done.exists():
        missing = "failed" if folder.failed.exists() else "not done"
    else:
        try:
            table, record_hash = read_records(folder, job_id, spec)
            found, bins = measure(read_scored(table, str(spec["protocol"])))
        except (RecordError, ValueError, OSError) as error:  # pyarrow raises the latter two
            record_hash = None
            place = "" if str(folder.root) in str(error) else f"jobs/{job_id}: "
            # what is missing is published: without the place of the study on this machine
            missing = f"{UNREADABLE}: {place}{error}".replace(f"{paths.root}/", "")
    return Shard(
        job_id=job_id,
        cell=cell,
        benchmark=str(spec["benchmark"]["name"]),
        split=str(spec["benchmark"].get("split", "test")),
        protocol=str(spec["protocol"]),
        language=str(spec["language"]),
        metrics=found,
        bins=bins,
        record_hash=record_hash,
        missing=missing,
    )
