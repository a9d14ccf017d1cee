"""Estimates with bootstrap replicates: their intervals, differences, means over cells, and tests.

`analysis.inference.bootstrap` makes them. Seeds are a level above the examples: training runs are few, so
their spread is not resampled but enters as Student's t with (number of seeds - 1) degrees of freedom. One
seed says nothing about others.

Replicates show no wrong answer where a sample has none. So intervals are widened (`unseen`) for accuracy, gap
and ECE of a cell whose answers are all right, or all wrong, for means of such cells, and for a difference of
accuracies of -1 or 1. No other interval is widened: that of any other difference, or of a mean in which only
some cells are all right, is what the replicates show.

A p-value is never below that of the sign test of as many examples. Where that is above 1 - level, every
interval of a difference holds 0; and where the 95% interval holds 0, p is at least .05.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.bins import FloatArray

LEVEL = 0.95
_T_DRAWS = 20
"""Draws of the seeds' effect for each replicate: Student's tails are long, and draws are cheap."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """One number of a cell with its bootstrap replicates, which are paired with those of other cells."""

    value: float
    """The number in the tables; an ECE has its bias."""
    draws: FloatArray
    """(R,) replicates; those of an ECE are without its bias."""
    item_weights: NDArray[Any]
    """(U,) how much each example id counts, in any unit: the rows that a cell has of it."""
    ends: tuple[float, float] = (-math.inf, math.inf)
    """What the quantity cannot be below or above; intervals end there."""
    may_be_lowest: bool = False
    """A calibrated model would show this binned error by chance: its interval begins at 0."""
    bias_left: float = 0.0
    """The bias that the draws of a cell's binned error may still have; means and differences allow for it."""
    slack: tuple[float, float] = (0.0, 0.0)
    """How far bias may put the truth below and above the draws of a mean or difference of cells."""
    hides: tuple[bool, bool] = (False, False)
    """For a gap or ECE: whether answers that are all right, or all wrong, hide what lies below and above."""
    seeds: tuple[tuple[float, int], ...] = ()
    """(variance of the mean over seeds, degrees of freedom) for each group of seeds in it."""

    @cached_property
    def num_items(self) -> int:
        """Different examples in it; a mean has those of any of its cells."""
        return int(np.count_nonzero(self.item_weights))


