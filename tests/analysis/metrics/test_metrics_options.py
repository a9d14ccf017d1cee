"""Metrics of several options and of rank: Brier's parts, class-wise ECE, AURC, confidence above chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import metrics
from analysis.metrics import binned
from study.bins import bin_predictions
from tests.analysis.metrics.peers import cases, multiclass

few_confidences = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.45, 0.7, 1.0]), st.integers(0, 1)), min_size=1, max_size=30
).map(lambda pairs: tuple(zip(*pairs, strict=True)))


@given(few_confidences)
def test_murphys_three_parts_where_bins_hold_equal_confidences(pair: tuple[list[float], list[int]]) -> None:
    confidence, correct = (np.array(column) for column in pair)
    parts = metrics.top_label_decomposition(confidence, correct)
    groups = [correct[confidence == value] for value in np.unique(confidence)]
    base = correct.mean()
    resolution = sum(len(g) / len(correct) * (g.mean() - base) ** 2 for g in groups)
    assert parts.resolution == pytest.approx(resolution, abs=1e-12)
    assert parts.uncertainty == pytest.approx(base * (1 - base), abs=1e-12)
    assert parts.within == 0.0  # and not -4e-16
    assert parts.reliability - parts.resolution + parts.uncertainty == pytest.approx(
        np.mean((confidence - correct) ** 2), abs=1e-12
    )


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("scheme", ["equal_width", "equal_mass"])
def test_what_is_within_bins_is_variance_less_covariance(name: str, scheme: str) -> None:
    confidence, correct = cases()[name]
    parts = metrics.top_label_decomposition(confidence, correct, scheme=scheme)
    bins = bin_predictions(confidence, correct, scheme=scheme)
    index = np.searchsorted(bins.hi, confidence)
    c, y = confidence - bins.confidence[index], correct - bins.accuracy[index]
    assert parts.within == pytest.approx(np.mean(c * c) - 2 * np.mean(c * y), abs=1e-12)
    assert parts.within != pytest.approx(0.0, abs=1e-6)
    assert parts.reliability == pytest.approx(metrics.rms_ce(confidence, correct, scheme=scheme) ** 2)
    assert parts.brier == pytest.approx(np.mean((confidence - correct) ** 2), abs=1e-12)


def test_parts_of_all_classes_are_the_brier_score() -> None:
    probs, labels = multiclass()
    for num_bins in (1, 15):
        parts = metrics.brier_decomposition(probs, labels, num_bins=num_bins)
        assert parts.brier == pytest.approx(metrics.brier(probs, labels), abs=1e-12)
    shares = np.bincount(labels) / len(labels)
    assert parts.uncertainty == pytest.approx(1 - np.sum(shares**2))


def test_classwise_ece_by_hand() -> None:
    probs = [[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]]
    # class 0: |0.5 - 0.9| of two, |1 - 0.3| of one; class 1: |0.5 - 0.1| of two, |0 - 0.7| of one
    assert metrics.classwise_ece(probs, [0, 1, 0]) == pytest.approx((2 * 0.4 + 0.7) / 3)


def test_classwise_ece_scores_an_option_where_it_is_there() -> None:
    probs, labels = [[0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.2, 0.2, 0.6]], [0, 2, 0]
    with_all = metrics.classwise_ece(probs, labels)
    by_options = metrics.classwise_ece(probs, labels, num_options=[2, 3, 3])
    # the third option: |0.5 - 0.6| over 2 examples, or over 3 with one that could not be wrong
    assert by_options - with_all == pytest.approx((0.1 - 0.1 * 2 / 3) / 3)
    with pytest.raises(ValueError, match="beyond num_options"):
        metrics.classwise_ece(probs, [0, 1, 0], num_options=[2, 2, 3])
    with pytest.raises(ValueError, match="above its label"):
        metrics.classwise_ece(probs, labels, num_options=[2, 3, 4])
    with pytest.raises(ValueError, match="every class"):
        metrics.classwise_ece([[0.5, 0.5, 0.0]], [0], num_options=[2])


@given(few_confidences)
def test_aurc_is_the_mean_over_orders_of_ties(pair: tuple[list[float], list[int]]) -> None:
    confidence, correct = (np.array(column) for column in pair)
    order = np.argsort(-confidence, kind="stable")
    values, hits = confidence[order], correct[order]
    total = 0.0
    for k in range(1, len(values) + 1):  # those above the k-th in full, of its ties the mean
        above, tied = hits[values > values[k - 1]], hits[values == values[k - 1]]
        total += ((1 - above).sum() + (k - len(above)) * (1 - tied).mean()) / k
    assert metrics.aurc(confidence, correct) == pytest.approx(total / len(values))


def test_aurc_by_hand() -> None:
    assert metrics.aurc([0.9, 0.8, 0.1], [1, 0, 1]) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert metrics.aurc([0.5] * 4, [1, 0, 0, 0]) == pytest.approx(0.75)
    mean = np.mean(
        [
            metrics.aurc([0.9, 0.8, 0.7, 0.2], [*orders, 1])
            for orders in set(itertools.permutations([1, 0, 0]))
        ]
    )
    assert metrics.aurc([0.8, 0.8, 0.8, 0.2], [1, 0, 0, 1]) == pytest.approx(mean)


def test_probabilities_of_ten_options_rounded_to_three_decimals() -> None:
    """.0995 each is the farthest that rounding takes a row: the sum is .995. None comes to .994."""
    exact, rounded = np.full((1, 10), 0.1), np.full((1, 10), 0.0995)
    for metric in (metrics.brier, metrics.classwise_ece):
        labels = [3]
        assert metric(rounded, labels) == pytest.approx(metric(exact, labels), abs=2e-3)
        for sign in (-1, 1):
            metric(exact + sign * 0.0005, labels)
            with pytest.raises(ValueError, match="sum to 1"):
                metric(exact + sign * 0.0006, labels)


def test_what_is_zero_is_not_rounding() -> None:
    """Three times .7 of ten is 7 right answers, which float64 sums miss by 1e-16."""
    assert metrics.confidence_gap([0.7] * 10, [1] * 7 + [0] * 3) == 0.0
    assert metrics.smooth_ece([0.7] * 10, [1] * 7 + [0] * 3) == 0.0
    assert metrics.chance_normalised_accuracy([1, 0, 0, 0, 0, 0], [6] * 6) == 0.0
    thirds = metrics.top_label_decomposition([0.1, 0.1, 0.1, 0.9, 0.9, 0.9], [1, 0, 0, 0, 1, 0])
    assert (thirds.resolution, thirds.within) == (0.0, 0.0)
    all_right = metrics.top_label_decomposition(np.linspace(0.3, 1, 49), np.ones(49))
    assert all_right.uncertainty == 0.0


def test_confidence_above_chance() -> None:
    assert metrics.chance_normalised_confidence([0.25, 0.1, 1.0], [4, 10, 3]) == pytest.approx(1 / 3)
    assert metrics.chance_normalised_confidence([0.0], [2]) == -1.0
    assert metrics.chance_normalised_accuracy([1, 0, 0], [3, 3, 3]) == pytest.approx(0.0)
    for count in ([1, 4], [4.5, 4], [4], [4, math.nan]):
        with pytest.raises(ValueError, match="num_options"):
            metrics.chance_normalised_confidence([0.5, 0.5], count)


def test_mean_confidence_and_the_gap() -> None:
    assert metrics.mean_confidence([0.2, 0.7]) == pytest.approx(0.45)
    with pytest.raises(ValueError, match="NaN"):
        metrics.mean_confidence([0.2, math.nan])


def test_metrics_of_bins_are_those_of_predictions() -> None:
    """The bins of the diagram and the numbers of the table are the same."""
    for confidence, correct in cases().values():
        bins = bin_predictions(confidence, correct)
        for name in ("mce", "rms_ce", "over_confidence", "under_confidence", "debiased_l2"):
            assert getattr(binned, name)(bins) == getattr(metrics, name)(confidence, correct)
