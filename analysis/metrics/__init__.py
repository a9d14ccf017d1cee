"""Calibration metrics: pure NumPy, float64, one number out (of `p_norm_confidence` one an example).

Notation: b a bin, w_b = n_b / n, acc_b and conf_b its accuracy and mean confidence, d_b = acc_b - conf_b.
Bins are (lo, hi] with 0 in the first, 15 of equal width by default (`study/bins.py`). Empty bins take no
part.

Confidences are probabilities 0..1; `correct` is bool or 0/1. Every function raises ValueError, in one
sentence, on input that is empty, NaN, infinite, out of range, of the wrong type or of unequal length: nothing
missing becomes 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.metrics import binned
from analysis.metrics.binned import BrierParts, without_rounding
from analysis.metrics.binned import floor as floor_over_bins
from analysis.metrics.hendrycks import hendrycks_rms, mmlu_rms
from analysis.metrics.p_norm import p_norm_confidence
from analysis.metrics.smooth import smooth_ece, smooth_ece_relplot
from analysis.metrics.squared import l2_ece
from analysis.metrics.temperature import fit_temperature, scaled_log_probs
from study.bins import (
    NUM_BINS,
    OVERSHOOT,
    FloatArray,
    assign_bins,
    bin_predictions,
    check_correct,
    check_finite,
    check_predictions,
    check_probabilities,
)

__all__ = [
    "BrierParts", "NllParts", "accuracy", "ace", "aurc", "auroc", "brier", "brier_decomposition",
    "chance_normalised_accuracy", "chance_normalised_confidence", "classwise_ece", "confidence_gap",
    "debiased_l2", "ece", "floor_over_bins", "hendrycks_rms", "l2_ece", "mce", "mean_confidence", "mmlu_rms",
    "nll", "nll_refinement", "over_confidence", "p_norm_confidence", "rms_ce", "smooth_ece",
    "smooth_ece_relplot", "top_label_decomposition", "under_confidence",
]  # fmt: skip

SUM_TOLERANCE = 5.5e-3
"""A row of probabilities may sum to 1 within this.

