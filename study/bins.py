"""The only binning code: the ECE and the reliability diagram both read `Bins`.

Conventions
-----------
A bin is `(lo, hi]`, and 0 lies in the first (as in gpleiss/temperature_scaling, uncertainty-calibration and
scikit-learn; torchmetrics and netcal use `[lo, hi)`).

`equal_width`: edge k of B is `k / B` rounded once to float64, so the literal 0.6 with 10 bins *is* an edge
and lies in (0.5, 0.6]. (`np.linspace` multiplies a rounded step and gives 0.6000000000000001; for 15 bins the
two are the same.) There is no tolerance: float32 0.6 is 0.60000002 in float64 and lies in (0.6, 0.7].

`equal_mass`: the inner edges are the quantiles k / B of the confidences (linear, as `np.quantile` and
scikit-learn's `strategy="quantile"`), found by integer arithmetic: edge k is the element of rank `(n - 1) * k
// B` in the sorted confidences, which cuts exactly where the interpolated quantile would, without its
rounding. Equal confidences are never split over two bins, so the result does not depend on the order of the
examples; with ties, or fewer examples than bins, some bins are therefore empty. The outer edges are 0 and 1.

An empty bin has count 0 and NaN for its mean confidence and accuracy: missing, not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scheme = Literal["equal_width", "equal_mass"]
FloatArray = NDArray[np.float64]

NUM_BINS = 15
OVERSHOOT = 1e-6
"""A probability may exceed 1 by this much (a float32 softmax does); it is then taken as 1."""


@dataclass(frozen=True, eq=False)
class Bins:
    """Sums of one set of predictions over bins; every array has shape (B,), B the number of bins."""

    lo: FloatArray
    """Lower edges, excluded from their bin (except 0 in the first)."""
    hi: FloatArray
    """Upper edges, included."""
    count: NDArray[np.int64]
    """Examples in each bin."""
    confidence: FloatArray
    """Mean confidence, 0..1; NaN where the bin is empty."""
    accuracy: FloatArray
    """Share of correct examples, 0..1; NaN where the bin is empty."""

    @property
    def num_examples(self) -> int:
        """Examples over all bins; at least 1."""
        return int(self.count.sum())

    @property
    def filled(self) -> NDArray[np.bool_]:
        """(B,) True where the bin holds an example."""
        return self.count > 0

    @property
    def weight(self) -> FloatArray:
        """(B,) the share of the examples in each bin, n_b / n; sums to 1."""
        return np.asarray(self.count / self.num_examples, dtype=np.float64)

    @property
    def difference(self) -> FloatArray:
        """(B,) d_b = accuracy - mean confidence, -1..1; NaN where the bin is empty."""
        return self.accuracy - self.confidence


def equal_width_edges(num_bins: int) -> FloatArray:
    """(B + 1,) edges k / B, each correctly rounded."""
    return np.asarray(np.arange(num_bins + 1) / num_bins, dtype=np.float64)


def equal_mass_edges(ordered: FloatArray, num_bins: int) -> FloatArray:
    """(B + 1,) 0, the inner quantiles of `ordered: (N,)`, sorted confidences, as order statistics, 1;
    neighbours may tie.
    """
    ranks = (len(ordered) - 1) * np.arange(1, num_bins, dtype=np.int64) // num_bins
    return np.concatenate([[0.0], ordered[ranks], [1.0]])


def bin_predictions(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> Bins:
    """Sort predictions into bins.

    confidence: (N,), probabilities 0..1 (up to 1 + 1e-6 is taken as 1). correct: (N,), bool or 0/1. Raises
    ValueError where either is not that, is empty, or differs from the other in length, and for an unknown
    scheme or a num_bins below 1.
    """
    conf, hit = check_predictions(confidence, correct)
    index, edges = assign_bins(conf, num_bins=num_bins, scheme=scheme)
    count = np.bincount(index, minlength=int(num_bins))
    sums = [np.asarray(np.bincount(index, v, minlength=int(num_bins)), dtype=np.float64) for v in (conf, hit)]
    return _divided(edges[:-1], edges[1:], count, *sums)


def assign_bins(
    conf: FloatArray, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> tuple[NDArray[np.int64], FloatArray]:
    """(N,) the bin of each confidence, and the (B + 1,) edges.

    conf: (N,), as `check_predictions` returns it. Raises ValueError for an unknown scheme or a num_bins below
    1.
    """
    if isinstance(num_bins, bool) or not isinstance(num_bins, (int, np.integer)) or num_bins < 1:
        raise ValueError(f"num_bins must be a whole number of at least 1, not {num_bins!r}.")
    if scheme == "equal_width":
        edges = equal_width_edges(int(num_bins))
        return _equal_width_index(conf, edges), edges
    if scheme == "equal_mass":
        order = np.argsort(conf)
        ordered = conf[order]
        edges = equal_mass_edges(ordered, int(num_bins))
        ends = np.searchsorted(ordered, edges[1:-1], side="right")  # an edge belongs to the bin below it
        index = np.empty(len(conf), dtype=np.int64)
        index[order] = np.repeat(np.arange(int(num_bins)), np.diff(ends, prepend=0, append=len(conf)))
        return index, edges
    raise ValueError(f"scheme must be one of {', '.join(get_args(Scheme))}, not {scheme!r}.")


def _equal_width_index(conf: FloatArray, edges: FloatArray) -> NDArray[np.int64]:
    """(N,) the bin of each confidence, computed: a search takes 20 times as long."""
    num_bins = len(edges) - 1
    scaled = conf * (num_bins * (1.0 - 2.0**-50))  # so that rounding never puts a confidence too high
    floor = np.floor(scaled)
    index = floor.astype(np.int64)
    scaled -= floor
    if scaled.max() > 1.0 - num_bins * 2.0**-48:  # just above an edge, one may be too low
        index += conf > edges[1:][index]
    return index


def merge_bins(several: Sequence[Bins]) -> Bins:
    """The bins of all examples together: sums and counts are added, then divided once.

    Raises ValueError for none, or where the edges differ (as those of "equal_mass" do).
    """
    if not several:
        raise ValueError("there are no bins to merge.")
    first = several[0]
    if not all(np.array_equal(b.lo, first.lo) and np.array_equal(b.hi, first.hi) for b in several):
        raise ValueError("bins with different edges cannot be merged.")
    count = np.asarray(np.sum([b.count for b in several], axis=0), dtype=np.int64)
    confidence = np.sum([np.where(b.filled, b.confidence * b.count, 0.0) for b in several], axis=0)
    correct = np.sum([np.where(b.filled, b.accuracy * b.count, 0.0) for b in several], axis=0)
    return _divided(first.lo, first.hi, count, confidence, correct)


def error_over_bins(bins: Bins) -> float:
    """The ECE of predictions that are already in bins, so that a diagram and its ECE share one set."""
    return float(np.sum(bins.weight[bins.filled] * np.abs(bins.difference[bins.filled])))


def signed_root(square: float) -> float:
    """The root of a squared error; that of its size, below 0, where noise has put the square below 0."""
    return math.copysign(math.sqrt(abs(square)), square)


def _divided(
    lo: FloatArray, hi: FloatArray, count: NDArray[np.int64], confidence: FloatArray, correct: FloatArray
) -> Bins:
    """Bins from sums over them."""
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin is the NaN we want
        return Bins(lo, hi, count, confidence / count, correct / count)


def check_predictions(confidence: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The inputs of every confidence metric as float64 arrays of one shape (N,), N >= 1, or ValueError."""
    conf = check_probabilities(confidence, "confidence", num_dims=1)
    hit = check_correct(correct)
    if len(conf) != len(hit):
        raise ValueError(f"confidence has {len(conf)} examples but correct has {len(hit)}.")
    return conf, hit