def interval(estimate: Estimate, *, level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """(low, high), two-sided, by percentiles of the replicates.

    A binned error that a calibrated model would show by chance has an interval from 0. Means and differences
    of binned errors are wider by the bias that may be left, which does not average out over languages. For
    replicates that are all at one end see `unseen`. A difference's interval holds 0 where no test of so few
    examples could find it. seed: for the draws of the seeds' effect, where the estimate is a mean over seeds.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}.")
    draws = _with_seeds(estimate, seed)
    low, high = _percentiles(draws, level)
    below, above = np.sum([estimate.slack, unseen(estimate, level=level)], axis=0)
    least, most = estimate.ends
    low = least if estimate.may_be_lowest else min(max(low - below, least), most)
    high = min(max(high + above, least), most)
    if least < 0.0 < most and _least_p(estimate) > 1.0 - level:  # a difference; the same limit as in p_value
        low, high = min(low, 0.0), max(high, 0.0)
    return float(low), float(high)


def unseen(estimate: Estimate, *, level: float = LEVEL) -> tuple[float, float]:
    """(below, above): how far the truth may lie from replicates that are all at one end; else (0, 0).

    After N right answers of N the share of wrong ones may still be 1 - ((1 - level) / 2)^(1 / N), by Clopper
    and Pearson's exact interval: with 30 of 30 the accuracy is at least .884. A gap or ECE may hide as much.
    In a mean one example may count more than others: see `_most_wrong`. The difference of two cells that
    answer everything alike stays 0.
    """
    (least, most), value = estimate.ends, float(estimate.draws[0])
    (below, above), width = estimate.hides, 1.0
    if math.isfinite(most - least) and value in (least, most) and np.all(estimate.draws == value):
        below, above, width = value == most, value == least, most - least
    if not (below or above):
        return 0.0, 0.0
    reach = width * _most_wrong(estimate.item_weights, (1.0 - level) / 2.0)
    return reach * below, reach * above


def _most_wrong(item_weights: NDArray[Any], chance: float) -> float:
    """The largest weighted share of wrong answers with which all are right with at least this chance.

    For N equal weights it is 1 - chance^(1 / N). Otherwise the examples that count most may fail most: the
    maximum of sum s_j (1 - p_j), where the product of all p_j is `chance`, has the same s_j p_j in each of
    the k heaviest examples, and p_j = 1 in the others. Examples are independent. The answers to one example
    in several languages need not be: all are right no more often than in the language with the lowest p_j.
    """
    shares = np.sort(item_weights[item_weights > 0] / float(item_weights.sum()))[::-1]
    log_left = (np.cumsum(np.log(shares)) + math.log(chance)) / np.arange(1, len(shares) + 1)
    k = int(np.count_nonzero(np.log(shares) > log_left))
    return float(np.sum(shares[:k] - math.exp(log_left[k - 1])))


def _percentiles(draws: FloatArray, level: float) -> tuple[float, float]:
    """The ends of the middle `level` of the draws: `np.quantile`, in a quarter of the time."""
    last = len(draws) - 1
    place = (1.0 - level) / 2.0 * last
    first, share = int(place), place - int(place)
    second = min(first + 1, last)
    ordered = np.partition(draws, sorted({first, second, last - second, last - first}))
    low = ordered[first] + share * (ordered[second] - ordered[first])
    high = ordered[last - first] - share * (ordered[last - first] - ordered[last - second])
    return float(low), float(high)


def p_value(estimate: Estimate, *, seed: int = 0) -> float:
    """The two-sided p-value that the quantity is 0, by a normal approximation.

    Counting the replicates beyond 0 would give at least 2 / R: with 42 languages and 1,000 replicates Holm's
    correction could never find anything. Where there are seeds, the draws with the seeds' effect are counted,
    which gives at least 1 / (20 R). It is never below 2^(1 - N), that of the exact sign test of N examples
    that all differ the same way, and at least .05 where the interval holds 0. It is 1 for equal cells, where
    nothing varies. seed: see `interval`.
    """
    centre = float(np.mean(estimate.draws))
    below, above = estimate.slack
    distance = max(centre - below, -centre - above, 0.0)
    if distance == 0.0:
        return 1.0
    low, high = interval(estimate, seed=seed)
    least = max(_least_p(estimate), 1.0 - LEVEL if low <= 0.0 <= high else 0.0)
    if estimate.seeds:
        away = np.abs(_with_seeds(estimate, seed) - centre) >= distance
        return max(least, float(1 + np.count_nonzero(away)) / (1 + len(away)))
    deviation = float(np.std(estimate.draws, ddof=1))
    return least if deviation == 0.0 else max(least, math.erfc(distance / deviation / math.sqrt(2.0)))


def _least_p(estimate: Estimate) -> float:
    """The p-value of the two-sided sign test where all examples differ the same way."""
    return float(2.0 ** (1 - estimate.num_items))


def _with_seeds(estimate: Estimate, seed: int) -> FloatArray:
    """The replicates, each with several draws of the seeds' effect where there is one."""
    if not estimate.seeds:
        return estimate.draws
    draws = np.repeat(estimate.draws, _T_DRAWS)
    effects = _t_draws(tuple(freedom for _, freedom in estimate.seeds), len(draws), seed)
    for (variance, _), effect in zip(estimate.seeds, effects, strict=True):
        draws = draws + math.sqrt(variance) * effect
    return draws


@lru_cache(maxsize=16)
def _t_draws(freedoms: tuple[int, ...], size: int, seed: int) -> list[FloatArray]:
    """Kept, since many cells of a study have the same number of seeds."""
    rng = np.random.default_rng(seed)
    return [rng.standard_t(freedom, size) for freedom in freedoms]


def mean(estimates: Sequence[Estimate | None], weights: Sequence[float] | None = None) -> Estimate | None:
    """The mean of cells, such as a macro mean over languages; None where one of them is missing.

    Replicates are averaged pair by pair. Languages are taken as given, not as a sample of languages. Raises
    ValueError without estimates, and for estimates over seeds (a seed has one model for all languages: take
    the mean over languages first, then `over_seeds`).
    """
    if not estimates:
        raise ValueError("there are no estimates to average.")
    present = [e for e in estimates if e is not None]
    if len(present) < len(estimates):
        return None
    if any(e.seeds for e in present):
        raise ValueError("a mean over languages comes before the mean over seeds.")
    if len({len(e.draws) for e in present}) > 1:
        raise ValueError("estimates have different numbers of replicates.")
    if len(present) == 1:
        return present[0]
    slack = np.average([(e.slack[0] + e.bias_left, e.slack[1]) for e in present], axis=0, weights=weights)
    return Estimate(
        value=float(np.average([e.value for e in present], weights=weights)),
        draws=np.average([e.draws for e in present], axis=0, weights=weights),
        item_weights=_shares(present, weights),
        ends=(min(e.ends[0] for e in present), max(e.ends[1] for e in present)),
        may_be_lowest=all(e.may_be_lowest for e in present),
        slack=(float(slack[0]), float(slack[1])),
        hides=(all(e.hides[0] for e in present), all(e.hides[1] for e in present)),
    )


def _shares(estimates: Sequence[Estimate], weights: Sequence[float] | None) -> FloatArray:
    """(U,) how much each example id counts in a mean of cells."""
    shares = np.zeros(len(estimates[0].item_weights))
    for estimate, weight in zip(estimates, weights or [1.0] * len(estimates), strict=True):
        shares += weight / float(estimate.item_weights.sum()) * estimate.item_weights
    return shares


def over_seeds(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """The mean over training seeds; None where one is missing. With two or more, their spread counts."""
    together = mean(estimates)
    if together is None or len(estimates) == 1:
        return together
    values = [e.value for e in estimates if e is not None]
    term = (float(np.var(values, ddof=1)) / len(values), len(values) - 1)
    return replace(together, seeds=(term,))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b over the same examples and replicates; the seeds of a and b are independent.

    Nothing is added for what cells hide that are all right, or all wrong: see the top of this module.
    """
    if a.draws.shape != b.draws.shape:
        raise ValueError("estimates have different numbers of replicates.")
    below = a.slack[0] + a.bias_left + b.slack[1]
    above = a.slack[1] + b.slack[0] + b.bias_left
    return Estimate(
        value=a.value - b.value,
        draws=a.draws - b.draws,
        item_weights=a.item_weights,
        ends=(a.ends[0] - b.ends[1], a.ends[1] - b.ends[0]),
        slack=(below, above),
        seeds=a.seeds + b.seeds,
    )


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction, in the input's order. A missing p-value is None but counts as a test."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    result = dict(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        result[name] = highest
    return result