Ten options, the most that a benchmark has, rounded to three decimals are off by up to 0.005, and the next
that they can be off by is 0.006. Half precision passes too, logits do not.
"""


def ece(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """Expected calibration error, sum w_b |d_b|, 0..1 (Naeini et al. 2015; Guo et al. 2017).

    confidence, correct: (N,). scheme: "equal_width", or "equal_mass" (then also called ACE).
    Biased upward by about sqrt(num_bins / N), even for a perfectly calibrated model.
    """
    conf, hit = check_predictions(confidence, correct)
    index, _ = assign_bins(conf, num_bins=num_bins, scheme=scheme)
    # w_b |d_b| is |sum of the residuals in b| / n: one sum over bins where `Bins` need three
    return float(np.abs(np.bincount(index, hit - conf)).sum() / len(conf))


def ace(confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS) -> float:
    """Adaptive calibration error: the ECE over bins of equal mass, 0..1. confidence, correct: (N,).

    This is the ECE of the predicted option. Nixon et al. (2019) average over classes, which is
    `classwise_ece(..., "equal_mass")`. netcal's ACE, "average calibration error", is neither: it is the
    unweighted mean of |d_b| over the filled bins.
    """
    return ece(confidence, correct, num_bins=num_bins, scheme="equal_mass")


def classwise_ece(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    num_options: ArrayLike | None = None,
    num_bins: int = NUM_BINS,
    scheme: str = "equal_width",
) -> float:
    """The mean over the classes c of the ECE of p_c against [label = c], 0..1 (SCE: Nixon et al. 2019).

    probs: (N, C), rows summing to 1. labels: (N,), 0..C-1. num_options: (N,), where examples differ in it: a
    class is then scored over the examples that have it; without, all have C. Raises ValueError for a class
    that no example has, and for a probability above 0 of an option that an example does not have.
    """
    p, y = _check_probs_and_labels(probs, labels)
    has = _check_options(num_options, y, p.shape)
    if np.any((p > 0.0) & ~has):
        raise ValueError("probs must be 0 for options beyond num_options.")
    if not has.any(axis=0).all():
        raise ValueError("classwise_ece needs an example for every class.")
    errors = []
    for c in range(p.shape[1]):
        rows = np.flatnonzero(has[:, c])
        errors.append(ece(p[rows, c], y[rows] == c, num_bins=num_bins, scheme=scheme))
    return float(np.mean(errors))


def mce(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """Maximum calibration error, max |d_b| over the filled bins, 0..1. confidence, correct: (N,)."""
    return binned.mce(bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme))


def rms_ce(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """Root-mean-square calibration error, sqrt(sum w_b d_b^2), 0..1. confidence, correct: (N,).

    This is the textbook definition. `hendrycks_rms` drops its most confident bin, and `mmlu_rms` takes the
    square root twice.
    """
    return binned.rms_ce(bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme))


def over_confidence(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """The part of the ECE from bins whose confidence exceeds their accuracy, sum w_b max(-d_b, 0), 0..1."""
    return binned.over_confidence(bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme))


def under_confidence(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """The part of the ECE from bins whose accuracy exceeds their confidence, sum w_b max(d_b, 0), 0..1."""
    return binned.under_confidence(bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme))


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
    return binned.debiased_l2(bin_predictions(confidence, correct, num_bins=num_bins, scheme=scheme))


def brier(probs: ArrayLike, labels: ArrayLike) -> float:
    """Multi-class Brier score, mean over examples of sum_c (p_c - [c = label])^2, 0..2 (Brier 1950).

    probs: (N, C), rows summing to 1 within `SUM_TOLERANCE`. labels: (N,), whole numbers 0..C-1. An option
    that an example does not have is a probability of 0.
    """
    p, y = _check_probs_and_labels(probs, labels)
    return float(np.sum((p - _one_hot(y, p.shape[1])) ** 2)) / len(y)


def brier_decomposition(
    probs: ArrayLike, labels: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> BrierParts:
    """The multi-class Brier score as reliability - resolution + uncertainty + within: `BrierParts`.

    probs: (N, C), labels: (N,), as for `brier`. Each class is decomposed over bins of its own probability,
    and the parts are added over the classes: together they are `brier`, whatever the bins.
    """
    p, y = _check_probs_and_labels(probs, labels)
    parts = [
        top_label_decomposition(of_class, y == c, num_bins=num_bins, scheme=scheme)
        for c, of_class in enumerate(np.ascontiguousarray(p.T))
    ]
    return BrierParts(
        reliability=sum(part.reliability for part in parts),
        resolution=sum(part.resolution for part in parts),
        uncertainty=sum(part.uncertainty for part in parts),
        within=sum(part.within for part in parts),
    )


def top_label_decomposition(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> BrierParts:
    """Murphy's parts of the Brier score of the predicted option alone, mean of (confidence - correct)^2.

    confidence, correct: (N,). Its `brier` is 0..1, and `reliability` is the square of `rms_ce`.
    """
    conf, hit = check_predictions(confidence, correct)
    bins = bin_predictions(conf, hit, num_bins=num_bins, scheme=scheme)
    return binned.brier_parts(bins, float(np.mean((conf - hit) ** 2)))


def nll(log_probs: ArrayLike, labels: ArrayLike) -> float:
    """Negative log-likelihood of the labels, nats, mean over examples, 0 or more.

    log_probs: (N, C), nats, at most 0; the probabilities of a row sum to at most 1 (to less where they are
    taken over a full vocabulary). -inf, a probability of 0, may stand anywhere but at a label, or where an
    example has no such option. labels: (N,), whole numbers 0..C-1.
    """
    raw = np.asanyarray(log_probs)
    if raw.dtype.kind == "f":  # the exponential of the least number is 0 too
        raw = np.maximum(raw, np.finfo(raw.dtype).min)
    lp = check_finite(raw, "log_probs", num_dims=2)
    y = _check_labels(labels, lp.shape)
    if lp.max() > OVERSHOOT or np.max(_row_sums(np.exp(lp))) > 1.0 + SUM_TOLERANCE:
        raise ValueError("log_probs must be at most 0, and their exponentials sum to at most 1 in each row.")
    of_labels = np.asarray(log_probs)[np.arange(len(y)), y].astype(np.float64)
    if np.isneginf(of_labels).any():
        raise ValueError("log_probs must be finite at the labels: a label of probability 0 has no NLL.")
    return 0.0 - float(np.mean(np.minimum(of_labels, 0.0)))  # not -0.0


class NllParts(NamedTuple):
    """NLL = refinement + calibration, in nats; neither is below 0."""

    refinement: float
    """What is left at the best temperature: how little the scores know of the labels."""
    calibration: float
    """What the best temperature takes away."""


def nll_refinement(log_probs: ArrayLike, labels: ArrayLike) -> NllParts:
    """The NLL after temperature scaling fitted on the same examples, and the rest of the NLL.

    log_probs, labels: as for `nll`, and two options or more an example. Over a full vocabulary, probability
    outside the options counts as miscalibration. Temperatures are 0.01..100, or infinite (all options alike).

    The estimator of Berta et al. 2025 (arXiv 2501.19195). In their package probmetrics it is
    `MetricsWithCalibration` of `LogLoss` with the calibrator `temp-scaling`; its `ts-mix` mixes the scaled
    probabilities with 1 / (N + 1) of the uniform ones, which can leave a calibration error below 0.
    """
    total = nll(log_probs, labels)
    scaled = scaled_log_probs(log_probs, fit_temperature(log_probs, labels))
    alike = float(np.mean(np.log(np.isfinite(scaled).sum(axis=1))))
    refinement = min(nll(scaled, labels), alike, total)
    return NllParts(refinement, without_rounding(total - refinement))


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the ROC curve of confidence as a detector of correctness, 0..1; 0.5 is chance.

    confidence, correct: (N,). The probability that a correct example has more confidence than a wrong one,
    ties counting half (Mann and Whitney, by mid-ranks). ValueError where all are correct or all are wrong.
    """
    conf, hit = check_predictions(confidence, correct)
    num_correct = int(hit.sum())
    num_wrong = len(hit) - num_correct
    if num_correct == 0 or num_wrong == 0:
        raise ValueError("auroc needs both correct and wrong examples.")
    ties, hits = _by_confidence(conf, hit)
    mid_rank = np.cumsum(ties) - (ties - 1) / 2.0  # ranks count from 1; equal values share their mean rank
    rank_sum = float(np.sum(mid_rank * hits))
    return (rank_sum - num_correct * (num_correct + 1) / 2.0) / (num_correct * num_wrong)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve, 0..1, small is good (Geifman and El-Yaniv 2017).

    confidence, correct: (N,). The mean over k = 1..N of the share of errors among the k most confident
    examples. Equal confidences count as if in random order, by expectation, so that the order of the examples
    does not matter. Confidence that says nothing about correctness gives 1 - accuracy.
    """
    conf, hit = check_predictions(confidence, correct)
    ties, hits = _by_confidence(conf, hit)
    errors = np.repeat(1.0 - hits / ties, ties)[::-1]  # an example's expected error, within its group
    return float(np.mean(np.cumsum(errors) / np.arange(1, len(conf) + 1)))


def accuracy(correct: ArrayLike) -> float:
    """Share of correct examples, 0..1. correct: (N,)."""
    return float(np.mean(check_correct(correct)))


def mean_confidence(confidence: ArrayLike) -> float:
    """Mean confidence, 0..1. confidence: (N,)."""
    return float(np.mean(check_probabilities(confidence, "confidence", num_dims=1)))


def confidence_gap(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean confidence minus accuracy, -1..1; above 0 is over-confident. confidence, correct: (N,)."""
    conf, hit = check_predictions(confidence, correct)
    return without_rounding(float(np.mean(conf) - np.mean(hit)))


