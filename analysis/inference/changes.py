"""Changes between two estimates over the same examples: value, interval, p-value; corrections for many tests.

Of plain numbers (accuracy, confidence, gap, AUROC, NLL) a change is a difference, with the standard error of
the paired replicates. Of L2 ECEs it is the difference of the two signed roots. Its test compares
sqrt(square + c), with one c for both sides, the mean bias that noise adds to a plug-in square: the scale on
which the error of an estimate hardly depends on its size (the squared error of a model that errs more is
noisier, and noise that both models share then does not cancel in the difference of squares). Near 0 a root
changes without limit with its square, so there the interval ends at what the squares allow.

Training seeds that share the order of the data are paired: each seed's change is one number. Otherwise each
side adds its spread, and t has Welch's degrees of freedom.

A p-value is never below that of the sign test of as many examples, and where that is above .05, every
interval holds 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from analysis.inference.estimates import (
    LEVEL,
    Estimate,
    Squared,
    over_seeds,
    standard_error,
    t_quantile,
    unseen,
)


@dataclass(frozen=True, eq=False)
class Change:
    """What changed from one cell to another."""

    value: float
    low: float
    """The lower end of the 95% interval."""
    high: float
    p_value: float
    """Two-sided, that nothing changed."""
    estimate: Estimate
    """The change with its paired replicates, in the unit in which it is shown."""
    error: float
    """Standard error, in the same unit; of an L2 ECE near 0 the interval is narrower than it says."""
    freedom: float
    """Degrees of freedom of Student's t."""
    seed_share: float
    """The share of the variance that comes from training seeds, luck with questions included."""


def change(a: Estimate, b: Estimate, *, paired_seeds: bool = True) -> Change:
    """a - b over the same examples and replicates.

    paired_seeds: whether equal seeds of a and b saw the data in the same order; seeds that only one side has
    are never paired. Raises ValueError for different numbers of replicates, and for a squared error against
    another number.
    """
    if a.draws.shape != b.draws.shape:
        raise ValueError("estimates have different numbers of replicates.")
    if (a.squared is None) != (b.squared is None):
        raise ValueError("a squared error is not compared with another number.")
    if a.squared is not None and b.squared is not None:
        return _change_of_squared(a, b, a.squared.bias, b.squared.bias, paired_seeds)
    return assess(_difference(a, b, paired_seeds))


def assess(difference: Estimate) -> Change:
    """The interval of a difference, and the p-value that it is 0."""
    error, freedom = standard_error(difference)
    value, half = difference.value, t_quantile(LEVEL, freedom) * error
    below, above = unseen(difference)
    low, high = _bounded(difference, value - half - below, value + half + above)
    p = _p_value(difference, value, error, freedom)
    return Change(value, low, high, p, difference, error, freedom, _seed_share(difference))


def equivalence_p(difference: Estimate, margin: float) -> float:
    """The p-value of two one-sided tests (Schuirmann 1987) that the change is at least `margin` either way.

    Below .05, the change lies within the margin, at the level .05.
    """
    from scipy.special import stdtr

    error, freedom = standard_error(difference)
    room = margin - abs(difference.value)
    if error == 0.0:
        return 0.0 if room > 0.0 else 1.0
    return float(stdtr(min(freedom, 1e9), -room / error))


def _difference(a: Estimate, b: Estimate, paired_seeds: bool) -> Estimate:
    """a - b; its seeds are those of a paired difference."""
    if paired_seeds and a.seeds and a.seeds.keys() == b.seeds.keys():
        by_seed = {seed: _plain_difference(a.seeds[seed], b.seeds[seed]) for seed in a.seeds}
        combined = over_seeds(by_seed)
        assert combined is not None
        return combined
    return _plain_difference(a, b)


def _plain_difference(a: Estimate, b: Estimate) -> Estimate:
    squared = None
    if a.squared is not None and b.squared is not None:
        squared = Squared(a.squared.noise - b.squared.noise, a.squared.bias - b.squared.bias)
    return Estimate(
        value=a.value - b.value,
        draws=a.draws - b.draws,
        item_weights=a.item_weights,
        ends=(a.ends[0] - b.ends[1], a.ends[1] - b.ends[0]),
        squared=squared,
        seed_terms=a.seed_terms + b.seed_terms,
    )


