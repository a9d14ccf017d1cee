"""A bootstrap over examples, paired by example id across languages and models.

The items of a benchmark are parallel, so one draw says how often each example id counts in a replicate, in
every cell alike; a difference between cells then holds only what differs. A replicate of a mean is a product
of those counts with sums per example id: nothing is sorted or binned again. Rows that share an id (rotations
of the options, languages of a micro mean) stay together. Sums per id can be added over shards (`Sums`), so a
micro mean over languages is the estimate from the sum of their sums.

A cell may lack examples that others have. A replicate then holds those that it has, and is divided by their
number in that replicate (a ratio estimator). Where a replicate holds none of them, as in a cell of a few
examples, it is the mean of the cell. Shards that are compared item by item must have the same items;
`analysis.reading.loading` refuses others.

A binned error is not a mean: see `analysis.inference.squared`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.inference.estimates import Estimate, unseen
from analysis.inference.squared import BinnedSums, Expansion, bin_rows, estimate_of, expand
from study.bins import NUM_BINS, FloatArray, check_finite, check_predictions

Key = tuple[str, str | None]
"""A metric and its kind of confidence: ("ece_l2", "raw"), ("accuracy", None)."""
ACCURACY: Key = ("accuracy", None)
SUMMED_HERE = ("accuracy", "confidence", "gap", "ece_l2")
"""Metrics that `estimates` needs for each other, so `sum_rows` sums them from the predictions."""

NUM_REPLICATES = 1000
_BLOCK = 100
"""Replicates whose counts are floats at one time."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """How often each example id counts in each replicate; the same for all cells."""

    example_ids: NDArray[np.str_]
    """(U,), sorted, each once."""
    counts: NDArray[np.integer[Any]]
    """(R, U); each replicate sums to U."""

    def rows(self, example_ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
        """(N,) the place of each row's id in `example_ids`; an id may have many rows, or none.

        Raises ValueError where an id was not resampled.
        """
        ids = np.asarray(example_ids, dtype=np.str_)
        place = np.minimum(np.searchsorted(self.example_ids, ids), len(self.example_ids) - 1)
        foreign = ids[self.example_ids[place] != ids]
        if len(foreign):
            raise ValueError(f"{len(foreign)} examples were not resampled, such as {str(foreign[0])!r}.")
        return place

    def totals(self, sums: FloatArray, *, is_noise: bool = False) -> FloatArray:
        """(R, k) totals in each replicate. sums: (U, k), per example id.

        Each sum is rounded, by at most 1e-12 of the largest, so that adding them is exact in any order: the
        replicates have the same bits whatever the BLAS, the number of threads and the other columns.
        is_noise: only variances are wanted; float32 then halves the time, with totals that are within about
        a thousandth of their deviation.
        """
        dtype, digits = (np.float32, 24) if is_noise else (np.float64, 52)
        most = np.abs(sums).max(axis=0) * len(sums)
        unit = 2.0 ** (np.ceil(np.log2(np.where(most > 0.0, most, 1.0))) - digits)
        whole = np.rint(sums / unit).astype(dtype)
        blocks = range(0, len(self.counts), _BLOCK)
        totals = [np.matmul(self.counts[block : block + _BLOCK].astype(dtype), whole) for block in blocks]
        return np.concatenate(totals).astype(np.float64) * unit


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums per example id over the rows of one shard or several; divided once, later."""

    size: FloatArray
    """(U,) rows."""
    means: Mapping[Key, FloatArray]
    """(U,) sums of each quantity to be averaged."""
    errors: Mapping[str, BinnedSums]
    """By kind of confidence; each has separate bins."""

    def __add__(self, other: Sums) -> Sums:
        """The sums over the rows of both; what one of them lacks is left out."""
        errors = {
            kind: self.errors[kind] + other.errors[kind] for kind in self.errors if kind in other.errors
        }
        means = {key: self.means[key] + other.means[key] for key in self.means if key in other.means}
        return Sums(self.size + other.size, means, errors)


def resample(
    example_ids: Sequence[str] | NDArray[np.str_], *, num_replicates: int = NUM_REPLICATES, seed: int = 0
) -> Resamples:
    """Draw the replicates: U of the U example ids, with replacement.

    Depends only on the set of ids and the seed, not on the order of rows. Raises ValueError without ids, and
    for fewer than 100 replicates, whose 95% interval would rest on two of them.
    """
    if len(example_ids) == 0:
        raise ValueError("example_ids is empty.")
    if num_replicates < 100:
        raise ValueError(f"num_replicates must be at least 100, not {num_replicates}.")
    ids = np.unique(np.asarray(example_ids, dtype=np.str_))
    rng = np.random.default_rng(seed)
    counts = np.empty((num_replicates, len(ids)), dtype=np.uint8)  # more than 255 of one: once in 1e500
    for replicate in counts:
        replicate[:] = np.bincount(rng.integers(0, len(ids), len(ids)), minlength=len(ids))
    return Resamples(ids, counts)


