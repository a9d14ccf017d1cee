"""Intervals of means over samples whose rows share examples, such as languages of parallel items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.inference.estimates import LEVEL, t_quantile
from study.bins import FloatArray


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
    centre, reach = float(np.mean(means)), t_quantile(LEVEL, math.inf) * deviation
    return centre - reach, centre + reach


def mean_over_seeds(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The 95% interval of the mean over training seeds, from the value and interval of each of two or more.

    Two independent parts, their half-widths added as squares: that of the questions, the mean of those given
    (all seeds answered the same questions, so it cannot be more), and the spread over seeds, by Student's t.
    Without replicates of the seeds, the luck of each with the questions is in both parts: the interval is
    somewhat wider than that of `analysis.inference.estimates.over_seeds`.
    """
    centre = float(np.mean(values))
    of_seeds = t_quantile(LEVEL, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = math.hypot(float(np.mean([(high - low) / 2.0 for low, high in intervals])), of_seeds)
    return centre - reach, centre + reach
