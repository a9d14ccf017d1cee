"""The forecast of power: simulated with the tests that analyse studies, and by the textbook's formula."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from analysis.inference.bootstrap import resample
from analysis.inference.changes import assess
from analysis.inference.changes import change as change_of
from analysis.inference.estimates import Estimate, mean, over_seeds
from analysis.inference.power import (
    Components,
    Design,
    SquaredComponents,
    detectable,
    seeds_needed,
    squared_components,
)
from tests.analysis.inference.worlds import Model, cells, draw, truth

stats = pytest.importorskip("scipy.stats")


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [3, 6])
def test_a_change_of_that_size_is_found_in_four_of_five_studies(num_seeds: int) -> None:
    components = Components(question_sd=0.3, correlation=0.2, seed_sd=0.01)
    languages, items, number = 5, 200, 250
    change = detectable(components, Design(languages, items, num_seeds))
    rng = np.random.default_rng(num_seeds)
    resamples = resample([f"{k:03d}" for k in range(items)], num_replicates=300)
    found = 0
    for _ in range(number):
        shared = math.sqrt(0.2) * rng.normal(size=(items, 1))
        questions = 0.3 * (shared + math.sqrt(0.8) * rng.normal(size=(items, languages)))
        by_seed: dict[int, Estimate | None] = {}
        for seed in range(num_seeds):
            values = questions + change + 0.01 * rng.normal()
            draws = resamples.totals(values) / items
            cells = [
                Estimate(float(values[:, k].mean()), draws[:, k], np.ones(items)) for k in range(languages)
            ]
            by_seed[seed] = mean(cells)
        combined = over_seeds(by_seed)
        assert combined is not None
        found += assess(combined).p_value < 0.05
    assert found / number == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / number))


def test_many_questions_of_one_language_are_the_textbooks() -> None:
    smallest = detectable(Components(0.3, 0.0, 0.0), Design(1, 10_000, 1))
    assert smallest == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.003, rel=1e-3)
    # languages that answer alike are one
    assert detectable(Components(0.3, 1.0, 0.0), Design(13, 10_000, 1)) == pytest.approx(smallest)


def test_the_fewest_seeds() -> None:
    components, design = Components(0.1, 0.0, 0.01), Design(13, 500, 2)
    needed = seeds_needed(components, design, 0.01)
    assert needed is not None
    assert detectable(components, Design(13, 500, needed)) <= 0.01
    assert detectable(components, Design(13, 500, needed - 1)) > 0.01
    assert seeds_needed(Components(3.0, 1.0, 0.01), design, 0.001) is None  # more seeds ask no more questions


@pytest.mark.slow
def test_a_change_of_the_l2_ece_is_found_as_often_as_forecast() -> None:
    """Components from pilots of the same world, with fewer languages and questions than are planned."""
    models, number = (Model(slope=0.65), Model(slope=0.8)), 200
    rng = np.random.default_rng(5)
    pilots = [squared_components(*_pairs(rng, 200, 4, models)) for _ in range(20)]
    medians = np.median([astuple(pilot) for pilot in pilots if pilot is not None], axis=0)
    components = SquaredComponents(*medians.tolist())
    after, before = (truth(model).ece_l2 for model in models)
    assert components.level == pytest.approx(before, abs=0.01)
    design, change = Design(6, 300, 1), after - before
    power = next(
        power / 100 for power in range(5, 100) if detectable(components, design, power=power / 100) > change
    )
    assert 0.3 < power < 0.95
    found = 0
    for _ in range(number):
        _, (a, b) = _pairs(rng, 300, 6, models)
        found += change_of(a, b).p_value < 0.05
    # beside the error of the simulation, that of the components
    assert found / number == pytest.approx(power, abs=0.05 + 2 * math.sqrt(power * (1 - power) / number))


def _pairs(
    rng: np.random.Generator, items: int, languages: int, models: tuple[Model, Model]
) -> tuple[list[tuple[Estimate, Estimate]], tuple[Estimate, Estimate]]:
    """The L2 ECEs of both models in each language, and of their macro means."""
    confidence, correct = draw(rng, items, languages, models)
    resamples = resample([f"{k:03d}" for k in range(items)], num_replicates=200)
    a, b = ([of["ece_l2"] for of in cells(resamples, confidence[:, :, m], correct[:, :, m])] for m in (0, 1))
    whole = mean(a), mean(b)
    assert whole[0] is not None
    assert whole[1] is not None
    return list(zip(a, b, strict=True)), (whole[0], whole[1])
