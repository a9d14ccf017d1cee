"""The headline metrics of one shard, and the sums from which inference computes their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.inference import bootstrap
from analysis.inference.bootstrap import SUMMED_HERE, Resamples, Sums, sum_rows
from analysis.inference.estimates import Estimate
from analysis.metrics import confidence_gap
from analysis.metrics.binned import floor
from analysis.metrics.squared import l2_ece
from analysis.reading.headline import METRICS, Metric
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
        elif metric.confidence is not None:
            is_probability = scored.is_probability(metric.confidence)
            numbers[metric.name] = _calibration(metric, bins, examples) if is_probability else None
            if metric.has_floor:
                numbers[metric.floor_name] = floor(bins[metric.confidence]) if is_probability else None
    return Metrics(len(examples.correct), numbers), bins


def _calibration(metric: Metric, bins: Mapping[str, Bins], examples: PerExample) -> float | None:
    """Gap, ECE or L2 ECE; None for an L2 ECE without two examples in any bin."""
    assert metric.confidence is not None
    confidence = examples.confidence[metric.confidence]
    if metric.kind == "gap":
        return confidence_gap(confidence, examples.correct)
    if metric.kind == "ece":
        return error_over_bins(bins[metric.confidence])
    return l2_ece(confidence, examples.correct) if (bins[metric.confidence].count >= 2).any() else None


def sum_examples(resamples: Resamples, rows: NDArray[np.int64], scored: Scored, examples: PerExample) -> Sums:
    """What the estimates of a shard need. rows: (N,), the place of each example among those resampled."""
    means = {
        (metric.kind, metric.confidence): values
        for metric in METRICS
        if metric.has_interval and metric.of_examples is not None and not _is_summed(metric, scored)
        if (values := metric.of_examples(scored, examples)) is not None
    }
    confidences = {kind: v for kind, v in examples.confidence.items() if scored.is_probability(kind)}
    return sum_rows(resamples, rows, confidences, examples.correct, means)


def _is_summed(metric: Metric, scored: Scored) -> bool:
    """`sum_rows` sums it from the confidences and answers that it is given."""
    return metric.kind in SUMMED_HERE and (
        metric.confidence is None or scored.is_probability(metric.confidence)
    )


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
