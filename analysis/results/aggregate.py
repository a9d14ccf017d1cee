"""Means over the shards of a study, with their intervals.

A mean with a member that is missing is missing itself: nothing is computed over fewer members than planned,
and nothing missing becomes 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.inference.estimates import Estimate, interval, mean, over_seeds
from analysis.metrics import floor_over_bins
from analysis.reading.measure import CONFIDENCES, METRIC_NAMES, Metrics
from analysis.reading.shards import Average, Missing, Shard
from study.bins import error_over_bins, merge_bins
from study.errors import RecordError
from study.files import digest


@dataclass(frozen=True, eq=False)
class Summary:
    """The mean over some shards, or why there is none."""

    metrics: Metrics | None
    shards: tuple[Shard, ...]
    num_seeds: int
    """1 for a base model too."""
    average: Average

    @property
    def num_missing(self) -> int:
        return sum(shard.missing is not None for shard in self.shards)

    @property
    def missing(self) -> Missing | None:
        """Why there are no metrics: the reason itself for one shard, else how many of how many."""
        if self.num_missing == 0:
            return None
        if len(self.shards) == 1:
            return self.shards[0].missing
        return Missing("incomplete", f"{self.num_missing} of {len(self.shards)} missing")

    def estimate(self, metric: str) -> Estimate | None:
        """The mean with its paired replicates; None where it is missing, or the metric has no interval.

        Raises ValueError for a micro mean over other shards than those of a cell's bucket, or all of them.
        """
        if self.metrics is None:
            return None
        return over_seeds([_estimate(members, metric, self.average) for members in _by_seed(self.shards)])

    def interval(self, metric: str) -> tuple[float, float] | None:
        """(low, high), 95%, of examples like these, and where there are several seeds of others."""
        estimate = self.estimate(metric)
        return None if estimate is None else interval(estimate)

    @property
    def job_ids(self) -> list[str]:
        return [shard.job_id for shard in self.shards]

    @property
    def record_hash(self) -> str | None:
        """As `combined_hash`; None without metrics."""
        if self.metrics is None:
            return None
        return combined_hash(
            {shard.job_id: shard.record_hash for shard in self.shards if shard.record_hash is not None}
        )


def combined_hash(hashes: Mapping[str, str]) -> str:
    """Of the records of several jobs, job id -> their hash: 16 hex over all; of one job its own."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return digest(sorted([job_id, record_hash] for job_id, record_hash in hashes.items()))


def summarise(shards: Sequence[Shard], average: Average = "macro") -> Summary:
    """The mean over shards of one cell (any languages, any seeds).

    macro: every language counts the same. micro: every example does; its ECE is that of all examples in one
    set of bins. Seeds are averaged last. A single shard is its own mean. Raises ValueError for no shards.
    """
    if not shards:
        raise ValueError("there are no shards to summarise.")
    seeds = [_one_seed(members, average) for members in _by_seed(shards)]
    complete = [m for m in seeds if m is not None]
    whole = _mean(complete) if len(complete) == len(seeds) else None
    return Summary(whole, tuple(shards), len(seeds), average)


def _by_seed(shards: Sequence[Shard]) -> list[list[Shard]]:
    found: dict[Any, list[Shard]] = {}
    for shard in shards:
        found.setdefault(shard.cell.get("seed"), []).append(shard)
    return list(found.values())


def _estimate(shards: Sequence[Shard], metric: str, average: Average) -> Estimate | None:
    """Of one seed."""
    if average == "macro" or len(shards) == 1:
        return mean([(shard.estimates or {}).get(metric) for shard in shards])
    job_ids = frozenset(shard.job_id for shard in shards)
    if job_ids not in shards[0].pooled:
        raise ValueError("micro means have estimates over a resource bucket or all languages of a cell.")
    return shards[0].pooled[job_ids].get(metric)


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
