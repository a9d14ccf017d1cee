"""Which change a study can find: the standard error that its languages, questions and seeds will give.

A change between two cells varies with the questions, of which languages share a part, and with the training
seeds. For L languages of n questions and S seeds a side, paired,

    variance = question_sd^2 (1 + (L - 1) correlation) / (n L) + seed_sd^2 / S,

and a test at the level .05 finds with power P a change of (t_.975 + t_P) standard errors, t with the degrees
of freedom of Satterthwaite. A squared calibration error has a part that grows with its size and falls with
1 / n, and a part that does not and falls with 1 / n^2 (`analysis.inference.squared`), so what can be found of
the L2 ECE depends on how large it is. Simulated in tests/analysis/inference/test_power.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.inference.estimates import Estimate

POWER = 0.8
MAX_SEEDS = 30


@dataclass(frozen=True)
class Components:
    """How the change of one metric between two cells varies."""

    question_sd: float
    """Standard deviation of a question's change in one language."""
    correlation: float
    """Correlation between the changes of one question in two languages."""
    seed_sd: float
    """Standard deviation over seeds of the change of the macro mean, of an equal seed on both sides."""

    def question_variance(self, design: Design, change: float) -> float:
        """The variance over questions of the change of the macro mean, whatever its size."""
        return self.question_sd**2 * _together(self.correlation, design) / design.num_items


@dataclass(frozen=True)
class SquaredComponents:
    """How the change of an L2 ECE between two cells varies."""

    level: float
    """The L2 ECE that a change starts from."""
    linear: float
    """n times the variance of the change of one language's square, for each unit of both squares' sum."""
    linear_correlation: float
    """Between languages."""
    quadratic: float
    """n^2 times the variance of that change that is there without any error, too."""
    quadratic_correlation: float
    seed_sd: float
    """As in `Components`."""

    def question_variance(self, design: Design, change: float) -> float:
        """The variance over questions of a change of this size, as a difference of roots."""
        end = self.level + change
        linear = self.linear * (self.level**2 + end**2) / design.num_items
        quadratic = self.quadratic / design.num_items**2
        of_squares = linear * _together(self.linear_correlation, design)
        of_squares += quadratic * _together(self.quadratic_correlation, design)
        return of_squares / (self.level + end) ** 2


@dataclass(frozen=True)
class Design:
    """What is planned."""

    num_languages: int
    num_items: float
    """Questions of a language."""
    num_seeds: int


def _together(correlation: float, design: Design) -> float:
    """The variance of a mean over languages, for a variance of 1 in each."""
    return (1.0 + (design.num_languages - 1) * correlation) / design.num_languages


def detectable(components: Components | SquaredComponents, design: Design, *, power: float = POWER) -> float:
    """The smallest change of the macro mean, upwards, that the design finds with this power at the level .05.

    Infinite where not even a change of 1 is found. With one seed it is that of two checkpoints: how much
    other seeds differ is not in it.
    """
    low, high = 0.0, 1.0
    if _needed(components, design, high, power) > high:
        return math.inf
    for _ in range(60):  # what is needed grows more slowly than the change
        middle = (low + high) / 2.0
        low, high = (low, middle) if _needed(components, design, middle, power) <= middle else (middle, high)
    return high


def _needed(components: Components | SquaredComponents, design: Design, change: float, power: float) -> float:
    """How large a change with the standard error of this one must be to be found."""
    from scipy.special import stdtrit

    items, seeds = design.num_items, design.num_seeds
    questions = components.question_variance(design, change)
    of_seeds = components.seed_sd**2 / seeds if seeds > 1 else 0.0
    spent = questions**2 / max(items - 1.0, 1.0)
    if seeds > 1:
        spent += of_seeds**2 / (seeds - 1)
    total = questions + of_seeds
    freedom = total**2 / spent if spent > 0.0 else math.inf
    quantiles = [float(stdtrit(min(freedom, 1e9), share)) for share in (0.975, power)]
    return sum(quantiles) * math.sqrt(total)


def seeds_needed(components: Components | SquaredComponents, design: Design, change: float) -> int | None:
    """The fewest seeds, two at least, that find this change; None where `MAX_SEEDS` do not."""
    for seeds in range(2, MAX_SEEDS + 1):
        planned = Design(design.num_languages, design.num_items, seeds)
        if _needed(components, planned, change, POWER) <= change:
            return seeds
    return None


def squared_components(
    languages: Sequence[tuple[Estimate, Estimate]], whole: tuple[Estimate, Estimate]
) -> SquaredComponents | None:
    """The components of a change from the second to the first estimate of each pair, without its seeds.

    languages: of each language. whole: of the macro mean. None where neither side has any error.
    """
    squares = sum(max(side.value, 0.0) for side in whole)
    if squares <= 0.0:
        return None
    number, items = len(languages), whole[0].num_items
    scaled = [
        (pair[0].num_items * linear, pair[0].num_items ** 2 * quadratic)
        for pair in languages
        for linear, quadratic in [_variances(*pair)]
    ]
    linear, quadratic = (sum(column) / number for column in zip(*scaled, strict=True))
    linear_of_all, quadratic_of_all = _variances(*whole)
    return SquaredComponents(
        max(whole[1].shown, 0.0),
        linear / squares,
        correlation_of(linear_of_all * items * number, linear, number),
        quadratic,
        correlation_of(quadratic_of_all * items**2 * number, quadratic, number),
        0.0,
    )


def _variances(a: Estimate, b: Estimate) -> tuple[float, float]:
    """Of the linear and the quadratic part of a - b, two squared errors."""
    assert a.squared is not None
    assert b.squared is not None
    quadratic = float(np.var(a.squared.noise - b.squared.noise, ddof=1))
    # the linear replicates hold the noise of the bins' errors: twice the quadratic part
    return max(float(np.var(a.draws - b.draws, ddof=1)) - 2.0 * quadratic, 0.0), quadratic


def correlation_of(together: float, apart: float, number: int) -> float:
    """Between languages. together: `number` times the variance of their mean; apart: that of one."""
    if number == 1 or apart <= 0.0:
        return 0.0
    return min(max((together / apart - 1.0) / (number - 1), 0.0), 1.0)
