"""The bootstrap: one draw for all cells, what cannot be seen, the floor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import metrics
from analysis.inference import estimates as inference
from analysis.inference.bootstrap import resample
from analysis.inference.changes import change
from study.bins import bin_predictions
from tests.analysis.one_cell import bootstrap

stats = pytest.importorskip("scipy.stats")

IDS = [f"q{i}" for i in range(400)]
REPLICATIONS = 1000


def skill(rng: np.random.Generator, confidence: np.ndarray, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Chance to be right, and whether right, of a model that is over-confident with a slope above 0."""
    chance = confidence - slope * (confidence - 0.1)
    return chance, rng.uniform(size=len(confidence)) < chance


def draw_confidence(rng: np.random.Generator, size: int) -> np.ndarray:
    return 0.25 + 0.75 * rng.beta(3, 2, size)


@pytest.mark.parametrize("chance", [0.95, 0.05])
def test_a_cell_without_a_wrong_answer_covers_what_it_cannot_show(chance: float) -> None:
    """30 questions, all right (or wrong) by luck: accuracy, gap and ECE of the model all lie inside."""
    confidence = np.repeat([0.80, 0.81], 15)
    gap = confidence - chance
    resamples = resample(IDS[:30], num_replicates=200)
    found = bootstrap(resamples, resamples.rows(IDS[:30]), confidence, np.full(30, chance > 0.5))
    truth = {"accuracy": chance, "gap": float(gap.mean()), "ece_l2": float(np.abs(gap).mean())}
    for name, value in truth.items():
        low, high = inference.interval(found[name])
        assert low < value < high, name
    # without what cannot be seen none of them would
    for name, value in truth.items():
        if name == "ece_l2":
            continue
        draws = found[name].draws
        assert not draws.min() <= value <= draws.max(), name


@pytest.mark.parametrize("correct", [1.0, 0.0])
def test_a_macro_mean_without_a_wrong_answer_covers_what_it_cannot_show(correct: float) -> None:
    """Two languages of 30 questions and one of 2, all right (or wrong) by luck."""
    resamples = resample(IDS[:30], num_replicates=200)
    chances = [abs(correct - wrong) for wrong in (0.02, 0.02, 0.6)]
    cells, gaps = [], []
    for chance, size in zip(chances, (30, 30, 2), strict=True):
        confidence = np.resize([0.81, 0.82], size)
        cells.append(bootstrap(resamples, resamples.rows(IDS[:size]), confidence, np.full(size, correct)))
        gaps.append(float(confidence.mean()) - chance)
    truth = {"accuracy": np.mean(chances), "gap": np.mean(gaps), "ece_l2": np.sqrt(np.mean(np.square(gaps)))}
    for name, value in truth.items():
        combined = inference.mean([cell[name] for cell in cells])
        assert combined is not None
        low, high = inference.interval(combined)
        assert low < value < high, name


def test_what_both_sides_leave_unseen_is_in_no_difference() -> None:
    """205 questions: it says as much whether all answers of both are right, or all but the same one."""
    ids = [f"q{k}" for k in range(205)]
    resamples = resample(ids)
    rows = resamples.rows(ids)
    for correct in (np.ones(205), np.arange(205) > 0):
        a, b = (bootstrap(resamples, rows, np.full(205, sure), correct) for sure in (0.90, 0.88))
        for name, expected in {"accuracy": 0.0, "confidence": 0.02, "gap": 0.02}.items():
            paired = change(a[name], b[name])
            assert (paired.low, paired.high) == pytest.approx((expected, expected), abs=1e-9), name
            p = 1.0 if name == "accuracy" else pytest.approx(stats.binomtest(205, 205).pvalue)
            assert paired.p_value == p, name


# --- one draw for all cells
# ---------------------------------------------------------------------------------------


