"""Binning: edges by hand, and against a reference in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from study.bins import assign_bins, bin_predictions, equal_mass_edges, equal_width_edges


def which_bin(value: float, *, num_bins: int = 10) -> int:
    """The 0-based bin of one confidence."""
    bins = bin_predictions([value], [1], num_bins=num_bins)
    return int(np.flatnonzero(bins.count)[0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, 0),
        (5e-324, 0),
        (0.1, 0),
        (np.nextafter(0.1, 1), 1),
        (0.2, 1),
        (0.3, 2),  # np.linspace's edge is 0.30000000000000004
        (np.nextafter(0.3, 1), 3),
        (0.6, 5),  # int(0.6 / 0.1) is 5 by luck, int(0.7 / 0.1) is 6, int(0.3 / 0.1) is 2
        (0.7, 6),
        (0.9, 8),
        (np.nextafter(0.9, 1), 9),
        (1.0, 9),
    ],
)
def test_upper_edge_belongs_to_its_bin(value: float, expected: int) -> None:
    assert which_bin(value) == expected


@pytest.mark.parametrize("num_bins", [1, 2, 3, 7, 10, 15, 20, 100])
def test_every_edge_is_the_float_nearest_to_k_over_b_and_closes_its_bin(num_bins: int) -> None:
    for k in range(1, num_bins + 1):
        edge = float(Fraction(k, num_bins))
        assert which_bin(edge, num_bins=num_bins) == k - 1
        if k < num_bins:
            assert which_bin(float(np.nextafter(edge, 2)), num_bins=num_bins) == k


def test_fifteen_bins_have_the_edges_of_linspace() -> None:
    assert equal_width_edges(15).tolist() == np.linspace(0, 1, 16).tolist()


def test_float32_is_taken_as_it_is() -> None:
    assert which_bin(float(np.float32(0.6))) == 6  # 0.60000002384


def test_hand_computed_bins() -> None:
    bins = bin_predictions([0.0, 0.2, 0.5, 0.5, 0.9, 1.0], [1, 0, 1, 0, 1, 1], num_bins=5)
    assert bins.count.tolist() == [2, 0, 2, 0, 2]
    np.testing.assert_allclose(bins.confidence, [0.1, np.nan, 0.5, np.nan, 0.95])
    np.testing.assert_allclose(bins.accuracy, [0.5, np.nan, 0.5, np.nan, 1.0])
    np.testing.assert_allclose(bins.difference, [0.4, np.nan, 0.0, np.nan, 0.05])
    np.testing.assert_allclose(bins.weight, [1 / 3, 0, 1 / 3, 0, 1 / 3])
    assert bins.num_examples == 6
    assert bins.filled.tolist() == [True, False, True, False, True]
    np.testing.assert_allclose(bins.lo, [0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(bins.hi, [0.2, 0.4, 0.6, 0.8, 1.0])


def test_an_empty_bin_is_missing_not_zero() -> None:
    bins = bin_predictions([0.95], [1])
    assert np.isnan(bins.accuracy[:14]).all()
    assert np.isnan(bins.confidence[:14]).all()


def test_equal_mass_without_ties_fills_bins_evenly() -> None:
    confidence = np.linspace(0.01, 0.99, 30)
    bins = bin_predictions(confidence, np.ones(30), num_bins=15, scheme="equal_mass")
    assert bins.count.tolist() == [2] * 15


@pytest.mark.parametrize(
    ("num_examples", "num_bins", "expected"),
    [
        (10, 3, [4, 3, 3]),
        (10, 4, [3, 2, 2, 3]),
        (11, 3, [4, 3, 4]),
        (2, 5, [1, 0, 0, 0, 1]),
        (1, 3, [1, 0, 0]),
    ],
)
def test_equal_mass_counts(num_examples: int, num_bins: int, expected: list[int]) -> None:
    confidence = (np.arange(num_examples) + 1) / 20
    bins = bin_predictions(confidence, np.zeros(num_examples), num_bins=num_bins, scheme="equal_mass")
    assert bins.count.tolist() == expected


def test_equal_mass_never_splits_equal_confidences() -> None:
    confidence = [0.5] * 7 + [0.9] * 3
    bins = bin_predictions(confidence, [1] * 10, num_bins=5, scheme="equal_mass")
    assert sorted(bins.count[bins.filled].tolist()) == [3, 7]
    all_equal = bin_predictions([0.4] * 9, [1] * 9, num_bins=5, scheme="equal_mass")
    assert all_equal.count.tolist() == [9, 0, 0, 0, 0]


def test_equal_mass_cuts_where_scikit_learns_quantiles_do() -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    for num_examples in (16, 97, 1000):
        confidence = rng.beta(4, 2, num_examples)
        correct = rng.integers(0, 2, num_examples)
        accuracy, mean = calibration_curve(correct, confidence, n_bins=7, strategy="quantile")
        bins = bin_predictions(confidence, correct, num_bins=7, scheme="equal_mass")
        np.testing.assert_allclose(bins.accuracy, accuracy)
        np.testing.assert_allclose(bins.confidence, mean)


confidences = hnp.arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.one_of(
        st.floats(0, 1), st.sampled_from([k / 15 for k in range(16)]), st.sampled_from([0.0, 0.5, 1.0])
    ),
)


@given(confidences, st.integers(1, 30), st.sampled_from(["equal_width", "equal_mass"]))
def test_each_example_lies_in_one_bin_between_its_edges(conf: np.ndarray, num_bins: int, scheme: str) -> None:
    bins = bin_predictions(conf, np.ones(len(conf)), num_bins=num_bins, scheme=scheme)
    assert bins.num_examples == len(conf)
    assert len(bins.count) == len(bins.lo) == len(bins.hi) == num_bins
    assert bins.lo[0] == 0.0
    assert bins.hi[-1] == 1.0
    expected = [0] * num_bins
    for value in conf.tolist():
        for b in range(num_bins):
            if value <= bins.hi[b] and (value > bins.lo[b] or b == 0):
                expected[b] += 1
                break
    assert bins.count.tolist() == expected


@given(st.integers(1, 5000), st.data())
def test_values_a_few_floats_from_an_edge(num_bins: int, data: st.DataObject) -> None:
    """Bins are computed from a product that is rounded: here a search over the edges says where they end."""
    near = st.tuples(st.integers(0, num_bins), st.integers(-12, 12))
    conf = []
    for k, steps in data.draw(st.lists(near, min_size=1, max_size=20)):
        value = k / num_bins
        for _ in range(abs(steps)):
            value = float(np.nextafter(value, 2.0 if steps > 0 else -1.0))
        conf.append(min(max(value, 0.0), 1.0))
    index, edges = assign_bins(np.array(conf), num_bins=num_bins)
    assert index.tolist() == np.searchsorted(edges[1:], conf, side="left").tolist()


@given(confidences, st.integers(1, 30))
def test_equal_mass_is_a_search_over_its_edges(conf: np.ndarray, num_bins: int) -> None:
    index, edges = assign_bins(conf, num_bins=num_bins, scheme="equal_mass")
    assert edges.tolist() == equal_mass_edges(np.sort(conf), num_bins).tolist()
    assert index.tolist() == np.searchsorted(edges[1:], conf, side="left").tolist()


@given(confidences, st.integers(1, 30), st.randoms(use_true_random=False))
def test_order_of_examples_does_not_matter(conf: np.ndarray, num_bins: int, random: object) -> None:
    order = np.arange(len(conf))
    random.shuffle(order)  # type: ignore[attr-defined]
    correct = np.arange(len(conf)) % 2
    for scheme in ("equal_width", "equal_mass"):
        one = bin_predictions(conf, correct, num_bins=num_bins, scheme=scheme)
        other = bin_predictions(conf[order], correct[order], num_bins=num_bins, scheme=scheme)
        assert one.count.tolist() == other.count.tolist()
        np.testing.assert_allclose(one.accuracy, other.accuracy)


@given(confidences, st.integers(1, 30))
def test_equal_mass_edges_are_ordered(conf: np.ndarray, num_bins: int) -> None:
    edges = equal_mass_edges(np.sort(conf), num_bins)
    assert edges.shape == (num_bins + 1,)
    assert (np.diff(edges) >= 0).all()


@pytest.mark.parametrize("num_bins", [0, -1, 2.0, True, None, "15"])
def test_bad_number_of_bins(num_bins: object) -> None:
    with pytest.raises(ValueError, match="num_bins"):
        bin_predictions([0.5], [1], num_bins=num_bins)  # type: ignore[arg-type]


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="equal_width, equal_mass"):
        bin_predictions([0.5], [1], scheme="quantile")
