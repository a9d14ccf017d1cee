"""Means over shards: of their metrics, and of their estimates.

A mean with a missing member is missing: nothing is computed over fewer members than planned, and nothing
missing becomes 0. macro: every language counts the same. micro: every example does; its ECE is that of all
examples in one set of bins. Seeds are averaged last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.inference.estimates import Estimate, mean, over_seeds
from analysis.metrics.binned import floor
from analysis.reading.headline import BY_NAME, ECE, L2_ECE
from analysis.reading.shards import Average, Metrics, Shard
from study.bins import error_over_bins, merge_bins, signed_root
from study.errors import RecordError
from study.files import digest


def mean_metrics(shards: Sequence[Shard], average: Average) -> Metrics | None:
    """The mean over shards of one cell (any languages, any seeds); None where one is missing.

    Raises RecordError where seeds have different numbers of examples.
    """
    seeds = [_one_seed(members, average) for members in by_seed(shards).values()]
    complete = [metrics for metrics in seeds if metrics is not None]
    if len(complete) < len(seeds):
        return None
    counts = sorted({metrics.n for metrics in complete})
    if len(counts) > 1:
        raise RecordError(f"seeds of one cell have different numbers of examples: {counts}")
    return _mean(complete, n=counts[0])


def mean_estimate(shards: Sequence[Shard], metric: str, average: Average) -> Estimate | None:
    """The same mean with its paired replicates; None where it is missing, or the metric has no interval.

    Raises ValueError for a micro mean over other shards than those of a cell's bucket, or all of them.
    """
    return over_seeds(
        {seed: _estimate_of_one_seed(members, metric, average) for seed, members in by_seed(shards).items()}
    )


def by_seed(shards: Sequence[Shard]) -> dict[Any, list[Shard]]:
    """The shards of each seed; a base model has one seed."""
    groups: dict[Any, list[Shard]] = {}
    for shard in shards:
        groups.setdefault(shard.cell.get("seed"), []).append(shard)
    return groups


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One hash over the records of several jobs: 16 hex. hashes: by job id; that of a single job stays."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return digest(sorted([job_id, record_hash] for job_id, record_hash in hashes.items()))


def _estimate_of_one_seed(shards: Sequence[Shard], metric: str, average: Average) -> Estimate | None:
    if average == "macro" or len(shards) == 1:
        return mean([(shard.estimates or {}).get(metric) for shard in shards])
    job_ids = frozenset(shard.job_id for shard in shards)
    if any(shard.missing for shard in shards):
        return None
    if job_ids not in shards[0].pooled:
        raise ValueError("micro means have estimates over a resource bucket or all languages of a cell.")
    return shards[0].pooled[job_ids].get(metric)


def _one_seed(shards: Sequence[Shard], average: Average) -> Metrics | None:
    metrics = [shard.metrics for shard in shards if shard.metrics is not None]
    if len(metrics) < len(shards):
        return None
    n = sum(m.n for m in metrics)
    if average == "macro":
        return _mean(metrics, n=n)
    means = _mean(metrics, n=n, weights=[m.n for m in metrics])
    return Metrics(n, {**means.values, **_pooled(shards, means)} if len(shards) > 1 else means.values)


def _pooled(shards: Sequence[Shard], means: Metrics) -> dict[str, float | None]:
    """ECEs of all examples in one set of bins. What some shard lacks is left as it is: None.

    Answers to one question in several languages are alike, so a calibrated model's ECE scatters more than of
    as many questions: its floor is that of independent examples times the root of the design effect.
    """
    job_ids = frozenset(shard.job_id for shard in shards)
    pooled: dict[str, float | None] = {}
    for error, squared in zip(ECE.values(), L2_ECE.values(), strict=True):
        if means.values[error.name] is not None:
            bins = merge_bins([shard.bins[str(error.confidence)] for shard in shards if shard.bins])
            pooled |= {error.name: error_over_bins(bins), error.floor_name: None, squared.name: None}
            estimate = shards[0].pooled.get(job_ids, {}).get(squared.name)
            if estimate is not None and estimate.squared is not None:
                pooled[error.floor_name] = floor(bins) * math.sqrt(estimate.squared.design_effect)
                pooled[squared.name] = estimate.shown
    return pooled


def _mean(members: Sequence[Metrics], *, n: int, weights: Sequence[int] | None = None) -> Metrics:
    """The mean of each number, of an L2 ECE the root mean square; None where a member has None."""
    values: dict[str, float | None] = {}
    for name in members[0].values:
        column = [value for m in members if (value := m.values[name]) is not None]
        if len(column) < len(members):
            values[name] = None
        elif name in BY_NAME and BY_NAME[name].is_squared:
            values[name] = signed_root(float(np.average([x * abs(x) for x in column], weights=weights)))
        else:
            values[name] = float(np.average(column, weights=weights))
    return Metrics(n, values)
