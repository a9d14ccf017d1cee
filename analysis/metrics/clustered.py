"""Intervals of means over samples whose rows share examples, such as languages of parallel items."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from study.bins import FloatArray

LEVEL = 0.95
HALF_WIDTH = statistics.NormalDist().inv_cdf((1.0 + LEVEL) / 2.0)
"""Of a normal interval, in deviations."""


def macro_interval(
    values: Sequence[FloatArray], example_ids: Sequence[NDArray[np.str_]]
) -> tuple[float, float] | None:
    """The 95% normal interval of the mean over samples of each sample's mean; None for a single example.

    values: (N,) per sample. example_ids: (N,) per sample; rows that share an id, in one sample or in several,
    are one draw. Raises ValueError without samples, and for one that is empty or of another length.
    """
    if not values or any(len(v) == 0 or len(v) != len(n) for v, n in zip(values, example_ids, strict=True)):
        raise ValueError("each sample needs a value, and an id for each of its values.")
    means = [float(np.mean(of_sample)) for of_sample in values]
    # what each row adds to the error of the mean, to the first order
    shares = [(v - m) / (len(v) * len(values)) for v, m in zip(values, means, strict=True)]
    if all(np.array_equal(ids, example_ids[0]) for ids in example_ids[1:]):  # quick: parallel items
        shares, example_ids = [np.sum(shares, axis=0)], example_ids[:1]
    of_example = shares[0]
    if len(shares) > 1 or len(set(example_ids[0].tolist())) < len(example_ids[0]):
        _, place = np.unique(np.concatenate(example_ids), return_inverse=True)
        of_example = np.asarray(np.bincount(place, np.concatenate(shares)), dtype=np.float64)
    count = len(of_example)
    if count < 2:
        return None
    deviation = float(np.sqrt(count / (count - 1) * np.sum(of_example**2)))
    centre = float(np.mean(means))
    return centre - HALF_WIDTH * deviation, centre + HALF_WIDTH * deviation


def mean_over_seeds(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The 95% interval of the mean over training seeds, from the value and interval of each of two or more.

    Two independent parts, their half-widths added as squares: that of the questions, the mean of those given
    (all seeds answered the same questions, so it cannot be more), and the spread over seeds, by Student's t.
    """
    centre = float(np.mean(values))
    of_seeds = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = math.hypot(float(np.mean([(high - low) / 2.0 for low, high in intervals])), of_seeds)
    return centre - reach, centre + reach


@lru_cache
def student(freedom: int) -> float:
    """The half-width of a 95% interval by Student's t, in deviations: 12.71 for one degree of freedom."""

    def inside(angle: float) -> float:
        """P(|t| < x), x = sqrt(freedom) tan(angle): a finite sum (Abramowitz and Stegun, 26.7.3 and 4)."""
        is_odd = freedom % 2
        total, term = 0.0, math.cos(angle) if is_odd else 1.0
        for k in range(is_odd, freedom - 1, 2):
            total += term
            term *= (k + 1) / (k + 2) * math.cos(angle) ** 2
        total *= math.sin(angle)
        return (angle + total) * 2.0 / math.pi if is_odd else total

    low, high = 0.0, math.pi / 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if inside(middle) < LEVEL else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
