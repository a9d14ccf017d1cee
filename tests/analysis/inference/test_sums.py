"""Sums per example: they add up over shards, a cell may lack examples, and the bits are always the same."""

from __future__ import annotations

import math
import operator
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.inference import estimates as inference
from analysis.inference.bootstrap import Key, Resamples, estimates, resample, sum_rows
from analysis.inference.estimates import Estimate
from tests.analysis.inference.test_bootstrap import IDS, draw_confidence, skill
from tests.analysis.one_cell import ENDS, bootstrap

NLL: Key = ("nll", None)
MASS: Key = ("mass", None)


def test_a_cell_may_lack_examples() -> None:
    """A replicate is the mean of the rows that it has, and one that has none is the cell's own mean."""
    rng = np.random.default_rng(10)
    confidence = draw_confidence(rng, 400)
    correct = skill(rng, confidence, 0.3)[1]
    resamples = resample(IDS, num_replicates=200)
    for size in (300, 2):
        ids, conf, hit = IDS[:size], confidence[:size], correct[:size]
        rows = resamples.rows(ids)
        found = bootstrap(resamples, rows, conf, hit)
        counts = resamples.counts[:, rows].astype(float)
        for replicate, weight in enumerate(counts):
            truth = np.average(conf, weights=weight) if weight.any() else np.mean(conf)
            assert found["confidence"].draws[replicate] == pytest.approx(truth, abs=1e-9)
        assert (counts.sum(axis=1) == 0).any() == (size == 2)


def test_coverage_where_examples_are_lacking() -> None:
    """Of 600 resampled ids the cell has 400: its interval is that of 400 examples."""
    rng = np.random.default_rng(11)
    everyone = [*IDS, *(f"other{k}" for k in range(200))]
    covered = {"gap": 0, "accuracy": 0}
    truth = {"gap": 0.4 * 0.6, "accuracy": 0.7 - 0.4 * 0.6}
    for sample in range(400):
        if sample % 100 == 0:
            resamples = resample(everyone, num_replicates=500, seed=sample)
            rows = resamples.rows(IDS)
        confidence = draw_confidence(rng, 400)
        found = bootstrap(resamples, rows, confidence, skill(rng, confidence, 0.4)[1])
        for name, value in truth.items():
            low, high = inference.interval(found[name])
            covered[name] += low <= value <= high
    for name, count in covered.items():
        assert 0.925 <= count / 400 <= 0.975, name


@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([5, 15]))
@settings(max_examples=30, deadline=None)
def test_sums_of_shards_are_those_of_all_their_rows(seed: int, num_shards: int, num_bins: int) -> None:
    """A micro mean: the estimate from added sums is that of the rows one after another."""
    rng = np.random.default_rng(seed)
    resamples = resample(IDS[:60], num_replicates=100, seed=seed)
    shards = []
    for _ in range(num_shards):
        rows = rng.permutation(60)[: rng.integers(30, 61)]  # each language lacks others
        confidence = rng.uniform(size=len(rows))
        shards.append(
            (rows, confidence, rng.uniform(size=len(rows)) < confidence**2, rng.exponential(len(rows)))
        )
    sums = [
        sum_rows(resamples, rows, {"": conf}, hit, {NLL: np.full(len(rows), nll)}, num_bins=num_bins)
        for rows, conf, hit, nll in shards
    ]
    pooled, *alone = (
        {kind: estimate for (kind, _), estimate in by_key.items()}
        for by_key in estimates(resamples, [reduce(operator.add, sums), *sums], ENDS)
    )
    at_once = bootstrap(
        resamples,
        np.concatenate([rows for rows, *_ in shards]),
        np.concatenate([conf for _, conf, _, _ in shards]),
        np.concatenate([hit for _, _, hit, _ in shards]),
        {"nll": np.concatenate([np.full(len(rows), nll) for rows, _, _, nll in shards])},
        num_bins=num_bins,
    )
    assert list(pooled) == list(at_once)
    for name, estimate in at_once.items():
        assert_same(pooled[name], estimate)
    for (rows, conf, hit, nll), found in zip(shards, alone, strict=True):
        means = {"nll": np.full(len(rows), nll)}
        one = bootstrap(resamples, rows, conf, hit, means, num_bins=num_bins)
        for name, estimate in one.items():
            assert_same(found[name], estimate)


def assert_same(one: Estimate, other: Estimate) -> None:
    assert one.value == pytest.approx(other.value, rel=1e-12)
    assert one.draws == pytest.approx(other.draws, abs=1e-10)
    assert (one.ends, one.hides) == (other.ends, other.hides)
    assert (one.squared is None) == (other.squared is None)
    if one.squared is not None and other.squared is not None:
        assert one.squared.noise == pytest.approx(other.squared.noise, abs=1e-10)
        assert one.squared.bias == pytest.approx(other.squared.bias, rel=1e-9)
        assert one.squared.design_effect == pytest.approx(other.squared.design_effect, rel=1e-9)


def test_a_mean_that_one_shard_lacks_is_left_out() -> None:
    resamples = resample(IDS, num_replicates=100)
    rows, half = resamples.rows(IDS), np.full(400, 0.5)
    no_means: dict[Key, np.ndarray] = {}
    with_mass, without = (
        sum_rows(resamples, rows, {"": half}, np.ones(400), means) for means in ({MASS: half}, no_means)
    )
    assert MASS in with_mass.means
    assert MASS not in (with_mass + without).means
    assert MASS not in (without + with_mass).means


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_totals_are_exact_in_any_order(seed: int) -> None:
    """The bits do not depend on the order of examples, nor on the columns beside."""
    rng = np.random.default_rng(seed)
    resamples = resample(IDS[:90], num_replicates=100, seed=seed)
    sums = rng.normal(size=(90, 7)) * 10.0 ** rng.integers(-8, 8, 7)
    together = resamples.totals(sums)
    order = rng.permutation(90)
    shuffled = Resamples(resamples.example_ids, resamples.counts[:, order])
    assert np.array_equal(shuffled.totals(sums[order]), together)
    for column in range(7):
        alone = resamples.totals(sums[:, column : column + 1])
        assert np.array_equal(alone[:, 0], together[:, column])
    truth = [[math.fsum(c * x for c, x in zip(row, column, strict=True)) for column in sums.T.tolist()]
             for row in resamples.counts.tolist()[:5]]  # fmt: skip
    assert np.allclose(together[:5], truth, rtol=0.0, atol=1e-10 * np.abs(sums).max(axis=0))
