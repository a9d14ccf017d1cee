"""The estimates of one cell, for tests of the bootstrap: the analysis makes those of several at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.inference.bootstrap import Resamples, estimates, sum_rows
from analysis.inference.estimates import Estimate
from study.bins import NUM_BINS


def bootstrap(
    resamples: Resamples,
    rows: NDArray[np.int64],
    confidence: ArrayLike,
    correct: ArrayLike,
    means: Mapping[str, ArrayLike] | None = None,
    *,
    num_bins: int = NUM_BINS,
    scheme: str = "equal_width",
) -> dict[str, Estimate]:
    """Estimates of a cell: accuracy, confidence, gap, ece, and each of `means`.

    rows: (N,), from `resamples.rows`. confidence, correct: (N,). means: name -> (N,) values to average, such
    as each example's NLL. Bins stay those of the whole sample. Raises ValueError for bad or unequal input.
    """
    whole = sum_rows(
        resamples, rows, {"": confidence}, correct, means or {}, num_bins=num_bins, scheme=scheme
    )
    return estimates(resamples, [whole])[0]
