"""AUROC as a mean of influences: against scikit-learn, and against what leaving an example out does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.metrics.ranking import auroc_values

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