def _change_of_squared(a: Estimate, b: Estimate, bias_a: float, bias_b: float, paired_seeds: bool) -> Change:
    noise = max((bias_a + bias_b) / 2.0, 0.0)
    value, squares = a.shown - b.shown, a.value - b.value
    floor = max(noise / 10.0, 1e-12)  # for a square that lies far below 0
    roots = [math.sqrt(max(side.value + noise, floor)) for side in (a, b)]
    slopes = [0.5 / root for root in roots]
    difference = _difference(_scaled(a, slopes[0]), _scaled(b, slopes[1]), paired_seeds)
    error, freedom = standard_error(difference)
    # from the difference of stabilised roots to that of squares, and from there to that of signed roots
    to_squares = sum(roots)
    to_roots = value / squares if squares else 0.5 / abs(a.shown) if a.shown else math.inf
    half = t_quantile(LEVEL, freedom) * error * to_squares
    low, high = (_root_of(end, to_roots) for end in (squares - half, squares + half))
    low, high = _bounded(difference, min(low, value), max(high, value))
    p = _p_value(difference, squares, error * to_squares, freedom)
    unit = to_squares * min(to_roots, 1e6)
    shown = replace(_scaled(difference, unit), value=value, ends=(-1.0, 1.0))
    return Change(value, low, high, p, shown, error * unit, freedom, _seed_share(difference))


def _seed_share(difference: Estimate) -> float:
    variance, _ = difference.with_seeds(difference.question_variance)
    spread = sum(term.spread for term in difference.seed_terms)
    return spread / variance if variance > 0.0 else 0.0


def interaction(
    a: tuple[Estimate, Estimate], b: tuple[Estimate, Estimate], *, paired_seeds: bool = True
) -> Change:
    """How much more changed in the first of two groups of languages than in the second: (a - b) - (a' - b').

    a, b: of each cell, over the two groups. A seed is one model in both groups, so these are paired. Raises
    ValueError for squared errors, whose roots are not linear.
    """
    if any(side.squared is not None for side in (*a, *b)):
        raise ValueError("there is no interaction of squared errors.")
    one, other = (_difference(first, second, True) for first, second in (a, b))
    return assess(_difference(one, other, paired_seeds))


def _root_of(square: float, to_roots: float) -> float:
    """The change of signed roots for a change of the squares: |change| <= sqrt(2 |a - b|)."""
    return math.copysign(min(math.sqrt(2.0 * abs(square)), abs(square) * to_roots), square)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    squared = estimate.squared and Squared(estimate.squared.noise * factor, estimate.squared.bias * factor)
    return replace(
        estimate,
        value=estimate.value * factor,
        draws=estimate.draws * factor,
        ends=(-math.inf, math.inf),
        squared=squared,
        seeds={name: _scaled(seed, factor) for name, seed in estimate.seeds.items()},
        seed_terms=tuple(
            replace(term, spread=term.spread * factor**2, luck=term.luck * factor**2)
            for term in estimate.seed_terms
        ),
    )


def _bounded(difference: Estimate, low: float, high: float) -> tuple[float, float]:
    least, most = difference.ends
    low, high = max(low, least), min(high, most)
    if _least_p(difference) > 1.0 - LEVEL:  # so few examples can find nothing
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def _p_value(difference: Estimate, value: float, error: float, freedom: float) -> float:
    from scipy.special import ndtr, stdtr

    if value == 0.0:
        return 1.0
    least = _least_p(difference)
    if error == 0.0:
        return least
    ratio = -abs(value) / error
    return max(least, 2.0 * float(ndtr(ratio) if math.isinf(freedom) else stdtr(freedom, ratio)))


def _least_p(estimate: Estimate) -> float:
    """The p-value of the two-sided sign test where all examples differ the same way."""
    return float(2.0 ** (1 - estimate.num_items))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction, in the input's order. A missing p-value is None but counts as a test."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    result = dict(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        result[name] = highest
    return result


def false_discovery(p_values: list[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's (1995) adjusted p-values, in the input's order; None stays None.

    They bound the expected share of false findings among all findings, for independent and for positively
    dependent tests.
    """
    known = [(p, place) for place, p in enumerate(p_values) if p is not None]
    result: list[float | None] = [None] * len(p_values)
    lowest = 1.0
    for rank, (p, place) in reversed(list(enumerate(sorted(known), start=1))):
        lowest = min(lowest, p * len(known) / rank)
        result[place] = lowest
    return result
