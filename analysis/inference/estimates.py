"""Estimates with bootstrap replicates: their means over languages and seeds, standard errors and intervals.

`analysis.inference.bootstrap` makes them, `analysis.inference.changes` compares them. An interval is the
estimate plus and minus t standard errors. A standard error has two parts:

questions: the variance of the replicates, which are paired over all cells.
training seeds: the variance of the seeds' values, over their number. Seeds answer the same questions, each
    with luck of its own, which is in the variance of the replicates already. So the part of that variance
    that seeds do not share is taken off: luck counts once.

Languages are taken as given, not as a sample of languages.

t has the degrees of freedom of Satterthwaite (1946): those of the seeds where their spread dominates, nearly
those of the examples where it does not. One seed says nothing about others: its estimates compare two
checkpoints, not two methods.

Replicates show no wrong answer where a sample has none. So intervals are widened (`unseen`) for accuracy, gap
and L2 ECE of a cell whose answers are all right, or all wrong, and for means of such cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.bins import FloatArray, signed_root

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Squared:
    """What a squared calibration error has beside its linear replicates: see `analysis.inference.squared`."""

    noise: FloatArray
    """(R,) replicates of its quadratic part: the squared noise of the bins, less its expectation."""
    bias: float
    """What noise adds to the plug-in squared error, and was taken off."""
    design_effect: float = 1.0
    """How many times larger noise is than that of independent rows: see
    `analysis.inference.squared.Expansion`."""


@dataclass(frozen=True)
class SeedTerm:
    """What the training seeds of one side add to a variance."""

    spread: float
    """Variance of the seeds' values over their number: of their mean, luck with questions included."""
    luck: float
    """The part of the variance over questions that is each seed's own, and so in `spread` as well."""
    freedom: int
    """Number of seeds - 1."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """One number of a cell with its bootstrap replicates, which are paired with those of other cells."""

    value: float
    """The number; of a squared calibration error the square, without bias, which may be below 0."""
    draws: FloatArray
    """(R,) replicates of it; of a squared error, of its linear part."""
    item_weights: NDArray[Any]
    """(U,) how much each example id counts, in any unit: the rows that a cell has of it."""
    ends: tuple[float, float] = (-math.inf, math.inf)
    """What the number, as it is shown, cannot be below or above; intervals end there."""
    hides: tuple[bool, bool] = (False, False)
    """Whether answers that are all right, or all wrong, hide what lies below and above."""
    squared: Squared | None = None
    """None unless this is a squared calibration error."""
    seeds: Mapping[Any, Estimate] = field(default_factory=dict)
    """The estimate of each training seed, where this is their mean."""
    seed_terms: tuple[SeedTerm, ...] = ()
    """One for each group of seeds in it."""

    @property
    def shown(self) -> float:
        """The number that people read: of a squared error its signed root."""
        return self.value if self.squared is None else signed_root(self.value)

    @cached_property
    def num_items(self) -> int:
        """Different examples in it; a mean has those of any of its cells."""
        return int(np.count_nonzero(self.item_weights))

    @cached_property
    def question_variance(self) -> float:
        """The variance over draws of the questions.

        A squared error's linear part is computed from bins whose errors hold noise as well, which adds twice
        the variance of the quadratic part to it, once too much.
        """
        linear = float(np.var(self.draws, ddof=1))
        if self.squared is None:
            return linear
        quadratic = float(np.var(self.squared.noise, ddof=1))
        return max(linear - quadratic, quadratic)

    def with_seeds(self, question_variance: float) -> tuple[float, float]:
        """(variance, Satterthwaite's degrees of freedom) of questions and seeds together."""
        shared = max(question_variance - sum(term.luck for term in self.seed_terms), 0.0)
        parts = [(shared, self.num_items - 1), *((term.spread, term.freedom) for term in self.seed_terms)]
        total = sum(variance for variance, _ in parts)
        spent = sum(variance**2 / max(freedom, 1) for variance, freedom in parts)
        return total, total**2 / spent if spent > 0.0 else math.inf


def standard_error(estimate: Estimate) -> tuple[float, float]:
    """(standard error, degrees of freedom)."""
    variance, freedom = estimate.with_seeds(estimate.question_variance)
    return math.sqrt(variance), freedom


def t_quantile(level: float, freedom: float) -> float:
    """The half-width of a two-sided interval in standard errors."""
    from scipy.special import ndtri, stdtrit

    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}.")
    above = 0.5 + level / 2.0
    return float(ndtri(above) if math.isinf(freedom) else stdtrit(freedom, above))


