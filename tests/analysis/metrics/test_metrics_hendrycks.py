"""Other people's RMS calibration errors with many equal confidences, against loops over sorted lists."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import metrics

pairs = st.lists(
    st.tuples(st.one_of(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.floats(0, 1)), st.integers(0, 1)),
    min_size=18,  # two bins of nine
    max_size=60,
)


def mean_residual(members: list[tuple[float, int]]) -> float:
    return math.fsum(c - y for c, y in members) / len(members)


@given(pairs, st.integers(1, 9))
def test_equal_confidences_keep_their_order(drawn: list[tuple[float, int]], beta: int) -> None:
    ordered = sorted(drawn, key=lambda pair: pair[0])  # Python's sort is stable
    bins = [ordered[start : start + beta] for start in range(0, len(ordered) - beta + 1, beta)]
    square = sum(beta / len(drawn) * mean_residual(members) ** 2 for members in bins[:-1])
    confidence, correct = zip(*drawn, strict=True)
    value = metrics.hendrycks_rms(confidence, correct, beta=beta)
    assert value**2 == pytest.approx(square, rel=0, abs=1e-14)


@given(pairs, st.integers(1, 9))
def test_equal_confidences_share_a_bin(drawn: list[tuple[float, int]], beta: int) -> None:
    values = sorted(c for c, _ in drawn)
    num_bins = len(drawn) // beta
    cuts = [values[round(k * (len(drawn) / num_bins))] for k in range(1, num_bins)]
    total = 0.0
    for lo, hi in zip([-1.0, *cuts], [*cuts, 2.0], strict=True):
        members = [(c, y) for c, y in drawn if lo <= c < hi]
        total += (len(members) / len(drawn) * mean_residual(members)) ** 2 if members else 0.0
    confidence, correct = zip(*drawn, strict=True)
    value = metrics.mmlu_rms(confidence, correct, beta=beta)
    assert value**4 == pytest.approx(total, rel=0, abs=1e-14)
