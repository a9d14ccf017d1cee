"""The estimates of one cell, for tests of the bootstrap: the analysis makes those of several at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.inference.bootstrap import Key, Resamples, estimates, sum_rows
from analysis.inference.estimates import Estimate
from study.bins import NUM_BINS

ENDS: dict[Key, tuple[float, float]] = {
    ("accuracy", None): (0.0, 1.0),
    ("confidence", ""): (0.0, 1.0),
    ("nll", None): (0.0, math.inf),
}


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
    by_key: dict[Key, ArrayLike] = {(name, None): values for name, values in (means or {}).items()}
    sums = sum_rows(resamples, rows, {"": confidence}, correct, by_key, num_bins=num_bins, scheme=scheme)
    return {kind: estimate for (kind, _), estimate in estimates(resamples, [sums], ENDS)[0].items()}