def test_replicates_are_those_of_resampled_rows() -> None:
    """The replicates of means, against rows repeated one by one."""
    rng = np.random.default_rng(4)
    confidence = draw_confidence(rng, 400)
    correct = skill(rng, confidence, 0.3)[1]
    nll = rng.exponential(size=400)
    resamples = resample(IDS, num_replicates=100, seed=5)
    estimates = bootstrap(resamples, resamples.rows(IDS), confidence, correct, {"nll": nll})
    order = np.argsort(np.array(IDS))  # counts are in the order of sorted ids
    for replicate in range(100):
        rows = np.repeat(order, resamples.counts[replicate].astype(int))
        assert len(rows) == 400
        assert estimates["accuracy"].draws[replicate] == pytest.approx(metrics.accuracy(correct[rows]))
        assert estimates["gap"].draws[replicate] == pytest.approx(
            metrics.confidence_gap(confidence[rows], correct[rows])
        )
        assert estimates["nll"].draws[replicate] == pytest.approx(nll[rows].mean())


@given(st.permutations(IDS[:20]), st.integers(0, 2**32))
def test_the_order_of_rows_does_not_matter(ids: Sequence[str], seed: int) -> None:
    values = {name: k / 20 for k, name in enumerate(IDS[:20])}
    first, second = (
        resample(IDS[:20], num_replicates=100, seed=seed),
        resample(ids, num_replicates=100, seed=seed),
    )
    assert np.array_equal(first.counts, second.counts)
    confidence = np.array([values[name] for name in ids])
    a = bootstrap(second, second.rows(ids), confidence, confidence > 0.5)["ece_l2"]
    combined = np.array([values[name] for name in IDS[:20]])
    b = bootstrap(first, first.rows(IDS[:20]), combined, combined > 0.5)["ece_l2"]
    assert a.value == pytest.approx(b.value)
    assert a.draws == pytest.approx(b.draws)


def test_rotations_of_a_question_stay_together() -> None:
    """Four copies of each question tell no more than one does."""
    rng = np.random.default_rng(7)
    confidence = draw_confidence(rng, 400)
    correct = skill(rng, confidence, 0.2)[1]
    resamples = resample(IDS)
    once = bootstrap(resamples, resamples.rows(IDS), confidence, correct)
    four = bootstrap(resamples, resamples.rows(IDS * 4), np.tile(confidence, 4), np.tile(correct, 4))
    for name in ("accuracy", "gap", "ece_l2"):
        assert inference.interval(four[name]) == pytest.approx(inference.interval(once[name]))


def test_examples_that_were_not_resampled_raise() -> None:
    resamples = resample(IDS, num_replicates=100)
    with pytest.raises(ValueError, match=r"^1 examples were not resampled, such as 'other'\.$"):
        resamples.rows([*IDS, "other"])
    with pytest.raises(ValueError, match="empty"):
        resample([])
    with pytest.raises(ValueError, match="at least 100"):
        resample(IDS, num_replicates=10)


def test_bad_input_raises() -> None:
    resamples = resample(IDS, num_replicates=100)
    rows, fine = resamples.rows(IDS), np.full(400, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        bootstrap(resamples, rows, np.full(400, math.nan), np.ones(400))
    with pytest.raises(ValueError, match="rows has shape"):
        bootstrap(resamples, rows[:-1], fine, np.ones(400))
    with pytest.raises(ValueError, match="nll has NaN"):
        bootstrap(resamples, rows, fine, np.ones(400), {"nll": np.full(400, math.nan)})
    with pytest.raises(ValueError, match="nll has 3"):
        bootstrap(resamples, rows, fine, np.ones(400), {"nll": np.ones(3)})
    with pytest.raises(ValueError, match="computed here"):
        bootstrap(resamples, rows, fine, np.ones(400), {"accuracy": fine})


# --- the null floor
# -----------------------------------------------------------------------------------------------


def test_the_floor_is_what_calibrated_models_show() -> None:
    rng = np.random.default_rng(8)
    confidence = draw_confidence(rng, 588)
    shown = [metrics.ece(confidence, rng.uniform(size=588) < confidence) for _ in range(500)]
    bins = bin_predictions(confidence, np.zeros(588))
    assert metrics.floor_over_bins(bins) == pytest.approx(np.mean(shown), rel=0.05)


def test_a_certain_model_has_no_floor() -> None:
    assert metrics.floor_over_bins(bin_predictions([0.0, 1.0, 1.0], [0, 1, 1])) == 0.0
