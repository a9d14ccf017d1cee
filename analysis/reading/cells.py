"""Reading and measuring: the shards of one cell and test together, the cells of one model after each other.

What the estimates of a shard need is large, a number for each example and bin. So it is added up over the
languages of a cell, for its micro means, as they are read; only replicates are kept.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from analysis.inference.bootstrap import Resamples, Sums, resample
from analysis.reading.cell_records import BASE, COMPARED, UNSMOOTHED, Answers, CellRecords
from analysis.reading.measure import estimates, measure, sum_examples
from analysis.reading.records import read_records
from analysis.reading.scored import Scored, per_example, read_scored
from analysis.reading.shards import Cell, Missing, Shard, Test, resource_order
from study.errors import RecordError
from study.files import digest
from study.jobs.specs import VALIDATION_SPLITS, Benchmark, Source, identity
from study.paths import StudyPaths, items_file

SHARDS_AT_ONCE = 8
"""Their replicates are one product of matrices; their sums, about 8 MiB each, are in memory together."""
CANNOT_BE_USED = (RecordError, ValueError, OSError)
"""What records raise that are broken or foreign; pyarrow raises the last two."""

T = TypeVar("T")
Visit = Callable[[CellRecords], T]
"""What is to be computed from the records of each cell while they are in memory."""
Planned = tuple[Shard, Mapping[str, Any]]
"""A shard without its numbers, and its spec."""
Loaded = tuple[list[Shard], T | None]
"""The shards of one cell on one test, with their numbers, and what the visit returned, if there was one."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The records of several jobs, added up."""

    job_ids: frozenset[str]
    sums: Sums | None
    """None where one of the jobs is missing."""

    def __add__(self, other: Pool) -> Pool:
        both = None if self.sums is None or other.sums is None else self.sums + other.sums
        return Pool(self.job_ids | other.job_ids, both)


@dataclass(frozen=True, eq=False)
class Items:
    """What all jobs on one language of a benchmark and split have to ask, taken from the first usable one."""

    job_id: str
    rows: NDArray[np.int64]
    """(N,) the place of each example among those resampled."""
    label: NDArray[np.int64]
    """(N,)"""
    digest: str
    """16 hex over the ids and right options, in the order of ids."""


@dataclass(frozen=True, eq=False)
class CellWork:
    """One cell on one test, to be read."""

    paths: StudyPaths
    shards: tuple[Planned, ...]
    resampled: tuple[str, ...]
    """The example ids of the benchmark and split; empty where no records can be used."""
    items: Mapping[str, Items]
    """By language."""
    already_read: Mapping[str, Answers]
    """By job id: a part is read once."""

    @property
    def test(self) -> Test:
        return self.shards[0][0].test

    @property
    def cell(self) -> Cell:
        return self.shards[0][0].cell

    @property
    def num_examples(self) -> int:
        languages = [shard.language for shard, _ in self.shards if shard.missing is None]
        return sum(len(self.items[language].rows) for language in languages)


@dataclass(frozen=True, eq=False)
class Work(Generic[T]):
    """Cells that one process reads one after the other."""

    cells: tuple[CellWork, ...]
    """In the order of `comparison_order` where there is a visit."""
    visit: Visit[T] | None = None
    """Called with each cell on each test, validation splits excepted."""
    validation: Test | None = None
    """The validation split of the benchmark, where the study evaluates one."""


def comparison_order(cells: Sequence[CellWork]) -> list[CellWork]:
    """The cells of one model in an order in which few need to be kept in memory.

    The base model comes first, a training without smoothing just before those with it, and the validation
    split of a cell before its other splits.
    """
    keys = list(dict.fromkeys(work.cell.without("label_smoothing") for work in cells))
    in_plan = list(dict.fromkeys(work.cell for work in cells))

    def place(work: CellWork) -> tuple[bool, int, float, int, bool]:
        cell = work.cell
        key = keys.index(cell.without("label_smoothing"))
        is_test = work.test[1] not in VALIDATION_SPLITS
        return (not cell.is_base, key, _smoothing(cell), in_plan.index(cell), is_test)

    return sorted(cells, key=place)