def chance_normalised_confidence(confidence: ArrayLike, num_options: ArrayLike) -> float:
    """Mean of (confidence - 1/C) / (1 - 1/C): 0 at chance, 1 where certain.

    confidence: (N,). num_options: (N,), the C of each example, 2 or more. Comparable where examples differ in
    C, as from 3 to 10 in MMLU-ProX. Below 0 (at least -1) where a raw confidence lies below chance.
    """
    return _above_chance(check_probabilities(confidence, "confidence", num_dims=1), num_options)


def chance_normalised_accuracy(correct: ArrayLike, num_options: ArrayLike) -> float:
    """Mean of (correct - 1/C) / (1 - 1/C): guessing gives 0. As `chance_normalised_confidence`."""
    return _above_chance(check_correct(correct), num_options)


def _above_chance(values: FloatArray, num_options: ArrayLike) -> float:
    count = check_finite(num_options, "num_options", num_dims=1)
    if len(count) != len(values):
        raise ValueError(f"num_options has {len(count)} examples, but there are {len(values)}.")
    if np.any(count < 2) or np.any(count != np.floor(count)):
        raise ValueError("num_options must be whole numbers of at least 2.")
    return without_rounding(float(np.mean((values - 1.0 / count) / (1.0 - 1.0 / count))))


def _by_confidence(conf: FloatArray, hit: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """(G,), (G,): the counts of all and of correct examples at each distinct confidence, from low to high."""
    order = np.argsort(conf)
    ordered = conf[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return np.diff(starts, append=len(conf)), np.add.reduceat(hit[order], starts)


def _row_sums(array: FloatArray) -> FloatArray:
    """(N,) row sums of (N, C) by a matrix product: over few columns `sum(axis=1)` takes ten times as long."""
    return np.asarray(array @ np.ones(array.shape[1]), dtype=np.float64)


def _one_hot(labels: NDArray[np.int64], num_classes: int) -> FloatArray:
    target = np.zeros((len(labels), num_classes))
    target[np.arange(len(labels)), labels] = 1.0
    return target


def _check_probs_and_labels(probs: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    p = check_probabilities(probs, "probs", num_dims=2)
    y = _check_labels(labels, p.shape)
    if np.max(np.abs(_row_sums(p) - 1.0)) > SUM_TOLERANCE:
        raise ValueError("probs must sum to 1 over the classes of each example.")
    return p, y


def _check_options(
    num_options: ArrayLike | None, labels: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """(N, C), True where an example has the option, or ValueError."""
    if num_options is None:
        return np.ones(shape, dtype=np.bool_)
    count = check_finite(num_options, "num_options", num_dims=1)
    if len(count) != shape[0] or np.any(count < 2) or np.any(count > shape[1]) or np.any(labels >= count):
        raise ValueError(f"num_options must be {shape[0]} numbers in 2..{shape[1]}, each above its label.")
    return np.arange(shape[1]) < count[:, None]


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
