"""Intervals of means whose rows share examples: against SciPy, a bootstrap, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.inference.clustered import macro_interval, mean_over_seeds

stats = pytest.importorskip("scipy.stats")
IDS = np.array([f"q{k}" for k in range(300)])


def test_one_sample_has_the_normal_interval_of_its_mean() -> None:
    values = np.random.default_rng(0).normal(0.3, 2.0, 300)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert macro_interval([values], [IDS]) == pytest.approx(expected)
    assert macro_interval([values[:1]], [IDS[:1]]) is None
    with pytest.raises(ValueError, match="each sample needs a value"):
        macro_interval([values], [IDS[:9]])


def test_rows_of_one_example_are_one_draw() -> None:
    """Copies of one sample say no more than the sample; unlike rows are as a cluster bootstrap has them."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=300)
    alone = macro_interval([values], [IDS])
    assert macro_interval([values] * 5, [IDS] * 5) == pytest.approx(alone)
    turned = rng.permutation(300)
    assert macro_interval([values, values[turned]], [IDS, IDS[turned]]) == pytest.approx(alone)

    other, some = values[:100] + rng.normal(size=100), np.arange(100)
    means = []
    for _ in range(4000):
        count = np.bincount(rng.integers(0, 300, 300), minlength=300)
        means.append((count @ values / 300 + count[some] @ other / count[some].sum()) / 2)
    low, high = macro_interval([values, other], [IDS, IDS[some]]) or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx((values.mean() + other.mean()) / 2)
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(means), rel=0.05)


def test_seeds_enter_by_students_t() -> None:
    values = [0.1, 0.2, 0.6]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert mean_over_seeds(values, [(v, v) for v in values]) == pytest.approx(expected)
    assert mean_over_seeds([0.1, 0.1], [(0.0, 0.2), (0.05, 0.15)]) == pytest.approx((0.025, 0.175))
    # both parts, against their convolution
    rng = np.random.default_rng(2)
    draws = rng.normal(0.0, 0.1, 200_000) + stats.sem(values) * rng.standard_t(2, 200_000)
    low, high = mean_over_seeds(values, [(v - 0.196, v + 0.196) for v in values])
    assert (high - low) / 2 == pytest.approx(np.quantile(np.abs(draws), 0.95), rel=0.05)
