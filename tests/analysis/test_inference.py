"""Means, differences and tests over estimates: what is missing stays missing, p-values are SciPy's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import inference
from analysis.inference import Estimate

stats = pytest.importorskip("scipy.stats")


def estimate(value: float, spread: float = 0.1, size: int = 1000, seed: int = 0) -> Estimate:
    """Replicates with exactly this mean and deviation."""
    draws = np.random.default_rng(seed).normal(size=size)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    return Estimate(value, value + spread * draws, num_items=2850)


def test_means_carry_what_is_missing() -> None:
    a, b = estimate(0.2), estimate(0.4, seed=1)
    whole = inference.mean([a, b])
    assert whole is not None
    assert whole.value == pytest.approx(0.3)
    assert whole.draws == pytest.approx((a.draws + b.draws) / 2)
    weighted = inference.mean([a, b], weights=[3, 1])
    assert weighted is not None
    assert weighted.value == pytest.approx(0.25)
    assert inference.mean([a, None]) is None
    assert inference.over_seeds([None, a]) is None
    with pytest.raises(ValueError, match="no estimates"):
        inference.mean([])
    with pytest.raises(ValueError, match="replicates"):
        inference.mean([a, estimate(0.1, size=500)])
    with pytest.raises(ValueError, match="replicates"):
        inference.difference(a, estimate(0.1, size=500))


def test_a_mean_over_languages_comes_before_seeds() -> None:
    over = inference.over_seeds([estimate(0.2), estimate(0.4)])
    assert over is not None
    ((variance, freedom),) = over.seeds
    assert variance == pytest.approx(0.02 / 2)
    assert freedom == 1
    with pytest.raises(ValueError, match="before"):
        inference.mean([over, over])
    one = inference.over_seeds([estimate(0.2)])
    assert one is not None
    assert one.seeds == ()


def test_bias_that_may_be_left_widens_means_and_differences() -> None:
    cells = [replace(estimate(0.2, seed=k), bias_left=bias) for k, bias in enumerate((0.02, 0.04))]
    assert inference.interval(cells[0]) == inference.interval(estimate(0.2))
    assert inference.mean([cells[0]]) is cells[0]
    whole = inference.mean(cells)
    assert whole is not None
    assert whole.slack == pytest.approx((0.03, 0.0))
    low, high = inference.interval(whole)
    plain = inference.interval(replace(whole, slack=(0.0, 0.0)))
    assert (low, high) == pytest.approx((plain[0] - 0.03, plain[1]))
    apart = inference.difference(*cells)
    assert apart.slack == pytest.approx((0.02, 0.04))
    assert inference.difference(whole, cells[1]).slack == pytest.approx((0.03, 0.04))
    # the test is that of the interval: 0.196 less 0.1 of slack, on the side of 0
    shifted = replace(estimate(0.296), slack=(0.1, 9.0))
    assert inference.p_value(shifted) == pytest.approx(2 * stats.norm.sf(1.96))
    assert inference.p_value(replace(estimate(-0.296), slack=(9.0, 0.1))) == pytest.approx(
        2 * stats.norm.sf(1.96)
    )
    assert inference.p_value(replace(estimate(0.05), slack=(0.1, 0.1))) == 1.0


def test_intervals_end_at_what_cannot_be() -> None:
    draws = np.linspace(-1.0, 1.0, 1001)
    whole = Estimate(0.0, draws, 400)
    assert inference.interval(whole) == pytest.approx((-0.95, 0.95))
    assert inference.interval(whole, level=0.5) == pytest.approx((-0.5, 0.5))
    assert inference.interval(replace(whole, ends=(0.0, 3.5))) == pytest.approx((0.0, 0.95))
    above = replace(whole, draws=draws + 3, ends=(0.0, 3.5))
    assert inference.interval(above) == pytest.approx((2.05, 3.5))
    assert inference.interval(replace(above, may_be_lowest=True))[0] == 0.0
    assert inference.interval(replace(above, draws=draws - 3)) == (0.0, 0.0)
    with pytest.raises(ValueError, match="level"):
        inference.interval(whole, level=95)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300), st.floats(0.01, 0.99))
def test_percentiles_are_numpys(draws: list[float], level: float) -> None:
    found = inference.interval(Estimate(0.0, np.array(draws), 400), level=level)
    assert found == pytest.approx(tuple(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])), abs=1e-6)


def test_an_interval_over_seeds_is_students() -> None:
    whole = Estimate(0.5, np.full(5000, 0.5), 400, seeds=((0.01, 2),))
    low, high = inference.interval(whole)
    assert high - 0.5 == pytest.approx(0.1 * stats.t.ppf(0.975, 2), rel=0.05)
    assert 0.5 - low == pytest.approx(0.1 * stats.t.ppf(0.975, 2), rel=0.05)


def test_p_values() -> None:
    assert inference.p_value(estimate(0.196)) == pytest.approx(2 * stats.norm.sf(1.96))
    assert inference.p_value(estimate(0.0)) == 1.0
    same = estimate(0.3)
    assert inference.p_value(inference.difference(same, same)) == 1.0


@pytest.mark.parametrize("num_items", [1, 2, 3, 5, 6, 30])
def test_few_items_that_all_agree_are_not_certain(num_items: int) -> None:
    """SciPy's exact binomial: the interval of a share of 1, the sign test of all right against all wrong."""
    of_all = stats.binomtest(num_items, num_items)
    right = Estimate(1.0, np.ones(1000), num_items, ends=(0.0, 1.0))
    wrong = replace(right, value=0.0, draws=np.zeros(1000))
    for level in (0.95, 0.8):
        exact = of_all.proportion_ci(level, method="exact")
        assert inference.interval(right, level=level) == pytest.approx((exact.low, 1.0))
        assert inference.interval(wrong, level=level) == pytest.approx((0.0, 1.0 - exact.low))
        # the share of differences of +1, of which each of the others may be -1
        ends = inference.interval(inference.difference(right, wrong), level=level)
        assert ends == pytest.approx((2.0 * exact.low - 1.0, 1.0))
    same = inference.difference(right, right)
    assert (*inference.interval(same), inference.p_value(same)) == (0.0, 0.0, 1.0)
    for apart in (inference.difference(right, wrong), inference.difference(wrong, right)):
        assert inference.p_value(apart) == pytest.approx(of_all.pvalue)
        over = replace(apart, seeds=((0.0, 2),))
        assert inference.p_value(over) == pytest.approx(max(of_all.pvalue, 1 / 20_001))
        # the interval leaves out 0 where the test finds a difference
        low, high = inference.interval(apart)
        assert (low > 0.0 or high < 0.0) == (of_all.pvalue < 0.05)


