"""Metrics: by hand, against plain-Python references, and by their properties."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from analysis import metrics
from study.bins import bin_predictions, error_over_bins

BINNED: list[Callable[..., float]] = [
    metrics.ece,
    metrics.mce,
    metrics.rms_ce,
    metrics.over_confidence,
    metrics.under_confidence,
    metrics.debiased_l2,
]
PAIRED = [*BINNED, metrics.smooth_ece, metrics.auroc, metrics.aurc, metrics.confidence_gap, metrics.ace]

# By hand, 5 bins: (0.2, 0.4] holds 0.3 0.4 (1 of 2 right), (0.8, 1] holds 0.9 1.0 0.9 (1 of 3 right).
# d = 0.5 - 0.35 = 0.15 at weight 2/5; d = 1/3 - 2.8/3 = -0.6 at weight 3/5.
CONFIDENCE = [0.3, 0.4, 0.9, 1.0, 0.9]
CORRECT = [1, 0, 0, 1, 0]


def test_by_hand() -> None:
    def at_5_bins(metric: Callable[..., float]) -> float:
        return metric(CONFIDENCE, CORRECT, num_bins=5)

    assert at_5_bins(metrics.ece) == pytest.approx(0.4 * 0.15 + 0.6 * 0.6)
    assert at_5_bins(metrics.mce) == pytest.approx(0.6)
    assert at_5_bins(metrics.rms_ce) == pytest.approx(math.sqrt(0.4 * 0.15**2 + 0.6 * 0.6**2))
    assert at_5_bins(metrics.under_confidence) == pytest.approx(0.4 * 0.15)
    assert at_5_bins(metrics.over_confidence) == pytest.approx(0.6 * 0.6)
    # noise: 0.5 * 0.5 / 1 in the first, (1/3 * 2/3) / 2 in the second
    assert at_5_bins(metrics.debiased_l2) == pytest.approx(0.4 * (0.15**2 - 0.25) + 0.6 * (0.36 - 1 / 9))
    assert metrics.accuracy(CORRECT) == pytest.approx(0.4)
    assert metrics.confidence_gap(CONFIDENCE, CORRECT) == pytest.approx(0.7 - 0.4)


def test_fifteen_equal_width_bins_are_the_default() -> None:
    for metric in BINNED[:5]:
        same = metric(CONFIDENCE, CORRECT, num_bins=15, scheme="equal_width")
        assert metric(CONFIDENCE, CORRECT) == same


def test_edges() -> None:
    assert metrics.ece([0.0, 0.0], [0, 0]) == 0.0
    assert metrics.ece([1.0, 1.0], [1, 1]) == 0.0
    assert metrics.ece([1.0], [0]) == 1.0
    assert metrics.ece([0.0], [1]) == 1.0
    # 0.6 closes (0.5, 0.6]: with 0.55 there |0.5 - 0.575|; alone in the next bin it would be 0.5 * (0.45 +
    # 0.6)
    assert metrics.ece([0.55, 0.6], [1, 0], num_bins=10) == pytest.approx(0.075)


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda v: np.array(v, bool), lambda v: np.array(v, np.int8)]
)
def test_correct_may_be_bool_or_numbers(kind: Callable[[list[int]], Any]) -> None:
    for metric in PAIRED:
        assert metric(CONFIDENCE, kind(CORRECT)) == metric(CONFIDENCE, CORRECT)
    assert metrics.accuracy(kind(CORRECT)) == 0.4


def test_results_are_plain_floats() -> None:
    for metric in PAIRED:
        assert type(metric(CONFIDENCE, CORRECT)) is float
    assert type(metrics.accuracy(CORRECT)) is float
    assert type(metrics.brier([[0.5, 0.5]], [1])) is float
    assert type(metrics.nll([[-1.0, -1.0]], [1])) is float


def test_float32_is_summed_in_float64() -> None:
    confidence = np.full(100_000, 0.1, np.float32)
    assert metrics.confidence_gap(confidence, np.zeros(100_000)) == pytest.approx(
        float(np.float32(0.1)), abs=1e-12
    )


# --- a slow reference, exact fractions, no NumPy
# -------------------------------------------------------------


def slow_bins(
    confidence: list[float], correct: list[int], num_bins: int
) -> list[tuple[int, Fraction, Fraction]]:
    """(count, mean confidence, accuracy) of the filled bins."""
    members: list[list[int]] = [[] for _ in range(num_bins)]
    for i, value in enumerate(confidence):
        place = next(b for b in range(num_bins) if value <= float(Fraction(b + 1, num_bins)))
        members[place].append(i)
    return [
        (
            len(m),
            sum((Fraction(confidence[i]) for i in m), Fraction(0)) / len(m),
            Fraction(sum(correct[i] for i in m), len(m)),
        )
        for m in members
        if m
    ]


predictions = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.sampled_from([k / 15 for k in range(16)] + [0.1, 0.3, 0.6])),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=40,
).map(lambda pairs: ([c for c, _ in pairs], [y for _, y in pairs]))


@given(predictions, st.integers(1, 20))
def test_binned_metrics_against_fractions(pair: tuple[list[float], list[int]], num_bins: int) -> None:
    confidence, correct = pair
    n = len(confidence)
    filled = slow_bins(confidence, correct, num_bins)
    differences = [(Fraction(count, n), accuracy - mean) for count, mean, accuracy in filled]

    def check(metric: Callable[..., float], expected: float | Fraction) -> None:
        assert metric(confidence, correct, num_bins=num_bins) == pytest.approx(float(expected), abs=1e-12)

    check(metrics.ece, sum(w * abs(d) for w, d in differences))
    check(metrics.mce, max(abs(d) for _, d in differences))
    check(metrics.over_confidence, sum(w * max(-d, Fraction(0)) for w, d in differences))
    check(metrics.under_confidence, sum(w * max(d, Fraction(0)) for w, d in differences))
    check(metrics.rms_ce, math.sqrt(sum(w * d * d for w, d in differences)))
    if any(count > 1 for count, _, _ in filled):
        square = sum(
            Fraction(count, n) * ((a - mean) ** 2 - a * (1 - a) / (count - 1))
            for count, mean, a in filled
            if count > 1
        )
        check(metrics.debiased_l2, square)


@given(predictions, st.integers(1, 20), st.sampled_from(["equal_width", "equal_mass"]))
def test_ece_is_that_of_the_diagrams_bins(
    pair: tuple[list[float], list[int]], num_bins: int, scheme: str
) -> None:
    bins = bin_predictions(*pair, num_bins=num_bins, scheme=scheme)
    assert metrics.ece(*pair, num_bins=num_bins, scheme=scheme) == pytest.approx(
        error_over_bins(bins), rel=0, abs=1e-14
    )


@given(predictions)
def test_auroc_against_all_pairs(pair: tuple[list[float], list[int]]) -> None:
    confidence, correct = pair
    right = [c for c, y in zip(confidence, correct, strict=True) if y]
    wrong = [c for c, y in zip(confidence, correct, strict=True) if not y]
    assume(right and wrong)
    wins = sum(1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong)
    assert metrics.auroc(confidence, correct) == pytest.approx(wins / (len(right) * len(wrong)))


# --- properties
# ----------------------------------------------------------------------------------------------


@given(predictions, st.integers(1, 20), st.sampled_from(["equal_width", "equal_mass"]))
def test_relations_between_metrics(pair: tuple[list[float], list[int]], num_bins: int, scheme: str) -> None:
    confidence, correct = pair
    e, m, r, over, under = (f(confidence, correct, num_bins=num_bins, scheme=scheme) for f in BINNED[:5])
    gap = metrics.confidence_gap(confidence, correct)
    slack = 1e-9
    assert e == pytest.approx(over + under, abs=slack)
    assert over - under == pytest.approx(gap, abs=slack)
    assert abs(gap) <= e + slack
    assert e <= r + slack
    assert r <= m + slack
    assert 0.0 <= m <= 1.0 + slack
    assert abs(gap) <= metrics.smooth_ece(confidence, correct) + slack


@given(predictions)
def test_one_bin_leaves_the_gap(pair: tuple[list[float], list[int]]) -> None:
    assert metrics.ece(*pair, num_bins=1) == pytest.approx(abs(metrics.confidence_gap(*pair)), abs=1e-12)


@given(predictions, st.integers(1, 15), st.sampled_from(["equal_width", "equal_mass"]))
def test_debiased_is_at_most_the_square(
    pair: tuple[list[float], list[int]], num_bins: int, scheme: str
) -> None:
    try:
        square = metrics.debiased_l2(*pair, num_bins=num_bins, scheme=scheme)
    except ValueError:
        assume(False)
    assert square <= metrics.rms_ce(*pair, num_bins=num_bins, scheme=scheme) ** 2 + 1e-12


def test_debiased_bins_with_one_example() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        metrics.debiased_l2([0.1, 0.5, 0.9], [1, 0, 1])
    # as uncertainty-calibration: the lone 0.1 adds nothing, and still counts in the denominator
    two, n = 0.5 - 0.9, 3
    assert metrics.debiased_l2([0.1, 0.9, 0.9], [1, 0, 1]) == pytest.approx(2 / n * (two**2 - 0.25))


def test_debiased_is_unbiased_where_ece_is_not() -> None:
    """Over 400 samples of a calibrated model the debiased square is 0 on average, the ECE is not."""
    rng = np.random.default_rng(11)
    squares, plain, eces = [], [], []
    for _ in range(400):
        # confidences at the middles of 8 bins: the error of each bin is then exactly 0 in expectation
        confidence = (rng.integers(7, 15, 400) + 0.5) / 15
        correct = rng.uniform(size=400) < confidence
        squares.append(metrics.debiased_l2(confidence, correct))
        plain.append(metrics.rms_ce(confidence, correct) ** 2)
        eces.append(metrics.ece(confidence, correct))
    standard_error = np.std(squares) / math.sqrt(400)
    assert abs(np.mean(squares)) < 3 * standard_error
    assert np.mean(plain) > 20 * standard_error
    assert np.mean(eces) > 0.03
    assert 0.3 < np.mean(np.array(squares) < 0) < 0.8


# --- brier and nll
# -------------------------------------------------------------------------------------------


def test_brier_by_hand() -> None:
    assert metrics.brier([[1, 0, 0]], [0]) == 0.0
    assert metrics.brier([[1, 0, 0]], [2]) == 2.0
    assert metrics.brier([[0.25] * 4], [1]) == pytest.approx(0.75)
    assert metrics.brier([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [0, 1]) == pytest.approx(
        ((0.25 + 0.09 + 0.04) + (0.01 + 0.81 + 0.64)) / 2
    )


def test_nll_by_hand() -> None:
    assert metrics.nll(np.log([[0.25] * 4]), [3]) == pytest.approx(math.log(4))
    assert metrics.nll(np.log([[0.5, 0.5], [0.9, 0.1]]), [0, 1]) == pytest.approx(
        -(math.log(0.5) + math.log(0.1)) / 2
    )
    assert str(metrics.nll([[0.0, -50.0]], [0])) == "0.0"  # -0.0 would be printed as such
    assert metrics.nll([[0.0, -math.inf], [-math.inf, -2.0]], [0, 1]) == 1.0  # others may be impossible
    assert metrics.nll([[-50.0, -0.1]], [0]) == 50.0  # raw scores over a full vocabulary sum to less than 1
