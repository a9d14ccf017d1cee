"""Means, standard errors and intervals of estimates: what is missing stays missing, seeds count once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.inference.changes import change
from analysis.inference.estimates import Estimate, Squared, interval, mean, over_seeds, standard_error

stats = pytest.importorskip("scipy.stats")
optimize = pytest.importorskip("scipy.optimize")


def estimate(value: float, spread: float = 0.1, size: int = 1000, seed: int = 0) -> Estimate:
    """Replicates with exactly this mean and deviation."""
    draws = np.random.default_rng(seed).normal(size=size)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    return Estimate(value, value + spread * draws, np.ones(2850))


def squared(value: float, linear: float, quadratic: float, bias: float = 0.0) -> Estimate:
    """A squared error whose parts have exactly these deviations."""
    noise = estimate(0.0, quadratic, seed=9).draws
    return replace(estimate(value, linear), ends=(-1.0, 1.0), squared=Squared(noise, bias))


def test_means_carry_what_is_missing() -> None:
    a, b = estimate(0.2), estimate(0.4, seed=1)
    combined = mean([a, b])
    assert combined is not None
    assert combined.value == pytest.approx(0.3)
    assert combined.draws == pytest.approx((a.draws + b.draws) / 2)
    weighted = mean([a, b], weights=[3, 1])
    assert weighted is not None
    assert weighted.value == pytest.approx(0.25)
    assert mean([a, None]) is None
    assert over_seeds({0: None, 1: a}) is None
    with pytest.raises(ValueError, match="no estimates"):
        mean([])
    with pytest.raises(ValueError, match="replicates"):
        mean([a, estimate(0.1, size=500)])
    with pytest.raises(ValueError, match="squared"):
        mean([a, squared(0.1, 0.1, 0.1)])


def test_a_mean_of_squares_is_shown_as_a_root_mean_square() -> None:
    combined = mean([squared(0.04, 0.1, 0.1, bias=0.01), squared(-0.01, 0.1, 0.1, bias=0.03)])
    assert combined is not None
    assert combined.shown == pytest.approx(math.sqrt(0.015))
    assert combined.squared is not None
    assert combined.squared.bias == pytest.approx(0.02)
    assert squared(-0.01, 0.1, 0.1).shown == pytest.approx(-0.1)


def test_a_mean_over_languages_comes_before_seeds() -> None:
    over = over_seeds({0: estimate(0.2), 1: estimate(0.4)})
    assert over is not None
    with pytest.raises(ValueError, match="before"):
        mean([over, over])
    one = over_seeds({7: estimate(0.2)})
    assert one is not None
    assert (dict(one.seeds), one.seed_terms) == ({}, ())


def test_luck_with_questions_counts_once() -> None:
    """Analysis of variance by hand: 5 seeds share a part of each question, and have luck of their own."""
    rng = np.random.default_rng(3)
    shared, luck = rng.normal(size=(1000, 1)) * 0.05, rng.normal(size=(1000, 5)) * 0.08
    values = 0.5 + np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    seeds = {
        k: Estimate(value, value + (shared + luck)[:, k], np.ones(2850)) for k, value in enumerate(values)
    }
    over = over_seeds(seeds)
    assert over is not None
    (term,) = over.seed_terms
    assert term.spread == pytest.approx(np.var(values, ddof=1) / 5)
    assert term.freedom == 4
    assert term.luck == pytest.approx(0.08**2 / 5, rel=0.05)
    error, freedom = standard_error(over)
    total = 0.05**2 + np.var(values, ddof=1) / 5  # the luck is in the spread of the values
    assert error**2 == pytest.approx(total, rel=0.05)
    # Satterthwaite: nearly those of the seeds, whose spread dominates
    assert freedom == pytest.approx(total**2 / (term.spread**2 / 4), rel=0.1)
    # what seeds share is left where they are all alike
    alike = over_seeds({k: replace(seed, value=0.5) for k, seed in seeds.items()})
    assert alike is not None
    assert standard_error(alike)[0] == pytest.approx(0.05, rel=0.05)


def test_an_interval_is_students() -> None:
    low, high = interval(estimate(0.5))
    assert (low, high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196), abs=1e-3)
    few = replace(estimate(0.5), item_weights=np.ones(4))
    half = 0.1 * stats.t.ppf(0.95, 3)
    assert interval(few, level=0.9) == pytest.approx((0.5 - half, 0.5 + half))
    assert interval(replace(few, ends=(0.4, 0.6))) == (0.4, 0.6)
    with pytest.raises(ValueError, match="level"):
        interval(few, level=95)


@pytest.mark.parametrize("value", [0.0, 0.0004, 0.01, -0.0002])
def test_the_interval_of_a_squared_error_holds_what_a_score_test_keeps(value: float) -> None:
    """Every square within 1.96 of the errors which that square would have, found by a search."""
    one = squared(value, 0.0006, 0.0004, bias=0.0008)
    at_zero, at_value = 0.0004**2, 0.0006**2
    slope = max((at_value - at_zero) / max(value, 0.0004), at_value / (value + 0.0008))
    squares = np.linspace(-0.003, 0.03, 2_000_001)
    variance = np.maximum(at_zero + slope * squares, 0.0)
    t = stats.t.ppf(0.975, 2849)
    kept = squares[(squares - value) ** 2 <= t**2 * variance]
    expected = [math.copysign(math.sqrt(abs(end)), end) for end in (kept.min(), kept.max())]
    assert interval(one) == pytest.approx(expected, abs=1e-4)


def test_a_squared_error_without_noise_is_a_point() -> None:
    assert interval(squared(0.04, 0.0, 0.0)) == pytest.approx((0.2, 0.2))
    assert interval(squared(0.0, 0.0, 0.0)) == (0.0, 0.0)


@pytest.mark.parametrize("num_items", [1, 2, 3, 5, 6, 30])
def test_few_items_that_all_agree_are_not_certain(num_items: int) -> None:
    """SciPy's exact binomial: the interval of a share of 1, the sign test of all right against all wrong."""
    of_all = stats.binomtest(num_items, num_items)
    right = Estimate(1.0, np.ones(1000), np.ones(num_items), ends=(0.0, 1.0))
    wrong = replace(right, value=0.0, draws=np.zeros(1000))
    exact = of_all.proportion_ci(0.95, method="exact")
    # the share of differences of +1, of which each of the others may be -1
    apart = change(right, wrong)
    assert apart.high == 1.0
    assert apart.low == pytest.approx(min(2.0 * exact.low - 1.0, 0.0 if num_items < 6 else 1.0))
    for level in (0.95, 0.8):
        exact = of_all.proportion_ci(level, method="exact")
        assert interval(right, level=level) == pytest.approx((exact.low, 1.0))
        assert interval(wrong, level=level) == pytest.approx((0.0, 1.0 - exact.low))
    same = change(right, right)
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)
    for apart in (change(right, wrong), change(wrong, right)):
        assert apart.p_value == pytest.approx(of_all.pvalue)
        # the interval leaves out 0 where the test finds a difference
        assert (apart.low > 0.0 or apart.high < 0.0) == (of_all.pvalue < 0.05)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_means_rest_on_all_items_that_any_cell_has(share: float) -> None:
    """Ten languages of 5 items: of their own they are 50 examples, the same in all languages 5."""
    ends = {}
    for name, places in {"own": range(10), "same": [0] * 10}.items():
        cells = []
        for place in places:
            weights = np.zeros(50)
            weights[5 * place : 5 * place + 5] = 1.0
            cells.append(Estimate(share, np.full(200, share), weights, ends=(0.0, 1.0)))
        combined = mean(cells)
        assert combined is not None
        ends[name] = interval(combined)
        other = replace(combined, value=1.0 - share, draws=1.0 - combined.draws)
        num_items = {"own": 50, "same": 5}[name]
        apart = change(combined, other)
        assert apart.p_value == pytest.approx(stats.binomtest(num_items, num_items).pvalue)
        assert (apart.low <= 0.0 <= apart.high) == (name == "same")
    for name, num_items in {"own": 50, "same": 5}.items():
        exact = stats.binomtest(int(share * num_items), num_items).proportion_ci(0.95, method="exact")
        assert ends[name] == pytest.approx((exact.low, exact.high))


