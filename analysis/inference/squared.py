"""The squared calibration error of binned predictions, without bias, and its replicates.

An ECE of n examples in 15 bins is biased upward: a calibrated model shows .05 at n = 500, one that is off by
.05 shows .07. Near 0 no estimator of a sum of absolute values is without that bias (Cai and Low, 2011, Annals
of Statistics 39), and a difference of two such ECEs understates what changed. A squared error has none of
this: the sum over different examples i, j of one bin,

    square = sum_b w_b sum_{i != j} r_i r_j / (number of such pairs),    w_b = share of the examples,

with residuals r = correct - confidence, has the expectation sum_b w_b (mean residual of bin b)^2 (a
U-statistic; debiased L2 error of Kumar et al. 2019, with the variance of the residuals). It may be below 0.
People read its signed root, the L2 ECE, which is never smaller than the ECE of the same bins but for noise.
Rows of one example, as in a micro mean over languages, are right or wrong together: only pairs of different
examples count.

Its error has a linear and a quadratic part. With M_b the bin's mean residual and Z_b its noise, each scaled
by sqrt(w_b), square - truth = sum_b 2 M_b Z_b + sum_b (Z_b^2 - E Z_b^2), and a linear term since the shares
of the bins vary. Replicates of Z_b come from the bootstrap's counts of examples, the same for all cells, so
both parts are paired over languages, models and seeds, and add up over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.inference.estimates import Estimate, Squared
from study.bins import FloatArray, assign_bins


@dataclass(frozen=True, eq=False)
class BinnedSums:
    """Sums by bin and example id; B bins, U example ids."""

    count: FloatArray
    """(B, U) rows."""
    residual: FloatArray
    """(B, U) sums of correct - confidence."""
    squares: FloatArray
    """(B,) sums of (correct - confidence)^2."""

    def __add__(self, other: BinnedSums) -> BinnedSums:
        return BinnedSums(
            self.count + other.count, self.residual + other.residual, self.squares + other.squares
        )


@dataclass(frozen=True, eq=False)
class Expansion:
    """A squared error with what its replicates are computed from."""

    value: float | None
    """None where no bin has two examples."""
    bias: float
    """What the noise of the bins adds to the plug-in square."""
    slopes: FloatArray
    """(k,) 2 M_b."""
    expected: float
    """E sum_b Z_b^2."""
    columns: FloatArray
    """(U, k + 1) what each example adds to each Z_b, then to the term from the shares of the bins."""
    design_effect: float
    """How many times larger than that of independent rows the variance of a bin's sum is.

    1 where no example has two rows in a bin; more where the rows of an example are alike.
    """


def bin_rows(
    rows: NDArray[np.int64],
    num_ids: int,
    confidence: FloatArray,
    correct: FloatArray,
    *,
    num_bins: int,
    scheme: str,
) -> BinnedSums:
    """Sums of the rows of a shard. rows, confidence, correct: (N,); rows: the place of each example's id."""
    index, _ = assign_bins(confidence, num_bins=num_bins, scheme=scheme)
    residual = correct - confidence
    place, size = index * num_ids + rows, num_ids * num_bins
    return BinnedSums(
        np.bincount(place, minlength=size).reshape(num_bins, num_ids).astype(np.float64),
        np.bincount(place, residual, minlength=size).reshape(num_bins, num_ids).astype(np.float64),
        np.bincount(index, residual**2, minlength=num_bins).astype(np.float64),
    )


def expand(binned: BinnedSums) -> Expansion:
    """The squared error, and its parts."""
    count, total = binned.count.sum(axis=1), binned.residual.sum(axis=1)
    pairs = count**2 - (binned.count**2).sum(axis=1)  # ordered, of rows of different examples
    usable = pairs > 0.0
    of_bin, of_rows = binned.count[usable], binned.residual[usable]
    count, total, pairs = count[usable], total[usable], pairs[usable]
    num_rows = float(binned.count.sum())
    weight = count / (num_rows * pairs)
    same_example = (of_rows**2).sum(axis=1)
    mean = total / count
    off = of_rows - of_bin * mean[:, None]
    of_independent = float(np.sum(binned.squares[usable] - count * mean**2))
    noise = off * np.sqrt(weight)[:, None]
    square = float(count @ mean**2) / num_rows
    of_shares = (mean**2 - square) @ of_bin / num_rows
    value = float(weight @ (total**2 - same_example)) if usable.any() else None
    return Expansion(
        value=value,
        bias=float(weight @ same_example),
        slopes=2.0 * total * np.sqrt(weight),
        expected=float(np.vdot(noise, noise)),
        columns=np.concatenate([noise, of_shares[None]]).T,
        design_effect=float(np.vdot(off, off)) / of_independent if of_independent > 0.0 else 1.0,
    )


def estimate_of(expansion: Expansion, totals: FloatArray, rows: NDArray[Any]) -> Estimate | None:
    """The estimate of a squared error; None where it has no value.

    totals: (R, k + 1) of `columns` over each replicate. rows: (U,) of each example id.
    """
    if expansion.value is None:
        return None
    noise, of_shares = totals[:, :-1], totals[:, -1] - expansion.columns[:, -1].sum()
    return Estimate(
        value=expansion.value,
        draws=expansion.value + noise @ expansion.slopes + of_shares,
        item_weights=rows,
        ends=(-1.0, 1.0),
        squared=Squared((noise**2).sum(axis=1) - expansion.expected, expansion.bias, expansion.design_effect),
    )
