"""The forecast of power: simulated with the tests that analyse studies, and by the textbook's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.inference.bootstrap import resample
from analysis.inference.changes import assess
from analysis.inference.estimates import Estimate, mean, over_seeds
from analysis.inference.power import Components, Design, detectable, seeds_needed

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
