"""AUROC and AURC as means of influences: against scikit-learn, and against re-weighted examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.metrics import aurc
from analysis.metrics.ranking import aurc_values, auroc_values

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@given(st.integers(0, 2**32), st.integers(2, 80), st.sampled_from([3, 1000]))
def test_the_mean_is_scikit_learns_auroc(seed: int, size: int, levels: int) -> None:
    """With many ties and with few."""
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, levels + 1, size) / levels, rng.uniform(size=size) < 0.6
    correct[:2] = [True, False]
    values = auroc_values(confidence, correct)
    assert np.mean(values) == pytest.approx(sklearn_metrics.roc_auc_score(correct, confidence), abs=1e-12)


def test_deviations_are_influences() -> None:
    """Weighting one example slightly more changes the AUROC by its deviation from the mean."""
    rng = np.random.default_rng(4)
    confidence, correct = np.round(rng.uniform(size=60), 1), rng.uniform(size=60) < 0.5
    values = auroc_values(confidence, correct)
    for place in range(0, 60, 7):
        weights = np.ones(60)
        weights[place] += 1e-6
        area = sklearn_metrics.roc_auc_score(correct, confidence, sample_weight=weights)
        change = (area - np.mean(values)) / 1e-6 * 60
        assert change == pytest.approx(values[place] - np.mean(values), abs=1e-4)


def test_answers_that_are_all_right_have_none() -> None:
    for correct in (np.ones(3), np.zeros(3)):
        with pytest.raises(ValueError, match="a right answer and a wrong one"):
            auroc_values([0.2, 0.3, 0.9], correct)


@given(st.integers(0, 2**32), st.integers(1, 80), st.sampled_from([3, 1000]))
def test_the_mean_is_the_aurc(seed: int, size: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, levels + 1, size) / levels, rng.uniform(size=size) < 0.6
    assert np.mean(aurc_values(confidence, correct)) == pytest.approx(aurc(confidence, correct), abs=1e-12)


@pytest.mark.parametrize("levels", [10, 10**6])
def test_the_values_have_the_standard_error_of_the_bootstrap(levels: int) -> None:
    """The AURC is computed anew for each of 2,000 resampled sets of examples."""
    rng = np.random.default_rng(7)
    size = 500
    confidence = np.round(rng.uniform(size=size) * levels) / levels
    correct = rng.uniform(size=size) < 0.3 + 0.6 * confidence
    draws = rng.integers(0, size, (2000, size))
    resampled = np.std([aurc(confidence[draw], correct[draw]) for draw in draws], ddof=1)
    values = aurc_values(confidence, correct)
    assert np.std(values) / np.sqrt(size) == pytest.approx(resampled, rel=0.06)  # 4 errors of 2,000 draws