def test_few_items_never_find_more_than_the_sign_test() -> None:
    """Differences of .29, .3 and .31 in three items: by a normal they would be beyond any doubt."""
    draws = np.random.default_rng(1).choice([0.29, 0.3, 0.31], size=(1000, 3)).mean(axis=1)
    assert inference.p_value(Estimate(0.3, draws, 3)) == stats.binomtest(3, 3).pvalue == 0.25
    assert inference.p_value(Estimate(0.3, draws, 10**6)) == 0.0


@pytest.mark.parametrize("seeds", [((0.02, 2),), ((0.02, 2), (0.03, 4))])
def test_p_values_over_seeds(seeds: tuple[tuple[float, int], ...]) -> None:
    """Against SciPy's draws of a normal and Student's t added up, many more of them."""
    rng = np.random.default_rng(5)
    truth = 0.1 * rng.normal(size=1_000_000)
    for variance, freedom in seeds:
        truth = truth + math.sqrt(variance) * stats.t.rvs(freedom, size=len(truth), random_state=rng)
    for value in (0.2, 0.5, 1.0, 2.0):
        found = inference.p_value(replace(estimate(value), seeds=seeds))
        assert found == pytest.approx(np.mean(np.abs(truth) >= value), abs=0.01, rel=0.1)
    assert inference.p_value(replace(estimate(1e9), seeds=seeds)) == pytest.approx(1 / 20_001)


def test_a_p_value_is_that_of_the_interval() -> None:
    """Below .05 just where the interval leaves out 0, as far as draws that are not symmetric let it."""
    seeds = ((0.02, 2), (0.01, 2))
    for value in (0.1, 0.6, 0.8, 2.0):
        whole = replace(estimate(value), seeds=seeds)
        low, _ = inference.interval(whole)
        if abs(low) > 0.05:
            assert (inference.p_value(whole) < 0.05) == (low > 0.0)


def test_holm_by_hand() -> None:
    assert inference.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    # one more test, whose result is not there yet
    later = inference.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert later.pop("d") is None
    assert later == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09})
    assert inference.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(values: list[float]) -> None:
    adjusted = inference.holm({str(k): p for k, p in enumerate(values)})
    rejected = set()
    for rank, k in enumerate(sorted(range(len(values)), key=lambda k: values[k])):
        if values[k] * (len(values) - rank) > 0.05:
            break
        rejected.add(str(k))
    assert {name for name, p in adjusted.items() if p is not None and p <= 0.05} == rejected


def test_compare_by_language() -> None:
    a = {"en": estimate(0.5), "sw": estimate(0.9, seed=1), "yo": estimate(0.5)}
    b = {"en": estimate(0.5, seed=2), "sw": estimate(0.2, seed=3), "yo": None}
    table = inference.compare(a, b)
    assert table["yo"] is None
    english, swahili = table["en"], table["sw"]
    assert english is not None
    assert swahili is not None
    assert english.low < 0 < english.high
    assert english.p_value > 0.5
    assert swahili.value == pytest.approx(0.7)
    assert swahili.low == pytest.approx(0.7 - 1.96 * math.sqrt(0.02), abs=0.03)
    assert swahili.holm == pytest.approx(3 * swahili.p_value)
    with pytest.raises(ValueError, match="only one side has yo"):
        inference.compare(a, {"en": None, "sw": None})