def check_probabilities(values: ArrayLike, name: str, *, num_dims: int) -> FloatArray:
    """`values` as float64 of `num_dims` axes, each 0..1 (an overshoot of 1e-6 is cut to 1), or ValueError.

    May be the caller's own array, as with all checks: never write into it.
    """
    if np.asarray(values).dtype == np.bool_:
        raise ValueError(f"{name} must hold probabilities, not truth values (are the arguments swapped?).")
    array = _check_numbers(values, name, num_dims=num_dims)
    low, high = array.min(), array.max()
    if not (low >= 0.0 and high <= 1.0 + OVERSHOOT):  # NaN is neither
        check_finite(array, name, num_dims=num_dims)
        raise ValueError(f"{name} must lie in 0..1, but spans {low:g}..{high:g}.")
    return np.minimum(array, 1.0) if high > 1.0 else array


def check_correct(correct: ArrayLike) -> FloatArray:
    """`correct: (N,)` as float64 zeros and ones, N >= 1, or ValueError."""
    if np.asarray(correct).dtype == np.bool_:
        return _check_numbers(correct, "correct", num_dims=1)
    array = check_finite(correct, "correct", num_dims=1)
    if not ((array == 0.0) | (array == 1.0)).all():
        raise ValueError("correct must be bool or hold only 0 and 1.")
    return array


def check_finite(values: ArrayLike, name: str, *, num_dims: int) -> FloatArray:
    """`values` as a filled float64 array of `num_dims` axes without NaN or infinity, or ValueError."""
    array = _check_numbers(values, name, num_dims=num_dims)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite values.")
    return array


def _check_numbers(values: ArrayLike, name: str, *, num_dims: int) -> FloatArray:
    """`check_finite`, but NaN and infinity pass."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{name} has masked (missing) values.")
    raw = np.asarray(values)
    if raw.dtype.kind not in "biufO":
        raise ValueError(f"{name} must be numeric, not {raw.dtype}.")
    try:
        array = raw.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has values that are not numbers.") from error
    if array.ndim != num_dims:
        raise ValueError(f"{name} must have {num_dims} axes, not shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty.")
    return array