def load_cells(work: Work[T]) -> Iterator[Loaded[T]]:
    """Read and measure cells, and visit each while its records are in memory.

    In memory are at most three cells, one with its validation split, its base model, and the same training
    without smoothing.
    """
    compared: dict[tuple[Test, str], CellRecords] = {}
    for cell, splits in itertools.groupby(work.cells, key=lambda split: split.cell):
        key = cell.without("label_smoothing")
        compared = {
            (test, name): records
            for (test, name), records in compared.items()
            if name == BASE or records.cell.without("label_smoothing") == key
        }
        validation = None
        if work.validation is not None:
            validation = CellRecords(work.validation, cell, {}, {})  # if the cell is not evaluated there
        for split in splits:
            shards, answers = load_cell(split, keep=work.visit is not None)
            visited, test = None, split.test
            if work.visit is not None and test == work.validation:
                validation = _records_of(split, shards, answers)
            elif work.visit is not None and test[1] not in VALIDATION_SPLITS:
                records = _records_of(split, shards, answers)
                before = {name: compared[test, name] for name in COMPARED if (test, name) in compared}
                visited = work.visit(replace(records, before=before, validation=validation))
                if cell.is_base:
                    compared[test, BASE] = records
                elif not _smoothing(cell):
                    compared[test, UNSMOOTHED] = records
                del records, before
            del answers  # before the next cell is read
            yield shards, visited


def _smoothing(cell: Cell) -> float:
    return float(cell.get("label_smoothing") or 0.0)


def _records_of(work: CellWork, shards: Sequence[Shard], answers: Mapping[str, Answers]) -> CellRecords:
    ordered = sorted(shards, key=lambda shard: resource_order(shard.language))
    files = {shard.language: _items_file(work.paths, spec) for shard, spec in work.shards}
    return CellRecords(
        work.test,
        work.cell,
        {shard.language: shard for shard in ordered},
        {shard.language: answers[shard.job_id] for shard in ordered if shard.job_id in answers},
        {language: file for language, file in files.items() if file is not None},
    )


def _items_file(paths: StudyPaths, spec: Mapping[str, Any]) -> Path | None:
    """The table of a shard's items, where evaluation left one."""
    try:
        source = Source(**spec["benchmark"]["source"])
        benchmark = Benchmark(**{**spec["benchmark"], "source": source})
    except (KeyError, TypeError):  # records that were imported
        return None
    file = items_file(paths.items, benchmark.name, digest(identity(benchmark)), spec["language"])
    return file if file.is_file() else None


def read_shard(paths: StudyPaths, shard: Shard, spec: Mapping[str, Any]) -> Answers:
    """Read and measure the records of a shard that is done; raises one of CANNOT_BE_USED."""
    table, record_hash = read_records(paths.job(shard.job_id), shard.job_id, spec)
    scored = read_scored(table, shard.protocol)
    examples = per_example(scored)
    return Answers(table, record_hash, scored, examples, *measure(scored, examples))


def refused(paths: StudyPaths, shard: Shard, error: Exception) -> Shard:
    """The shard with the reason why its records cannot be used."""
    place = "" if str(paths.job(shard.job_id).root) in str(error) else f"jobs/{shard.job_id}: "
    # reasons are published: without the place of the study on this machine
    return replace(shard, missing=Missing("unreadable", f"{place}{error}".replace(f"{paths.root}/", "")))


@functools.lru_cache(maxsize=4)
def _resamples(example_ids: tuple[str, ...]) -> Resamples:
    return resample(example_ids)


