"""Estimates with bootstrap replicates: their intervals, differences, means over cells, and tests.

`analysis/uncertainty.py` makes them. Seeds are a level above the examples: training runs are few, so their
spread is not resampled but enters as Student's t with (number of seeds - 1) degrees of freedom. One seed says
nothing about others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from study.bins import FloatArray

LEVEL = 0.95
_T_DRAWS = 20
"""Draws of the seeds' effect for each replicate: Student's tails are long, and draws are cheap."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """One number of a cell, with its bootstrap replicates; those of cells to be compared are paired."""

    value: float
    """As the tables have it: of the ECE, with its bias."""
    draws: FloatArray
    """(R,) replicates, of the ECE without its bias."""
    lowest: float = -math.inf
    """What the quantity cannot be below; intervals end there."""
    may_be_lowest: bool = False
    """A binned error that a calibrated model would show: its interval begins at 0."""
    bias_left: float = 0.0
    """Of a cell's binned error: the bias that its draws may still have. For `mean` and `difference`."""
    slack: tuple[float, float] = (0.0, 0.0)
    """How far the truth may lie below and above the draws for bias, of a mean or a difference of cells."""
    seeds: tuple[tuple[float, int], ...] = ()
    """(variance of the mean over seeds, degrees of freedom), of each group of seeds that it holds."""


@dataclass(frozen=True)
class Difference:
    """a - b, paired by example; p_value is two-sided, `holm` the same after Holm's correction."""

    value: float
    low: float
    high: float
    p_value: float
    holm: float


def interval(estimate: Estimate, *, level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """(low, high), two-sided, by percentiles of the replicates.

    A binned error that a calibrated model would show as well has an interval from 0. Means and differences of
    binned errors are wider by the bias that may be left: it does not average out over languages. seed: of the
    draws of the seeds' effect, where the estimate is a mean over seeds.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}.")
    draws = estimate.draws
    if estimate.seeds:
        rng = np.random.default_rng(seed)
        draws = np.repeat(draws, _T_DRAWS)
        for variance, freedom in estimate.seeds:
            draws = draws + math.sqrt(variance) * rng.standard_t(freedom, len(draws))
    low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    below, above = estimate.slack
    low = estimate.lowest if estimate.may_be_lowest else max(float(low) - below, estimate.lowest)
    return low, max(float(high) + above, estimate.lowest)


def p_value(estimate: Estimate) -> float:
    """Two-sided, that the quantity is 0: normal, or Student's t with Welch's degrees of freedom over seeds.

    Counting replicates beyond 0 would end at 2 / R: with 42 languages Holm's correction could never find
    anything in 1,000. 1 for equal cells, where nothing varies.
    """
    variance = float(np.var(estimate.draws, ddof=1))
    total = variance + sum(v for v, _ in estimate.seeds)
    centre = float(np.mean(estimate.draws))
    below, above = estimate.slack
    centre = max(centre - below, -centre - above, 0.0)
    if total == 0.0:
        return 0.0 if centre > 0.0 else 1.0
    uncertain = sum(v**2 / freedom for v, freedom in estimate.seeds)
    return _student_tails(centre / math.sqrt(total), total**2 / uncertain if uncertain > 0.0 else math.inf)


def _student_tails(t: float, freedom: float) -> float:
    """P(|T| > t) for Student's t: with T = sqrt(freedom) tan(a), an integral of cos(a)^(freedom - 1)."""
    if freedom > 1e5:
        return math.erfc(t / math.sqrt(2.0))
    begin = math.atan(t / math.sqrt(freedom))
    end = min(math.pi / 2.0, begin + 12.0 / math.sqrt(freedom))
    nodes, weights = np.polynomial.legendre.leggauss(128)
    angle = begin + (end - begin) * (nodes + 1.0) / 2.0
    tail = float(np.sum(weights * np.cos(angle) ** (freedom - 1.0))) * (end - begin) / 2.0
    log_whole = (
        0.5 * math.log(math.pi / 4.0) + math.lgamma(freedom / 2.0) - math.lgamma((freedom + 1.0) / 2.0)
    )
    return min(1.0, tail / math.exp(log_whole))


def mean(estimates: Sequence[Estimate | None], weights: Sequence[float] | None = None) -> Estimate | None:
    """The mean of cells, such as a macro mean over languages; None where one of them is missing.

    Replicates are averaged pair by pair. Languages are taken as given, not as a sample of languages. Raises
    ValueError for none, and for estimates over seeds (a seed has one model for all languages: take the mean
    over languages first, then `over_seeds`).
    """
    if not estimates:
        raise ValueError("there are no estimates to average.")
    found = [e for e in estimates if e is not None]
    if len(found) < len(estimates):
        return None
    if any(e.seeds for e in found):
        raise ValueError("a mean over languages comes before the mean over seeds.")
    if len({len(e.draws) for e in found}) > 1:
        raise ValueError("estimates have different numbers of replicates.")
    if len(found) == 1:
        return found[0]
    slack = np.average([(e.slack[0] + e.bias_left, e.slack[1]) for e in found], axis=0, weights=weights)
    return Estimate(
        value=float(np.average([e.value for e in found], weights=weights)),
        draws=np.average([e.draws for e in found], axis=0, weights=weights),
        lowest=min(e.lowest for e in found),
        may_be_lowest=all(e.may_be_lowest for e in found),
        slack=(float(slack[0]), float(slack[1])),
    )


def over_seeds(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """The mean over training seeds; None where one is missing. With two or more, their spread counts."""
    together = mean(estimates)
    if together is None or len(estimates) == 1:
        return together
    values = [e.value for e in estimates if e is not None]
    term = (float(np.var(values, ddof=1)) / len(values), len(values) - 1)
    return replace(together, seeds=(term,))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b over the same replicates; the seeds of a and of b are independent."""
    if a.draws.shape != b.draws.shape:
        raise ValueError("estimates have different numbers of replicates.")
    below = a.slack[0] + a.bias_left + b.slack[1]
    above = a.slack[1] + b.slack[0] + b.bias_left
    return Estimate(a.value - b.value, a.draws - b.draws, slack=(below, above), seeds=a.seeds + b.seeds)


def compare(
    a: Mapping[str, Estimate | None], b: Mapping[str, Estimate | None], *, level: float = LEVEL
) -> dict[str, Difference | None]:
    """a - b for each name (language), with Holm's correction over all of them.

    None where one of the two is missing: it still counts as a test in the correction, so that a
    verdict stays as the rest arrives. Raises ValueError where the names differ.
    """
    if set(a) != set(b):
        raise ValueError(f"only one side has {', '.join(sorted(set(a) ^ set(b)))}.")
    pairs = {name: (a[name], b[name]) for name in a}
    found = {name: difference(x, y) for name, (x, y) in pairs.items() if x is not None and y is not None}
    p_values = {name: p_value(found[name]) if name in found else None for name in a}
    corrected = holm(p_values)
    table: dict[str, Difference | None] = dict.fromkeys(a)
    for name, estimate in found.items():
        p, adjusted = p_values[name], corrected[name]
        assert p is not None  # as `adjusted`: neither side is missing here
        assert adjusted is not None
        table[name] = Difference(estimate.value, *interval(estimate, level=level), p, adjusted)
    return table


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction, in the input's order. What is missing stays so, and counts as a test."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    result = dict(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        result[name] = highest
    return result
