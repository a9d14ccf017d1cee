"""Changes: intervals, p-values, pairing of seeds, and corrections, against SciPy and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.inference.changes import assess, change, equivalence_p, false_discovery, holm
from analysis.inference.estimates import Estimate, over_seeds
from tests.analysis.inference.test_estimates import estimate, squared

stats = pytest.importorskip("scipy.stats")


def test_a_change_is_the_paired_difference() -> None:
    a, b = estimate(0.62, seed=1), estimate(0.4, seed=1)
    same_draws = change(a, b)  # all noise is shared
    assert same_draws.value == pytest.approx(0.22)
    assert same_draws.low == pytest.approx(0.22)
    other = change(a, estimate(0.4, seed=2))
    deviation = float(np.std(a.draws - estimate(0.4, seed=2).draws, ddof=1))
    t = stats.t(2849)
    assert other.high - other.value == pytest.approx(t.ppf(0.975) * deviation)
    assert other.p_value == pytest.approx(2 * t.sf(0.22 / deviation))
    assert change(a, a).p_value == 1.0
    with pytest.raises(ValueError, match="replicates"):
        change(a, estimate(0.1, size=500))
    with pytest.raises(ValueError, match="squared"):
        change(a, squared(0.1, 0.1, 0.1))


def runs(values: list[float], spread: float = 1e-6, first: int = 0) -> Estimate:
    combined = over_seeds(
        {first + k: estimate(value, spread, seed=first + k) for k, value in enumerate(values)}
    )
    assert combined is not None
    return combined


def test_seeds_are_paired_where_they_share_the_order_of_the_data() -> None:
    """SciPy's paired t, and Welch's where they do not, or have other numbers."""
    a, b = [0.51, 0.62, 0.58, 0.70], [0.47, 0.61, 0.53, 0.64]
    paired = change(runs(a), runs(b))
    truth = stats.ttest_rel(a, b)
    assert paired.p_value == pytest.approx(truth.pvalue, rel=1e-3)
    assert (paired.low, paired.high) == pytest.approx(truth.confidence_interval(), abs=1e-5)
    welch = stats.ttest_ind(a, b, equal_var=False)
    for unpaired in (change(runs(a), runs(b), paired_seeds=False), change(runs(a), runs(b, first=10))):
        assert unpaired.p_value == pytest.approx(welch.pvalue, rel=1e-3)
        assert (unpaired.low, unpaired.high) == pytest.approx(welch.confidence_interval(), abs=1e-5)
    # a base model has no seeds: it is one checkpoint
    base = change(runs(a), estimate(0.5, 1e-6))
    assert base.p_value == pytest.approx(stats.ttest_1samp(a, 0.5).pvalue, rel=1e-3)


def test_few_items_never_find_more_than_the_sign_test() -> None:
    """Differences of .29, .3 and .31 in three items: by a normal they would be beyond any doubt."""
    draws = np.random.default_rng(1).choice([0.29, 0.3, 0.31], size=(1000, 3)).mean(axis=1)
    few = assess(Estimate(0.3, draws, np.ones(3)))
    assert few.p_value == stats.binomtest(3, 3).pvalue == 0.25
    assert few.low == 0.0
    assert assess(Estimate(0.3, draws, np.ones(5000))).p_value < 1e-100


@given(st.integers(1, 40), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_the_p_value_is_that_of_the_interval(num_items: int, seed: int, changed: float) -> None:
    """Items that changed mostly one way."""
    rng = np.random.default_rng(seed)
    each = np.where(rng.uniform(size=num_items) < changed, rng.choice([1, 1, 1, -1], num_items), 0)
    draws = each[rng.integers(0, num_items, (500, num_items))].mean(axis=1)
    found = assess(Estimate(float(each.mean()), draws, np.ones(num_items), ends=(-1.0, 1.0)))
    assert found.low <= found.value <= found.high
    if found.p_value < 0.049:
        assert found.low > 0.0 or found.high < 0.0
    if found.p_value > 0.051 or num_items <= 5:  # of the sign test, .0625 at least
        assert found.low <= 0.0 <= found.high


@given(st.floats(-0.001, 0.03), st.floats(-0.001, 0.03), st.floats(1e-5, 0.003), st.floats(0.0, 0.004))
def test_a_change_of_roots_lies_in_its_interval(a: float, b: float, quadratic: float, bias: float) -> None:
    one, two = (squared(value, 1.3 * quadratic, quadratic, bias) for value in (a, b))
    found = change(one, two)
    assert found.value == pytest.approx(one.shown - two.shown)
    assert found.low <= found.value <= found.high
    if found.p_value < 0.049:
        assert found.low > 0.0 or found.high < 0.0
    if found.p_value > 0.051:
        assert found.low <= 0.0 <= found.high
    back = change(two, one)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    assert back.p_value == pytest.approx(found.p_value)


def test_far_from_0_a_change_of_roots_is_by_the_delta_method() -> None:
    one = squared(0.09, 0.004, 1e-6)
    two = replace(squared(0.04, 0.002, 1e-6), draws=0.04 + estimate(0.0, 0.002, seed=5).draws)
    found = change(one, two)
    assert found.value == pytest.approx(0.1)
    deviation = float(np.std((one.draws - 0.09) / 0.6 - (two.draws - 0.04) / 0.4, ddof=1))
    assert found.high - found.value == pytest.approx(1.96 * deviation, rel=0.01)
    assert float(np.std(found.estimate.draws, ddof=1)) == pytest.approx(deviation, rel=0.01)


def test_equivalence_is_two_one_sided_tests() -> None:
    for value in (0.0, 0.004, -0.012):
        one = estimate(value, 0.003)
        t = stats.t(2849)
        truth = max(t.sf((value + 0.01) / 0.003), t.cdf((value - 0.01) / 0.003))
        assert equivalence_p(one, 0.01) == pytest.approx(truth)
    assert equivalence_p(estimate(0.002, 0.0), 0.01) == 0.0
    assert equivalence_p(estimate(0.02, 0.0), 0.01) == 1.0


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12))
def test_false_discovery_is_scipys(values: list[float | None]) -> None:
    known = [p for p in values if p is not None]
    found = [p for p in false_discovery(values) if p is not None]
    assert found == pytest.approx(stats.false_discovery_control(known).tolist() if known else [])
    assert [p is None for p in false_discovery(values)] == [p is None for p in values]


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    # one more test, whose result is not there yet
    later = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert later.pop("d") is None
    assert later == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(values: list[float]) -> None:
    adjusted = holm({str(k): p for k, p in enumerate(values)})
    rejected = set()
    for rank, k in enumerate(sorted(range(len(values)), key=lambda k: values[k])):
        if values[k] * (len(values) - rank) > 0.05:
            break
        rejected.add(str(k))
    assert {name for name, p in adjusted.items() if p is not None and p <= 0.05} == rejected