def load_cell(work: CellWork, *, keep: bool = False) -> tuple[list[Shard], dict[str, Answers]]:
    """The shards of one cell and test, with their numbers, in the order given.

    keep: also return the records of each job whose records can be used.
    """
    buckets: dict[str, Pool] = {}
    shards: list[Shard] = []
    kept: dict[str, Answers] = {}
    for start in range(0, len(work.shards), SHARDS_AT_ONCE):
        measured = []
        for planned in work.shards[start : start + SHARDS_AT_ONCE]:
            shard, answers, sums = _measured(work, *planned)
            measured.append((shard, sums))
            if keep and answers is not None:
                kept[shard.job_id] = answers
        usable = [sums for _, sums in measured if sums is not None]
        by_shard = iter(estimates(_resamples(work.resampled), usable) if usable else ())
        for shard, sums in measured:
            pool = Pool(frozenset({shard.job_id}), sums)
            buckets[shard.bucket] = buckets[shard.bucket] + pool if shard.bucket in buckets else pool
            shards.append(shard if sums is None else replace(shard, estimates=next(by_shard)))
    everything = functools.reduce(operator.add, buckets.values())
    pools = [*buckets.values(), everything]
    micro_sums = {
        pool.job_ids: pool.sums for pool in pools if pool.sums is not None and len(pool.job_ids) > 1
    }
    if micro_sums:
        micro = estimates(_resamples(work.resampled), list(micro_sums.values()))
        pooled = dict(zip(micro_sums, micro, strict=True))
        shards = [replace(shard, pooled=pooled) for shard in shards]
    return shards, kept


def _measured(
    work: CellWork, shard: Shard, spec: Mapping[str, Any]
) -> tuple[Shard, Answers | None, Sums | None]:
    """A shard with its metrics, its records, and their sums; or with the reason why it has none of these."""
    if shard.missing is not None:
        return shard, None, None
    resamples = _resamples(work.resampled)
    try:
        answers = work.already_read.get(shard.job_id) or read_shard(work.paths, shard, spec)
        items = work.items[shard.language]
        rows = _place_rows(items, resamples, answers.scored)
    except CANNOT_BE_USED as error:
        return refused(work.paths, shard, error), None, None
    shard = replace(
        shard,
        metrics=answers.metrics,
        bins=answers.bins,
        record_hash=answers.record_hash,
        items=items.digest,
    )
    return shard, answers, sum_examples(resamples, rows, answers.scored, answers.examples)


def items_of(job_id: str, scored: Scored, resampled: Sequence[str]) -> Items:
    """What a shard asked; its ids are among those `resampled`, which are sorted."""
    asked = zip(scored.example_ids.tolist(), scored.label.tolist(), strict=True)
    text = "\n".join(f"{name}\t{label}" for name, label in sorted(asked))
    rows = np.searchsorted(np.asarray(resampled), scored.example_ids).astype(np.int64)
    return Items(job_id, rows, scored.label, hashlib.sha256(text.encode()).hexdigest()[:16])


def _place_rows(expected: Items, resamples: Resamples, scored: Scored) -> NDArray[np.int64]:
    """(N,) the place of each example among those resampled, in the order in which this shard asked them.

    Raises RecordError where two jobs asked different items, or have different right options for one.
    """
    ids = resamples.example_ids[expected.rows]
    if np.array_equal(scored.example_ids, ids) and np.array_equal(scored.label, expected.label):
        return expected.rows
    theirs = dict(zip(ids.tolist(), expected.label.tolist(), strict=True))
    ours = dict(zip(scored.example_ids.tolist(), scored.label.tolist(), strict=True))
    problems = {
        "that only it has": [name for name in ours if name not in theirs],
        "that it lacks": [name for name in theirs if name not in ours],
        "with another right option": [
            name for name, label in ours.items() if theirs.get(name, label) != label
        ],
    }
    sentences = [
        f"{len(names)} examples {problem}, such as '{names[0]}'"
        for problem, names in problems.items()
        if names
    ]
    if sentences:
        raise RecordError(f"asked other items than job {expected.job_id}: {'; '.join(sentences)}")
    return resamples.rows(scored.example_ids)
