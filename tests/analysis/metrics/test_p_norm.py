"""MaxLogit-pNorm: by hand, and what it does not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis import metrics

SCORES = [[3.0, 0.0, 0.0, 1.0], [-1.0, -3.0, -math.inf, -math.inf], [2.0, 2.0, 2.0, -math.inf]]
"""Less their means: 2, -1, -1, 0 | 1, -1 | 0, 0, 0."""


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1, [2 / 4, 1 / 2, 0]),
        (2.0, [2 / math.sqrt(6), 1 / math.sqrt(2), 0]),
        (3, [2 / 10 ** (1 / 3), 2 ** (-1 / 3), 0]),
    ],
)
def test_by_hand(p: float, expected: list[float]) -> None:
    assert metrics.p_norm_confidence(SCORES, p) == pytest.approx(expected)


def test_neither_scale_nor_shift_nor_absent_options_matter() -> None:
    score = np.random.default_rng(0).normal(size=(200, 5))
    value = metrics.p_norm_confidence(score, 4)
    assert metrics.p_norm_confidence(1e90 * score - 7e90, 4) == pytest.approx(value)
    padded = np.concatenate([score, np.full((200, 2), -np.inf)], axis=1)
    assert metrics.p_norm_confidence(padded, 4) == pytest.approx(value)
    centred = score - score.mean(axis=1, keepdims=True)
    assert value == pytest.approx(centred.max(axis=1) / np.linalg.norm(centred, 4, axis=1))
    assert metrics.p_norm_confidence(score, math.inf) == pytest.approx(
        centred.max(axis=1) / np.abs(centred).max(axis=1)
    )


@pytest.mark.parametrize("p", [0, 0.5, -2, math.nan, True, "2"])
def test_what_is_no_norm_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"^p must be a number of at least 1"):
        metrics.p_norm_confidence(SCORES, p)


def test_missing_scores_are_refused() -> None:
    for bad in (np.ma.masked_array([[0.0, 1.0]], [[False, True]]), [[0.0, math.nan]], [[0.0, -math.inf]]):
        with pytest.raises(ValueError, match="score"):
            metrics.p_norm_confidence(bad, 2)
