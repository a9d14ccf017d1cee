"""The headline metrics of one shard, and the sums from which inference computes their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.inference import bootstrap
from analysis.inference.bootstrap import SUMMED_HERE, Resamples, Sums, sum_rows
from analysis.inference.estimates import Estimate
from analysis.metrics import confidence_gap
from analysis.metrics.binned import floor
from analysis.reading.headline import METRICS
from analysis.reading.scored import PerExample, Scored
from analysis.reading.shards import Metrics
from study.bins import Bins, bin_predictions, error_over_bins


def measure(scored: Scored, examples: PerExample) -> tuple[Metrics, dict[str, Bins]]:
    """All headline metrics of one shard, and its bins by kind of confidence.

    Raises ValueError where a score is above 0 (a probability above 1).
    """
    bins = {kind: bin_predictions(values, examples.correct) for kind, values in examples.confidence.items()}
    numbers: dict[str, float | None] = {}
    for metric in METRICS:
        if metric.of_examples is not None:
            values = metric.of_examples(scored, examples)
            numbers[metric.name] = None if values is None else float(np.mean(values))
        elif metric.kind == "gap" and metric.confidence is not None:
            numbers[metric.name] = confidence_gap(examples.confidence[metric.confidence], examples.correct)
        elif metric.kind == "ece" and metric.confidence is not None:
            numbers[metric.name] = error_over_bins(bins[metric.confidence])
            numbers[metric.floor_name] = floor(bins[metric.confidence])
    return Metrics(len(examples.correct), numbers), bins


def sum_examples(resamples: Resamples, rows: NDArray[np.int64], scored: Scored, examples: PerExample) -> Sums:
    """What the estimates of a shard need. rows: (N,), the place of each example among those resampled."""
    means = {
        (metric.kind, metric.confidence): values
        for metric in METRICS
        if metric.has_interval and metric.kind not in SUMMED_HERE and metric.of_examples is not None
        if (values := metric.of_examples(scored, examples)) is not None
    }
    return sum_rows(resamples, rows, examples.confidence, examples.correct, means)


def estimates(resamples: Resamples, several: Sequence[Sums]) -> list[dict[str, Estimate]]:
    """The estimates of each cell by the names of `METRICS`, without those that it lacks."""
    ends = {(metric.kind, metric.confidence): metric.ends for metric in METRICS}
    return [
        {
            metric.name: by_key[metric.kind, metric.confidence]
            for metric in METRICS
            if (metric.kind, metric.confidence) in by_key
        }
        for by_key in bootstrap.estimates(resamples, several, ends)
    ]
