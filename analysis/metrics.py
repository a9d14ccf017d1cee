"""Calibration metrics: pure NumPy, float64, one number out.

Notation: b a bin, w_b = n_b / n, acc_b and conf_b its accuracy and mean confidence, d_b = acc_b - conf_b.
Bins are (lo, hi] with 0 in the first, 15 of equal width by default (`study/bins.py`). Empty bins take no
part.

Confidences are probabilities 0..1; `correct` is bool or 0/1. Every function raises ValueError, in one
sentence, on input that is empty, NaN, infinite, out of range, of the wrong type or of unequal length: nothing
missing becomes 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.bins import (
    NUM_BINS,
    OVERSHOOT,
    Bins,
    FloatArray,
    bin_predictions,
    check_correct,
    check_finite,
    check_predictions,
    check_probabilities,
    error_over_bins,
)

SUM_TOLERANCE = 1e-3
"""A row of probabilities may sum to 1 within this: half precision and rounded rows pass, logits do not."""


def ece(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """Expected calibration error, sum w_b |d_b|, 0..1 (Naeini et al. 2015; Guo et al. 2017).

    confidence, correct: (N,). scheme: "equal_width", or "equal_mass" (then also called ACE).
    Biased upward by about sqrt(num_bins / N), even for a perfectly calibrated model.
    """
    return error_over_bins(bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme))


def floor_over_bins(bins: Bins) -> float:
    """About the ECE that a perfectly calibrated model with these confidences has on average, 0..1.

    By the normal approximation: a bin's accuracy then scatters around its mean confidence c with variance
    c (1 - c) / n_b, and E|x| of a normal is sqrt(2 / pi) of its deviation. An ECE near its floor says nothing
    against the model.
    """
    confidence, count = bins.confidence[bins.filled], bins.count[bins.filled]
    return float(np.sum(np.sqrt(2.0 / np.pi * count * confidence * (1.0 - confidence))) / bins.num_examples)


def mce(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """Maximum calibration error, max |d_b| over the filled bins, 0..1. confidence, correct: (N,)."""
    bins = bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme)
    return float(np.max(np.abs(_filled(bins))))


def rms_ce(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """Root-mean-square calibration error, sqrt(sum w_b d_b^2), 0..1. confidence, correct: (N,).

    The textbook one. Hendrycks' variant (equal mass, beta = 100) drops its most confident bin, and the MMLU
    repository's takes the square root twice: neither is this.
    """
    bins = bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme)
    return float(np.sqrt(np.sum(bins.weight[bins.filled] * _filled(bins) ** 2)))


def over_confidence(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """The part of the ECE from bins whose confidence exceeds their accuracy, sum w_b max(-d_b, 0), 0..1."""
    bins = bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme)
    return float(np.sum(bins.weight[bins.filled] * np.maximum(-_filled(bins), 0.0)))


def under_confidence(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """The part of the ECE from bins whose accuracy exceeds their confidence, sum w_b max(d_b, 0), 0..1."""
    bins = bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme)
    return float(np.sum(bins.weight[bins.filled] * np.maximum(_filled(bins), 0.0)))


def debiased_l2(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """Debiased squared L2 calibration error, sum w_b [d_b^2 - acc_b (1 - acc_b) / (n_b - 1)].

    confidence, correct: (N,). The *square*: over samples its mean is the true binned error, so near 0 it is
    below 0 about half of the time; a root would need it cut at 0, which brings the bias back.

    A bin with one example has no variance to subtract, so it adds nothing while its weight stays in the
    denominator, as in the authors' own code (Kumar, Liang and Ma 2019, `uncertainty-calibration`
    unbiased_square_ce). Where every bin holds at most one example there is no estimate: ValueError.
    """
    bins = bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme)
    usable = bins.count >= 2
    if not usable.any():
        raise ValueError("debiased_l2 needs a bin with at least 2 examples.")
    accuracy = bins.accuracy[usable]
    noise = accuracy * (1.0 - accuracy) / (bins.count[usable] - 1)
    return float(np.sum(bins.weight[usable] * (bins.difference[usable] ** 2 - noise)))


def smooth_ece(confidence: ArrayLike, correct: ArrayLike) -> float:
    """smECE, 0..1 (Blasiok and Nakkiran 2023): the ECE after Gaussian smoothing, at the width equal to it.

    confidence, correct: (N,). The residuals (confidence - correct) are smoothed over [0, 1] with a Gaussian
    reflected at both ends; smECE_sigma is the integral of their absolute density, and the result is taken at
    the sigma where smECE_sigma = sigma. At least |confidence_gap|, and equal to it where the smoothed
    residual keeps one sign.

    As the authors' `relplot.smECE`: sigma comes from ten halvings of 1 (so to within 2^-10, from above) and
    the Gaussian ends half a unit from its centre. Unlike it, an example at exactly 0 or 1 counts in full
    (there, by half), and the integral is a trapezoid sum (there, both end points have full weight). Without
    examples at exactly 0 or 1 the two agree to within 1e-3.
    """
    conf, hit = check_predictions(confidence, correct)
    spectrum = np.fft.rfft(_mirrored(conf, conf - hit))
    below, sigma = 0.0, 1.0
    for _ in range(10):
        middle = (below + sigma) / 2.0
        if middle < 0.001 or middle < _smoothed_error(spectrum, middle):
            below = middle
        else:
            sigma = middle
    return _smoothed_error(spectrum, sigma)


_GRID_STEPS = 1 << 14
"""Steps of the grid over [0, 1]: 16 to the narrowest sigma of the search, 2^-10."""


def _mirrored(position: FloatArray, value: FloatArray) -> FloatArray:
    """The density of `value: (N,)` at `position: (N,)` on a grid over [0, 2), mirrored at 1.

    One period of a function mirrored at 0 and at 1: a circular convolution of it reflects exactly. Each value
    is shared linearly between the two grid points around it.
    """
    left = np.minimum((position * _GRID_STEPS).astype(np.int64), _GRID_STEPS - 1)
    share = position * _GRID_STEPS - left
    grid = np.bincount(left, weights=value * (1.0 - share), minlength=_GRID_STEPS + 1)
    grid += np.bincount(left + 1, weights=value * share, minlength=_GRID_STEPS + 1)
    grid[0] *= 2.0  # an end point is its own mirror image: the period below holds it once, not twice
    grid[-1] *= 2.0
    return np.asarray(np.concatenate([grid, grid[-2:0:-1]]) / len(value), dtype=np.float64)


def _smoothed_error(spectrum: NDArray[np.complex128], sigma: float) -> float:
    """smECE_sigma: the integral over [0, 1] of |residual density smoothed by a Gaussian of width sigma|."""
    distance = np.minimum(np.arange(2 * _GRID_STEPS), np.arange(2 * _GRID_STEPS, 0, -1)) / _GRID_STEPS
    kernel = np.where(distance <= 0.5, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
    smoothed = np.fft.irfft(spectrum * np.fft.rfft(kernel / kernel.sum()), n=2 * _GRID_STEPS)
    return float(np.abs(smoothed).sum() / 2.0)  # the period holds [0, 1] twice: half is the trapezoid sum


def brier(probs: ArrayLike, labels: ArrayLike) -> float:
    """Multi-class Brier score, mean over examples of sum_c (p_c - [c = label])^2, 0..2 (Brier 1950).

    probs: (N, C), rows summing to 1 within 1e-3. labels: (N,), whole numbers 0..C-1. An option that an
    example does not have is a probability of 0.
    """
    p = check_probabilities(probs, "probs", num_dims=2)
    y = _check_labels(labels, p.shape)
    if np.max(np.abs(p.sum(axis=1) - 1.0)) > SUM_TOLERANCE:
        raise ValueError("probs must sum to 1 over the classes of each example.")
    target = np.zeros_like(p)
    target[np.arange(len(y)), y] = 1.0
    return float(np.mean(np.sum((p - target) ** 2, axis=1)))


def nll(log_probs: ArrayLike, labels: ArrayLike) -> float:
    """Negative log-likelihood of the labels, nats, mean over examples, 0 or more.

    log_probs: (N, C), nats, finite, at most 0; the probabilities of a row sum to at most 1 (to less where
    they are taken over a full vocabulary). labels: (N,), whole numbers 0..C-1.
    """
    lp = check_finite(log_probs, "log_probs", num_dims=2)
    y = _check_labels(labels, lp.shape)
    if lp.max() > OVERSHOOT or np.max(np.exp(lp).sum(axis=1)) > 1.0 + SUM_TOLERANCE:
        raise ValueError("log_probs must be at most 0, and their exponentials sum to at most 1 in each row.")
    return float(-np.mean(np.minimum(lp[np.arange(len(y)), y], 0.0)))


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the ROC curve of confidence as a detector of correctness, 0..1; 0.5 tells nothing.

    confidence, correct: (N,). The probability that a correct example has more confidence than a wrong one,
    ties counting half (Mann and Whitney, by mid-ranks). ValueError where all are correct or all are wrong.
    """
    conf, hit = check_predictions(confidence, correct)
    num_correct = int(hit.sum())
    num_wrong = len(hit) - num_correct
    if num_correct == 0 or num_wrong == 0:
        raise ValueError("auroc needs both correct and wrong examples.")
    _, place, ties = np.unique(conf, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(ties) - (ties - 1) / 2.0  # ranks count from 1; equal values share their mean rank
    rank_sum = float(np.sum(mid_rank[place] * hit))
    return (rank_sum - num_correct * (num_correct + 1) / 2.0) / (num_correct * num_wrong)


def accuracy(correct: ArrayLike) -> float:
    """Share of correct examples, 0..1. correct: (N,)."""
    return float(np.mean(check_correct(correct)))


def confidence_gap(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean confidence minus accuracy, -1..1; above 0 is over-confident. confidence, correct: (N,)."""
    conf, hit = check_predictions(confidence, correct)
    return float(np.mean(conf) - np.mean(hit))


def _filled(bins: Bins) -> FloatArray:
    """d_b of the bins that hold an example."""
    return bins.difference[bins.filled]


def _check_labels(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """`labels` as int64 (N,), each 0..C-1, for a score matrix of `shape` (N, C), or ValueError."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers, not {array.dtype}.")
    if array.shape != shape[:1]:
        raise ValueError(f"labels must have shape {shape[:1]}, not {array.shape}.")
    if array.min() < 0 or array.max() >= shape[1]:
        raise ValueError(f"labels must lie in 0..{shape[1] - 1}, but span {array.min()}..{array.max()}.")
    return array.astype(np.int64)
