"""Smooth ECE: by hand, against relplot, and by its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import metrics
from analysis.metrics.smooth import _mirrored, _smoothed_error

# Values of relplot 1.0.3 (numpy 2.4): after `pip install relplot`, python -c "import numpy as np, relplot;
# rng = np.random.default_rng(7); ..."  with the draws of `relplot_cases` below and `relplot.smECE(confidence,
# correct.astype(float))`.
RELPLOT = {
    "over": 0.42392334101832935,
    "calibrated": 0.024173956872355965,
    "few": 0.27598483487487485,
    "crossing": 0.21790371749850537,
}


def relplot_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    cases = {}
    for name, n, a, b, factor in [
        ("over", 400, 8, 1.5, 0.5),
        ("calibrated", 2000, 2, 2, 1.0),
        ("few", 30, 5, 2, 0.6),
    ]:
        confidence = rng.beta(a, b, n)
        cases[name] = (confidence, rng.uniform(size=n) < confidence * factor)
    confidence = rng.uniform(0.25, 1, 588)
    cases["crossing"] = (confidence, rng.uniform(size=588) < np.where(confidence > 0.6, 0.4, 0.7))
    return cases


@pytest.mark.parametrize("name", RELPLOT)
def test_smooth_ece_is_relplots(name: str) -> None:
    assert metrics.smooth_ece(*relplot_cases()[name]) == pytest.approx(RELPLOT[name], abs=1e-3)


def test_smooth_ece_by_hand() -> None:
    assert metrics.smooth_ece([0.7] * 10, [1] * 5 + [0] * 5) == pytest.approx(0.2)  # relplot: 0.199998
    assert metrics.smooth_ece([1.0, 1.0, 0.0], [1, 1, 0]) == pytest.approx(0.0, abs=1e-12)
    assert metrics.smooth_ece([1.0, 1.0], [0, 0]) == pytest.approx(1.0)


def test_smooth_ece_differs_from_relplot_at_exactly_one() -> None:
    """All residuals are positive, so smoothing moves error about but keeps its mean: (1 + 0.5) / 2.

    relplot 1.0.3 gives 0.66582: its mirror image holds an end point once where it holds other points twice.
    """
    assert metrics.smooth_ece([1.0, 0.5], [0, 0]) == pytest.approx(0.75)


def test_smooth_ece_is_a_fixed_point() -> None:
    """smECE_sigma by a direct sum over the images of a Gaussian, at sigma = the result, gives the result."""
    confidence, correct = relplot_cases()["calibrated"]
    value = metrics.smooth_ece(confidence, correct)
    grid = (np.arange(4000) + 0.5) / 4000
    density = np.zeros_like(grid)
    for image in (-confidence, confidence, 2 - confidence):
        distance = (grid[:, None] - image[None, :]) / value
        density += np.exp(-0.5 * distance**2) @ (confidence - correct)
    density /= value * math.sqrt(2 * math.pi) * len(confidence)
    assert float(np.mean(np.abs(density))) == pytest.approx(value, abs=1e-3)


def test_smooth_ece_shrinks_for_a_calibrated_model() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.2, 1, 20_000)
    correct = rng.uniform(size=20_000) < confidence
    assert (
        metrics.smooth_ece(confidence, correct) < 0.02 < metrics.smooth_ece(confidence[:200], correct[:200])
    )


def test_smooth_ece_is_continuous_where_binned_ece_jumps() -> None:
    edge = 0.4  # of 15 bins
    below = [edge] * 50 + [0.45] * 50
    above = [edge + 1e-9] * 50 + [0.45] * 50
    correct = [1] * 50 + [0] * 50
    assert abs(metrics.ece(below, correct) - metrics.ece(above, correct)) > 0.4
    assert metrics.smooth_ece(below, correct) == pytest.approx(metrics.smooth_ece(above, correct), abs=1e-6)


pairs = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.integers(0, 1)),
    min_size=1,
    max_size=20,
)


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_halvings_that_the_gap_decides_need_no_transform(drawn: list[tuple[float, int]]) -> None:
    """The search as relplot has it, where each of ten halvings takes a transform."""
    confidence, correct = (np.array(column, dtype=np.float64) for column in zip(*drawn, strict=True))
    spectrum = np.fft.rfft(_mirrored(confidence, confidence - correct))
    below, above = 0.0, 1.0
    for _ in range(10):
        middle = (below + above) / 2
        if middle < 0.001 or middle < _smoothed_error(spectrum, middle):
            below = middle
        else:
            above = middle
    expected = _smoothed_error(spectrum, above)
    assert metrics.smooth_ece(confidence, correct) == pytest.approx(expected, rel=0, abs=1e-12)
