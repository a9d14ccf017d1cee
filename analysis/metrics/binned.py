"""Calibration errors of predictions that are already in bins, so that a table and its diagram share one set.

Notation: w_b = n_b / n, acc_b and conf_b a bin's accuracy and mean confidence, d_b = acc_b - conf_b. Empty
bins take no part. The same from predictions: `analysis.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from study.bins import Bins, FloatArray

ROUNDING = 1e-13
"""Means of many thousand numbers of about 1, and differences of such means, are exact to within this."""


def without_rounding(value: float) -> float:
    """0.0 for a difference that is nothing but rounding, such as -4e-16; any other value as it is."""
    return 0.0 if abs(value) < ROUNDING else value


def mce(bins: Bins) -> float:
    """Maximum calibration error, max |d_b|, 0..1."""
    return float(np.max(np.abs(_filled(bins))))


def rms_ce(bins: Bins) -> float:
    """Root-mean-square calibration error, sqrt(sum w_b d_b^2), 0..1."""
    return float(np.sqrt(np.sum(bins.weight[bins.filled] * _filled(bins) ** 2)))


def over_confidence(bins: Bins) -> float:
    """The part of the ECE from bins whose confidence exceeds their accuracy, sum w_b max(-d_b, 0), 0..1."""
    return float(np.sum(bins.weight[bins.filled] * np.maximum(-_filled(bins), 0.0)))


def under_confidence(bins: Bins) -> float:
    """The part of the ECE from bins whose accuracy exceeds their confidence, sum w_b max(d_b, 0), 0..1."""
    return float(np.sum(bins.weight[bins.filled] * np.maximum(_filled(bins), 0.0)))


def debiased_l2(bins: Bins) -> float:
    """Debiased squared L2 calibration error, sum w_b [d_b^2 - acc_b (1 - acc_b) / (n_b - 1)].

    Raises ValueError where every bin holds at most one example.
    """
    usable = bins.count >= 2
    if not usable.any():
        raise ValueError("debiased_l2 needs a bin with at least 2 examples.")
    accuracy = bins.accuracy[usable]
    noise = accuracy * (1.0 - accuracy) / (bins.count[usable] - 1)
    return without_rounding(float(np.sum(bins.weight[usable] * (bins.difference[usable] ** 2 - noise))))


def floor(bins: Bins) -> float:
    """About the ECE that a perfectly calibrated model with these confidences has on average, 0..1.

    By the normal approximation: a bin's accuracy then scatters around its mean confidence c with variance
    c (1 - c) / n_b, and E|x| of a normal is sqrt(2 / pi) of its deviation. An ECE near its floor says nothing
    against the model.
    """
    confidence, count = bins.confidence[bins.filled], bins.count[bins.filled]
    return float(np.sum(np.sqrt(2.0 / np.pi * count * confidence * (1.0 - confidence))) / bins.num_examples)


@dataclass(frozen=True)
class BrierParts:
    """Brier = reliability - resolution + uncertainty + within (Murphy 1973; Stephenson et al. 2008)."""

    reliability: float
    """sum w_b d_b^2: how far the bins are from the diagonal; small is good."""
    resolution: float
    """sum w_b (acc_b - accuracy)^2: how far confidence tells right from wrong; large is good."""
    uncertainty: float
    """accuracy (1 - accuracy), of the examples alone."""
    within: float
    """What bins hide: the variance of confidence inside them, less twice its covariance with being correct.

    Murphy's three terms are the Brier score where a bin holds equal confidences; this is then 0. It can be
    below 0, where confidence tells right from wrong inside bins.
    """

    @property
    def brier(self) -> float:
        return self.reliability - self.resolution + self.uncertainty + self.within


def brier_parts(bins: Bins, brier: float) -> BrierParts:
    """Murphy's parts of the Brier score, mean of (confidence - correct)^2, of the predictions in `bins`."""
    weight, accuracy = bins.weight[bins.filled], bins.accuracy[bins.filled]
    # from whole numbers, so that it is never above 1, and equal to the accuracies of bins that are all equal
    num_correct = np.rint(accuracy * bins.count[bins.filled]).sum()
    mean = float(num_correct / bins.num_examples)
    reliability = float(np.sum(weight * _filled(bins) ** 2))
    resolution = float(np.sum(weight * (accuracy - mean) ** 2))
    uncertainty = mean * (1.0 - mean)
    within = without_rounding(brier - (reliability - resolution + uncertainty))
    return BrierParts(reliability, resolution, uncertainty, within)


def _filled(bins: Bins) -> FloatArray:
    """d_b of the bins that hold an example."""
    return bins.difference[bins.filled]