def sum_rows(
    resamples: Resamples,
    rows: NDArray[np.int64],
    confidences: Mapping[str, ArrayLike],
    correct: ArrayLike,
    means: Mapping[Key, ArrayLike],
    *,
    num_bins: int = NUM_BINS,
    scheme: str = "equal_width",
) -> Sums:
    """The sums of a shard: of the accuracy, of each confidence and its bins, and of `means`.

    rows: (N,), from `resamples.rows`. confidences: by kind, (N,). correct: (N,). means: (N,) each.
    Raises ValueError for bad or unequal input.
    """
    num_ids = len(resamples.example_ids)
    columns: dict[Key, FloatArray] = {}
    errors: dict[str, BinnedSums] = {}
    for kind, values in confidences.items():
        conf, hit = check_predictions(values, correct)
        if rows.shape != conf.shape:
            raise ValueError(f"rows has shape {rows.shape} but confidence {conf.shape}.")
        columns |= {ACCURACY: hit, ("confidence", kind): conf}
        errors[kind] = bin_rows(rows, num_ids, conf, hit, num_bins=num_bins, scheme=scheme)
    for key, values in means.items():
        if key in columns:
            raise ValueError(f"means has {key[0]!r}, which is computed here.")
        columns[key] = check_finite(values, key[0], num_dims=1)
        if columns[key].shape != rows.shape:
            raise ValueError(f"{key[0]} has {len(columns[key])} examples but confidence has {len(rows)}.")
    size, *sums = (
        np.asarray(np.bincount(rows, values, minlength=num_ids), dtype=np.float64)
        for values in (np.ones(len(rows)), *columns.values())
    )
    return Sums(size, dict(zip(columns, sums, strict=True)), errors)


def estimates(
    resamples: Resamples, several: Sequence[Sums], ends: Mapping[Key, tuple[float, float]]
) -> list[dict[Key, Estimate]]:
    """The estimates of each cell: every mean and L2 ECE of its `Sums`, each confidence's gap to accuracy.

    ends: what a metric cannot be below or above: with few seeds, Student's tails reach far.
    Several cells at once are faster than one by one, with the same result.
    """
    expansions = [{kind: expand(binned) for kind, binned in sums.errors.items()} for sums in several]
    columns = [column for sums in several for column in (sums.size, *sums.means.values())]
    totals = iter(resamples.totals(np.stack(columns, axis=1)).T)
    noise = [expansion.columns for of_cell in expansions for expansion in of_cell.values()]
    ends_of_noise = np.cumsum([column.shape[1] for column in noise])[:-1]
    of_noise = resamples.totals(np.concatenate(noise, axis=1), is_noise=True)
    noise_totals = iter(np.split(of_noise, ends_of_noise, axis=1))
    return [
        _of_cell(sums, of_cell, totals, noise_totals, ends)
        for sums, of_cell in zip(several, expansions, strict=True)
    ]


def _of_cell(
    sums: Sums,
    expansions: Mapping[str, Expansion],
    totals: Iterator[FloatArray],
    noise_totals: Iterator[FloatArray],
    ends: Mapping[Key, tuple[float, float]],
) -> dict[Key, Estimate]:
    """totals: (R,) of the size and each mean; noise_totals: (R, k) of each expansion; over each replicate."""
    size, num_rows = next(totals), float(sums.size.sum())
    rows = sums.size.astype(np.uint16)  # kept with each cell, and passed between processes
    estimates: dict[Key, Estimate] = {}
    for key, column in sums.means.items():
        value = float(column.sum()) / num_rows
        draws = _divided(next(totals), size, value)
        estimates[key] = Estimate(value, draws, rows, ends=ends.get(key, (-math.inf, math.inf)))
    accuracy = estimates[ACCURACY]
    # where all answers are right, the confidence varies and hides how little is known about the accuracy
    below, above = (reach > 0.0 for reach in unseen(accuracy))
    for kind in sums.errors:
        error = estimate_of(expansions[kind], next(noise_totals), rows)
        if error is not None:
            estimates["ece_l2", kind] = replace(error, hides=(below or above,) * 2)
        confidence = estimates["confidence", kind]
        estimates["gap", kind] = Estimate(
            confidence.value - accuracy.value,
            confidence.draws - accuracy.draws,
            rows,
            ends=(-1.0, 1.0),
            hides=(above, below),
        )
    return estimates


def _divided(totals: FloatArray, size: FloatArray, otherwise: float) -> FloatArray:
    means: FloatArray = np.divide(totals, size, out=np.full(len(size), otherwise), where=size > 0.0)
    return means