def interval(estimate: Estimate, *, level: float = LEVEL) -> tuple[float, float]:
    """(low, high), two-sided, of the number as it is shown; it holds the number.

    Of a squared error see `_squared_interval`. For replicates that are all at one end see `unseen`.
    """
    if estimate.squared is not None:
        low, high = _squared_interval(estimate, estimate.squared, level)
    else:
        error, freedom = standard_error(estimate)
        half = t_quantile(level, freedom) * error
        low, high = estimate.value - half, estimate.value + half
    below, above = unseen(estimate, level=level)
    least, most = estimate.ends
    return max(low - below, least), min(high + above, most)


def _squared_interval(estimate: Estimate, squared: Squared, level: float) -> tuple[float, float]:
    """Signed roots of the ends of a score interval (as Wilson's of a share).

    The variance of a squared error grows with it, so an estimate that is low by chance has a low variance,
    too. The interval holds every square that is within t standard errors of the estimate, with the variance
    which that square would have: a + b square, a at no error, and as the replicates say at the estimate.
    """
    linear, quadratic = (float(np.var(draws, ddof=1)) for draws in (estimate.draws, squared.noise))
    at_zero, _ = estimate.with_seeds(quadratic)
    _, freedom = estimate.with_seeds(max(linear, quadratic))
    t2 = t_quantile(level, freedom) ** 2
    square, deviation = estimate.value, math.sqrt(quadratic)
    # by the estimate, and, where that is near 0, by the plug-in square: the larger of the two
    over = ((max(linear - quadratic, 0.0), max(square, deviation)), (linear, square + squared.bias))
    slope = max((variance / scale for variance, scale in over if scale > 0.0), default=0.0)
    centre = square + t2 * slope / 2.0
    half = math.sqrt(t2 * max(t2 * slope**2 / 4.0 + slope * square + at_zero, 0.0))
    low, high = min(centre - half, square), max(centre + half, square)
    return signed_root(low), signed_root(high)


def unseen(estimate: Estimate, *, level: float = LEVEL) -> tuple[float, float]:
    """(below, above): how far the truth may lie from replicates that are all at one end; else (0, 0).

    After N right answers of N the share of wrong ones may still be 1 - ((1 - level) / 2)^(1 / N), by Clopper
    and Pearson's exact interval: with 30 of 30 the accuracy is at least .884. A gap or an L2 ECE may hide as
    much. In a mean one example may count more than others: see `_most_wrong`.
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


def mean(estimates: Sequence[Estimate | None], weights: Sequence[float] | None = None) -> Estimate | None:
    """The mean of cells, such as a macro mean over languages; None where one of them is missing.

    Replicates are averaged pair by pair; of squared errors the squares are, so that the mean's root is a root
    mean square. Raises ValueError without estimates, for some that are squared and some that are not, and for
    estimates over seeds (a seed has one model for all languages: take the mean over languages first, then
    `over_seeds`).
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
    squared = [e.squared for e in present if e.squared is not None]
    if squared and len(squared) < len(present):
        raise ValueError("squared errors are not averaged with other numbers.")
    if len(present) == 1:
        return present[0]
    return Estimate(
        value=float(np.average([e.value for e in present], weights=weights)),
        draws=np.average([e.draws for e in present], axis=0, weights=weights),
        item_weights=_shares(present, weights),
        ends=(min(e.ends[0] for e in present), max(e.ends[1] for e in present)),
        hides=(all(e.hides[0] for e in present), all(e.hides[1] for e in present)),
        squared=_mean_squared(squared, weights) if squared else None,
    )


def _mean_squared(squared: Sequence[Squared], weights: Sequence[float] | None) -> Squared:
    return Squared(
        np.average([s.noise for s in squared], axis=0, weights=weights),
        float(np.average([s.bias for s in squared], weights=weights)),
    )


def _shares(estimates: Sequence[Estimate], weights: Sequence[float] | None) -> FloatArray:
    """(U,) how much each example id counts in a mean of cells."""
    shares = np.zeros(len(estimates[0].item_weights))
    for estimate, weight in zip(estimates, weights or [1.0] * len(estimates), strict=True):
        shares += weight / float(estimate.item_weights.sum()) * estimate.item_weights
    return shares


def over_seeds(by_seed: Mapping[Any, Estimate | None]) -> Estimate | None:
    """The mean over training seeds; None where one is missing. With two or more, their spread counts."""
    together = mean(list(by_seed.values()))
    seeds = {name: estimate for name, estimate in by_seed.items() if estimate is not None}
    if together is None or len(seeds) == 1:
        return together
    number = len(seeds)
    apart = float(np.mean([seed.question_variance for seed in seeds.values()]))
    # variance of one seed = shared with the others + its own luck; of the mean = shared + its luck / number
    luck = max((apart - together.question_variance) / (number - 1), 0.0)
    spread = float(np.var([seed.value for seed in seeds.values()], ddof=1)) / number
    term = SeedTerm(spread, luck, number - 1)
    return replace(together, seeds=seeds, seed_terms=(term,))
