"""Which change a study can find: the standard error that its languages, questions and seeds will give.

A change between two cells varies with the questions, of which languages share a part, and with the training
seeds. For L languages of n questions and S seeds a side, paired,

    variance = question_sd^2 (1 + (L - 1) correlation) / (n L) + seed_sd^2 / S,

and a test at the level .05 finds with power P a change of (t_.975 + t_P) standard errors, t with the degrees
of freedom of Satterthwaite. Simulated in tests/analysis/inference/test_power.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Design:
    """What is planned."""

    num_languages: int
    num_items: float
    """Questions of a language."""
    num_seeds: int


def detectable(components: Components, design: Design, *, power: float = POWER) -> float:
    """The smallest change of the macro mean that the design finds with this power, at the level .05.

    With one seed it is that of two checkpoints: how much other seeds differ is not in it.
    """
    from scipy.special import stdtrit

    languages, items, seeds = design.num_languages, design.num_items, design.num_seeds
    together = 1.0 + (languages - 1) * components.correlation
    questions = components.question_sd**2 * together / (items * languages)
    of_seeds = components.seed_sd**2 / seeds if seeds > 1 else 0.0
    spent = questions**2 / max(items - 1.0, 1.0)
    if seeds > 1:
        spent += of_seeds**2 / (seeds - 1)
    total = questions + of_seeds
    freedom = total**2 / spent if spent > 0.0 else math.inf
    quantiles = [float(stdtrit(min(freedom, 1e9), share)) for share in (0.975, power)]
    return sum(quantiles) * math.sqrt(total)


def seeds_needed(components: Components, design: Design, change: float) -> int | None:
    """The fewest seeds, two at least, that find this change; None where `MAX_SEEDS` do not."""
    for seeds in range(2, MAX_SEEDS + 1):
        planned = Design(design.num_languages, design.num_items, seeds)
        if detectable(components, planned) <= change:
            return seeds
    return None
