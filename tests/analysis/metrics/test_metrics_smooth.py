"""Smooth ECE: by hand, against a direct sum, and by its properties; relplot's against relplot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import metrics
from analysis.metrics.smooth import _mirrored, _relplots_error

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
def test_relplots_smooth_ece_is_relplots(name: str) -> None:
    assert metrics.smooth_ece_relplot(*relplot_cases()[name]) == pytest.approx(RELPLOT[name], abs=1e-3)


def test_smooth_ece_by_hand() -> None:
    assert metrics.smooth_ece([0.7] * 10, [1] * 5 + [0] * 5) == pytest.approx(0.2)  # relplot: 0.199998
    assert metrics.smooth_ece([1.0, 1.0, 0.0], [1, 1, 0]) == pytest.approx(0.0, abs=1e-12)
    assert metrics.smooth_ece([1.0, 1.0], [0, 0]) == pytest.approx(1.0)


def test_relplots_smooth_ece_differs_from_relplot_at_exactly_one() -> None:
    """All residuals are positive, so smoothing moves error about but keeps its mean: (1 + 0.5) / 2.

    relplot 1.0.3 gives 0.66582: its mirror image holds an end point once where it holds other points twice.
    """
    assert metrics.smooth_ece_relplot([1.0, 0.5], [0, 0]) == pytest.approx(0.75)


def repeated(*groups: tuple[float, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, examples, how many of them are right) of each group."""
    confidence = np.repeat([c for c, _, _ in groups], [n for _, n, _ in groups])
    return confidence, np.concatenate([np.arange(n) < right for _, n, right in groups])


def direct_smooth_ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The definition: every image of every example's Gaussian, summed at every point of a grid."""
    stats, optimize = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.optimize")
    grid = (np.arange(2000) + 0.5) / 2000
    images = np.concatenate([2 * k + sign * confidence for k in range(-5, 6) for sign in (-1, 1)])
    residual = np.tile(confidence - correct, len(images) // len(confidence)) / len(confidence)

    def excess(sigma: float) -> float:
        density = stats.norm.pdf(grid[:, None], images, sigma) @ residual
        return float(np.abs(density).mean() - sigma)

    return float(optimize.brentq(excess, 0.01, 1.0))


MIXED = {
    "the wrong way round": (repeated((0.02, 5, 3), (0.98, 5, 2)), 0.3719),
    "three quarters": (repeated((0.95, 30, 18), (0.3, 10, 8)), 0.2837),
    "exactly 0 and 1": (repeated((0.0, 5, 3), (1.0, 5, 2)), 0.3776),
    # some of the examples: the direct sum takes long
    **{
        name: (tuple(column[:150] for column in relplot_cases()[name]), None)
        for name in ("calibrated", "crossing")
    },
}


@pytest.mark.parametrize("name", MIXED)
def test_smooth_ece_is_its_definition(name: str) -> None:
    """Residuals of both signs, which smoothing mixes."""
    case, rounded = MIXED[name]
    value = metrics.smooth_ece(*case)
    assert value == pytest.approx(direct_smooth_ece(*case), rel=0, abs=2e-5)
    assert rounded is None or round(value, 4) == rounded


def test_relplots_smooth_ece_is_larger_where_its_gaussian_is_cut() -> None:
    """.5620 is relplot 1.0.3 on this case."""
    case, _ = MIXED["the wrong way round"]
    assert metrics.smooth_ece_relplot(*case) == pytest.approx(0.5620, abs=1e-3)


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
        if middle < 0.001 or middle < _relplots_error(spectrum, middle):
            below = middle
        else:
            above = middle
    expected = _relplots_error(spectrum, above)
    assert metrics.smooth_ece_relplot(confidence, correct) == pytest.approx(expected, rel=0, abs=1e-12)