@pytest.mark.slow
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.floats(0.5, 0.99))
def test_what_a_mean_leaves_unseen_is_the_worst_that_luck_hides(sizes: list[int], level: float) -> None:
    """SciPy's least accuracy, over all chances to be right of items that are shared by languages."""
    cells = []
    for size in sizes:
        weights = np.where(np.arange(60) < size, 1.0, 0.0)
        cells.append(Estimate(1.0, np.ones(200), weights, ends=(0.0, 1.0)))
    combined = mean(cells)
    assert combined is not None
    low, high = interval(combined, level=level)
    shares = np.mean([np.where(np.arange(60) < size, 1.0 / size, 0.0) for size in sizes], axis=0)
    shares = shares[shares > 0.0]
    nats = -math.log((1.0 - level) / 2.0)
    worst = optimize.minimize(
        lambda x: float(shares @ np.exp(-x)),
        np.full(len(shares), nats / len(shares)),
        jac=lambda x: -shares * np.exp(-x),
        bounds=[(0.0, nats)] * len(shares),
        constraints={"type": "eq", "fun": lambda x: x.sum() - nats, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    assert (low, high) == pytest.approx((worst.fun, 1.0), abs=1e-4)
    # no lower than each language's own exact interval would have it
    own = [stats.binomtest(size, size).proportion_ci(level, method="exact").low for size in sizes]
    assert low >= np.mean(own) - 1e-9


def test_a_language_of_one_item_leaves_a_third_open() -> None:
    """All of 401 are right. Without the third language .982 is the least; of its one answer .025 is."""
    places = np.arange(200)
    cells = [
        Estimate(1.0, np.ones(200), np.where(places < size, 1.0, 0.0), ends=(0.0, 1.0))
        for size in (200, 200, 1)
    ]
    low, high = interval(mean(cells) or cells[0])
    assert high == 1.0
    assert low == pytest.approx((1.0 + 1.0 + 0.025) / 3, abs=0.01)
