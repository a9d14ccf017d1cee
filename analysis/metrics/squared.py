"""The squared calibration error without the bias of its bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from study.bins import NUM_BINS, assign_bins, check_predictions, signed_root


def unbiased_square(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """sum_b w_b (mean of r_i r_j over pairs of different examples of bin b), r = correct - confidence.

    Its expectation is sum_b w_b (mean residual of bin b)^2 without noise, so it may be below 0; -1..1. A bin
    with one example says nothing about itself, and is left out. Raises ValueError for bad input, and where no
    bin holds two examples. Inference on it: `analysis.inference.squared`.
    """
    conf, hit = check_predictions(confidence, correct)
    index, _ = assign_bins(conf, num_bins=num_bins, scheme=scheme)
    residual = hit - conf
    count = np.bincount(index, minlength=num_bins)
    usable = count >= 2
    if not usable.any():
        raise ValueError("an unbiased squared error needs a bin with at least 2 examples.")
    total, same = (np.bincount(index, r, minlength=num_bins)[usable] for r in (residual, residual**2))
    return float(np.sum((total**2 - same) / (count[usable] - 1)) / len(conf))


def l2_ece(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = NUM_BINS, scheme: str = "equal_width"
) -> float:
    """The signed root of `unbiased_square`: the root-mean-square calibration error without bias, -1..1."""
    return signed_root(unbiased_square(confidence, correct, num_bins=num_bins, scheme=scheme))
