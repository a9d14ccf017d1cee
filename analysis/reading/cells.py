"""The shards of one cell and test, read and measured together: the work of one process.

What the estimates of a shard need is large, a number for each example and bin. So the languages of a cell are
added up for its micro means as they are read, and only replicates stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.inference.bootstrap import Resamples, Sums, resample
from analysis.reading.measure import estimates, measure, sum_examples
from analysis.reading.records import read_records
from analysis.reading.scored import PerExample, Scored, per_example, read_scored
from analysis.reading.shards import Metrics, Missing, Shard
from study.bins import Bins
from study.errors import RecordError
from study.paths import StudyPaths

SHARDS_AT_ONCE = 8
"""Their replicates are one product of matrices; their sums, about 8 MiB each, are in memory together."""

Planned = tuple[Shard, Mapping[str, Any]]
"""A shard without its numbers, and its spec."""
Pools = dict[str, tuple[frozenset[str], Sums | None]]
"""By resource bucket: the jobs so far, and their sums, None where one is missing."""


@dataclass(frozen=True, eq=False)
class Items:
    """What the jobs of one place ask, as the first of them in the plan has it."""

    job_id: str
    rows: NDArray[np.int64]
    """(N,) the place of each example among those resampled."""
    label: NDArray[np.int64]
    """(N,)"""
    digest: str
    """16 hex over the ids and right options, in the order of ids."""


@dataclass(frozen=True, eq=False)
class CellWork:
    """A cell and a test."""

    paths: StudyPaths
    shards: tuple[Planned, ...]
    resampled: tuple[str, ...]
    """The example ids of the benchmark and split; empty where nothing can be used."""
    items: Mapping[str, Items]
    """By language."""

    @property
    def num_examples(self) -> int:
        """To be read."""
        done = [shard.language for shard, _ in self.shards if shard.missing is None]
        return sum(len(self.items[language].rows) for language in done if language in self.items)


@dataclass(frozen=True, eq=False)
class Numbers:
    """The records of one shard."""

    scored: Scored
    examples: PerExample
    metrics: Metrics
    bins: Mapping[str, Bins]
    record_hash: str


def read_shard(paths: StudyPaths, shard: Shard, spec: Mapping[str, Any]) -> Numbers | Missing:
    """The numbers of a shard that is done, or why it has none."""
    folder = paths.job(shard.job_id)
    try:
        table, record_hash = read_records(folder, shard.job_id, spec)
        scored = read_scored(table, shard.protocol)
        examples = per_example(scored)
        return Numbers(scored, examples, *measure(scored, examples), record_hash)
    except (RecordError, ValueError, OSError) as error:  # pyarrow raises the latter two
        place = "" if str(folder.root) in str(error) else f"jobs/{shard.job_id}: "
        # what is missing is published: without the place of the study on this machine
        return Missing("unreadable", f"{place}{error}".replace(f"{paths.root}/", ""))


@lru_cache(maxsize=4)
def _resamples(example_ids: tuple[str, ...]) -> Resamples:
    return resample(example_ids)


def load_cell(work: CellWork) -> list[Shard]:
    """The shards of one cell and test, with their numbers, in the order given."""
    pools: Pools = {}
    shards: list[Shard] = []
    for start in range(0, len(work.shards), SHARDS_AT_ONCE):
        read = [_sum(work, shard, spec) for shard, spec in work.shards[start : start + SHARDS_AT_ONCE]]
        sums = [found for _, found in read if found is not None]
        several = iter(estimates(_resamples(work.resampled), sums) if sums else ())
        for shard, found in read:
            _add(pools, shard, found)
            shards.append(shard if found is None else replace(shard, estimates=next(several)))
    several_languages = _complete(pools)
    if not several_languages:
        return shards
    micro = estimates(_resamples(work.resampled), list(several_languages.values()))
    pooled = dict(zip(several_languages, micro, strict=True))
    return [replace(shard, pooled=pooled) for shard in shards]


def _add(pools: Pools, shard: Shard, sums: Sums | None) -> None:
    if shard.bucket not in pools:
        pools[shard.bucket] = (frozenset({shard.job_id}), sums)
        return
    job_ids, total = pools[shard.bucket]
    both = None if total is None or sums is None else total + sums
    pools[shard.bucket] = (job_ids | {shard.job_id}, both)


def _complete(pools: Pools) -> dict[frozenset[str], Sums]:
    """The sums over each bucket and over all, where several shards are and none is missing."""
    everything: tuple[frozenset[str], Sums | None] | None = None
    for job_ids, sums in pools.values():
        if everything is None:
            everything = (job_ids, sums)
        else:
            both = None if everything[1] is None or sums is None else everything[1] + sums
            everything = (everything[0] | job_ids, both)
    assert everything is not None  # a cell has a shard
    return {
        job_ids: sums
        for job_ids, sums in (*pools.values(), everything)
        if sums is not None and len(job_ids) > 1
    }


def items_of(job_id: str, scored: Scored, resampled: Sequence[str]) -> Items:
    """What a shard asked; its ids are among those `resampled`, which are sorted."""
    asked = zip(scored.example_ids.tolist(), scored.label.tolist(), strict=True)
    text = "\n".join(f"{name}\t{label}" for name, label in sorted(asked))
    rows = np.searchsorted(np.asarray(resampled), scored.example_ids).astype(np.int64)
    return Items(job_id, rows, scored.label, hashlib.sha256(text.encode()).hexdigest()[:16])


def _place_rows(expected: Items, resamples: Resamples, scored: Scored) -> NDArray[np.int64] | str:
    """(N,) the place of each example, or what is different, in words, about what two jobs asked.

    The order in which they asked says nothing.
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
    told = [
        f"{len(names)} examples {problem}, such as '{names[0]}'"
        for problem, names in problems.items()
        if names
    ]
    if told:
        return f"asked other items than job {expected.job_id}: {'; '.join(told)}"
    return resamples.rows(scored.example_ids)


def _sum(work: CellWork, shard: Shard, spec: Mapping[str, Any]) -> tuple[Shard, Sums | None]:
    """A shard with its metrics, and its sums; or with the reason why it has none."""
    if shard.missing is not None:
        return shard, None
    numbers = read_shard(work.paths, shard, spec)
    if isinstance(numbers, Missing):
        return replace(shard, missing=numbers), None
    items = work.items.get(shard.language)
    if items is None:
        return _unreadable(shard, "its records changed while the study was read"), None
    resamples = _resamples(work.resampled)
    rows = _place_rows(items, resamples, numbers.scored)
    if isinstance(rows, str):
        return _unreadable(shard, rows), None
    measured = replace(
        shard,
        metrics=numbers.metrics,
        bins=numbers.bins,
        record_hash=numbers.record_hash,
        items=items.digest,
    )
    return measured, sum_examples(resamples, rows, numbers.scored, numbers.examples)


def _unreadable(shard: Shard, problem: str) -> Shard:
    return replace(shard, missing=Missing("unreadable", f"jobs/{shard.job_id}: {problem}"))
