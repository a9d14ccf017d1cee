"""Means, differences and tests over estimates: what is missing stays missing, p-values are SciPy's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.inference import estimates as inference
from analysis.inference.estimates import Estimate

stats = pytest.importorskip("scipy.stats")
optimize = pytest.importorskip("scipy.optimize")


def estimate(value: float, spread: float = 0.1, size: int = 1000, seed: int = 0) -> Estimate:
    """Replicates with exactly this mean and deviation."""
    draws = np.random.default_rng(seed).normal(size=size)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    return Estimate(value, value + spread * draws, np.ones(2850))


def test_means_carry_what_is_missing() -> None:
    a, b = estimate(0.2), estimate(0.4, seed=1)
    combined = inference.mean([a, b])
    assert combined is not None
    assert combined.value == pytest.approx(0.3)
    assert combined.draws == pytest.approx((a.draws + b.draws) / 2)
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
    combined = inference.mean(cells)
    assert combined is not None
    assert combined.slack == pytest.approx((0.03, 0.0))
    low, high = inference.interval(combined)
    plain = inference.interval(replace(combined, slack=(0.0, 0.0)))
    assert (low, high) == pytest.approx((plain[0] - 0.03, plain[1]))
    apart = inference.difference(*cells)
    assert apart.slack == pytest.approx((0.02, 0.04))
    assert inference.difference(combined, cells[1]).slack == pytest.approx((0.03, 0.04))
    # the test is that of the interval: 0.22 less 0.1 of slack, on the side of 0
    shifted = replace(estimate(0.32), slack=(0.1, 9.0))
    assert inference.p_value(shifted) == pytest.approx(2 * stats.norm.sf(2.2))
    assert inference.p_value(replace(estimate(-0.32), slack=(9.0, 0.1))) == pytest.approx(
        2 * stats.norm.sf(2.2)
    )
    assert inference.p_value(replace(estimate(0.05), slack=(0.1, 0.1))) == 1.0


def test_intervals_end_at_what_cannot_be() -> None:
    draws = np.linspace(-1.0, 1.0, 1001)
    combined = Estimate(0.0, draws, np.ones(400))
    assert inference.interval(combined) == pytest.approx((-0.95, 0.95))
    assert inference.interval(combined, level=0.5) == pytest.approx((-0.5, 0.5))
    assert inference.interval(replace(combined, ends=(0.0, 3.5))) == pytest.approx((0.0, 0.95))
    above = replace(combined, draws=draws + 3, ends=(0.0, 3.5))
    assert inference.interval(above) == pytest.approx((2.05, 3.5))
    assert inference.interval(replace(above, may_be_lowest=True))[0] == 0.0
    assert inference.interval(replace(above, draws=draws - 3)) == (0.0, 0.0)
    with pytest.raises(ValueError, match="level"):
        inference.interval(combined, level=95)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300), st.floats(0.01, 0.99))
def test_percentiles_are_numpys(draws: list[float], level: float) -> None:
    found = inference.interval(Estimate(0.0, np.array(draws), np.ones(400)), level=level)
    assert found == pytest.approx(tuple(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])), abs=1e-6)


def test_an_interval_over_seeds_is_students() -> None:
    combined = Estimate(0.5, np.full(5000, 0.5), np.ones(400), seeds=((0.01, 2),))
    low, high = inference.interval(combined)
    assert high - 0.5 == pytest.approx(0.1 * stats.t.ppf(0.975, 2), rel=0.05)
    assert 0.5 - low == pytest.approx(0.1 * stats.t.ppf(0.975, 2), rel=0.05)


def test_p_values() -> None:
    assert inference.p_value(estimate(0.22)) == pytest.approx(2 * stats.norm.sf(2.2))
    assert inference.p_value(estimate(0.15)) == pytest.approx(2 * stats.norm.sf(1.5))
    assert inference.p_value(estimate(0.0)) == 1.0
    same = estimate(0.3)
    assert inference.p_value(inference.difference(same, same)) == 1.0


@pytest.mark.parametrize("num_items", [1, 2, 3, 5, 6, 30])
def test_few_items_that_all_agree_are_not_certain(num_items: int) -> None:
    """SciPy's exact binomial: the interval of a share of 1, the sign test of all right against all wrong."""
    of_all = stats.binomtest(num_items, num_items)
    right = Estimate(1.0, np.ones(1000), np.ones(num_items), ends=(0.0, 1.0))
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
    few = Estimate(0.3, draws, np.ones(3))
    assert inference.p_value(few) == stats.binomtest(3, 3).pvalue == 0.25
    assert inference.interval(few) == pytest.approx((0.0, np.quantile(draws, 0.975)))
    assert inference.interval(few, level=0.7)[0] > 0.0
    assert inference.p_value(Estimate(0.3, draws, np.ones(5000))) == 0.0
    # an error or a share that cannot be below 0 may well be above it
    assert inference.interval(replace(few, ends=(0.0, 1.0)))[0] > 0.0


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
        combined = inference.mean(cells)
        assert combined is not None
        ends[name] = inference.interval(combined)
        other = replace(combined, value=1.0 - share, draws=1.0 - combined.draws)
        num_items = {"own": 50, "same": 5}[name]
        apart = inference.difference(combined, other)
        assert inference.p_value(apart) == pytest.approx(stats.binomtest(num_items, num_items).pvalue)
        low, high = inference.interval(apart)
        assert (low <= 0.0 <= high) == (name == "same")
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
    combined = inference.mean(cells)
    assert combined is not None
    low, high = inference.interval(combined, level=level)
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
    low, high = inference.interval(inference.mean(cells) or cells[0])
    assert high == 1.0
    assert low == pytest.approx((1.0 + 1.0 + 0.025) / 3, abs=0.01)


@given(st.integers(1, 40), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_no_p_below_05_where_the_interval_holds_0(num_items: int, seed: int, changed: float) -> None:
    """Items that changed mostly one way, few enough that draws are far from a normal."""
    rng = np.random.default_rng(seed)
    each = np.where(rng.uniform(size=num_items) < changed, rng.choice([1, 1, 1, -1], num_items), 0)
    draws = each[rng.integers(0, num_items, (500, num_items))].mean(axis=1)
    paired = Estimate(float(each.mean()), draws, np.ones(num_items), ends=(-1.0, 1.0))
    low, high = inference.interval(paired)
    p = inference.p_value(paired)
    if low <= 0.0 <= high:
        assert p >= 0.05
    if num_items <= 5:  # of the sign test, .0625 at least
        assert low <= 0.0 <= high


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
        combined = replace(estimate(value), seeds=seeds)
        low, _ = inference.interval(combined)
        if abs(low) > 0.05:
            assert (inference.p_value(combined) < 0.05) == (low > 0.0)


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


def test_differences_by_language() -> None:
    a = {"en": estimate(0.5), "sw": estimate(0.9, seed=1), "yo": estimate(0.5)}
    b = {"en": estimate(0.5, seed=2), "sw": estimate(0.2, seed=3)}
    found = {code: inference.difference(a[code], b[code]) for code in b}
    low, high = inference.interval(found["en"])
    assert low < 0 < high
    assert inference.p_value(found["en"]) > 0.5
    assert found["sw"].value == pytest.approx(0.7)
    assert inference.interval(found["sw"])[0] == pytest.approx(0.7 - 1.96 * math.sqrt(0.02), abs=0.03)
    p_values = {code: inference.p_value(one) for code, one in found.items()}
    corrected = inference.holm({**p_values, "yo": None})
    assert corrected["yo"] is None
    assert corrected["sw"] == pytest.approx(3 * p_values["sw"])
