"""The bootstrap: coverage by simulation, pairing, seeds as a level, Holm, the null floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import metrics
from analysis.inference import estimates as inference
from analysis.inference.bootstrap import resample
from study.bins import bin_predictions, equal_width_edges
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
    truth = {"accuracy": chance, "gap": float(gap.mean()), "ece": float(np.abs(gap).mean())}
    for name, value in truth.items():
        low, high = inference.interval(found[name])
        assert low < value < high, name
    # without what cannot be seen none of them would
    for name, value in truth.items():
        draws = found[name].draws
        assert not draws.min() <= value <= draws.max(), name


@pytest.mark.parametrize("correct", [1.0, 0.0])
def test_a_macro_mean_without_a_wrong_answer_covers_what_it_cannot_show(correct: float) -> None:
    """Two languages of 30 questions and one of 2, all right (or wrong) by luck."""
    resamples = resample(IDS[:30], num_replicates=200)
    chances = [abs(correct - wrong) for wrong in (0.02, 0.02, 0.6)]
    cells, gaps = [], []
    for chance, size in zip(chances, (30, 30, 2), strict=True):
        confidence = np.resize([0.80, 0.81], size)
        cells.append(bootstrap(resamples, resamples.rows(IDS[:size]), confidence, np.full(size, correct)))
        gaps.append(float(confidence.mean()) - chance)
    truth = {"accuracy": np.mean(chances), "gap": np.mean(gaps), "ece": np.mean(np.abs(gaps))}
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
        for name, expected in {"accuracy": 0.0, "confidence": 0.02, "gap": 0.02, "ece": -0.02}.items():
            paired = inference.difference(a[name], b[name])
            assert inference.interval(paired) == pytest.approx((expected, expected), abs=1e-9), name
            p = inference.p_value(paired)
            assert p == (1.0 if name == "accuracy" else pytest.approx(stats.binomtest(205, 205).pvalue)), name


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.4, 0.05, 0.0], ids=["over-confident", "near its floor", "calibrated"])
def test_coverage_of_the_intervals(slope: float) -> None:
    """95% nominal, over 1,000 samples of 400 questions; replicates are drawn anew every 100 samples."""
    rng = np.random.default_rng(1)
    confidence = draw_confidence(rng, 1_000_000)
    chance, _ = skill(rng, confidence, slope)
    index = np.searchsorted(equal_width_edges(15)[1:], confidence)
    truth = {
        "ece": float(np.abs(np.bincount(index, confidence - chance)).sum()) / len(confidence),
        "gap": float(np.mean(confidence - chance)),
        "accuracy": float(np.mean(chance)),
    }
    covered = dict.fromkeys(truth, 0)
    for sample in range(REPLICATIONS):
        if sample % 100 == 0:
            resamples = resample(IDS, seed=sample)
            rows = resamples.rows(IDS)
        confidence = draw_confidence(rng, 400)
        estimates = bootstrap(resamples, rows, confidence, skill(rng, confidence, slope)[1])
        for name, value in truth.items():
            low, high = inference.interval(estimates[name])
            covered[name] += low <= value <= high
    for name, count in covered.items():
        assert 0.935 <= count / REPLICATIONS <= 0.965, name


@pytest.mark.slow
def test_coverage_of_a_paired_difference_and_its_test() -> None:
    """Two models share what is hard: pairs cover as nominal, and unpaired intervals are too wide."""
    rng = np.random.default_rng(2)
    covered = found = 0
    widths = []
    for sample in range(REPLICATIONS):
        if sample % 100 == 0:
            resamples, others = resample(IDS, seed=sample), resample(IDS, seed=-sample + 10**6)
            rows = resamples.rows(IDS)
        luck = rng.uniform(size=400)  # the question's, in both models
        a, b = draw_confidence(rng, 400), draw_confidence(rng, 400)
        right_a, right_b = luck < a - 0.1, luck < b - 0.1
        one = bootstrap(resamples, rows, a, right_a)["accuracy"]
        two = bootstrap(resamples, rows, b, right_b)["accuracy"]
        paired = inference.difference(one, two)
        low, high = inference.interval(paired)
        covered += low <= 0.0 <= high
        found += inference.p_value(paired) < 0.05
        if sample < 20:
            apart = bootstrap(others, rows, b, right_b)["accuracy"]
            wide = inference.interval(inference.difference(one, apart))
            widths.append((high - low) / (wide[1] - wide[0]))
    assert 0.935 <= covered / REPLICATIONS <= 0.965
    assert 0.035 <= found / REPLICATIONS <= 0.065
    assert np.mean(widths) < 0.6


@pytest.mark.slow
def test_coverage_over_three_seeds() -> None:
    """The truth is the mean over all seeds that there could be; three show too little of their spread."""
    rng = np.random.default_rng(3)
    level_only_of_items = covered = 0
    for sample in range(REPLICATIONS):
        if sample % 100 == 0:
            resamples = resample(IDS, num_replicates=500, seed=sample)
            rows = resamples.rows(IDS)
        runs = []
        for effect in rng.normal(0.0, 0.04, 3):
            values = {"score": 0.3 + effect + rng.normal(0.0, 0.2, 400)}
            runs.append(bootstrap(resamples, rows, np.full(400, 0.5), np.ones(400), values)["score"])
        combined = inference.over_seeds(runs)
        assert combined is not None
        low, high = inference.interval(combined, seed=sample)
        covered += low <= 0.3 <= high
        low, high = inference.interval(replace(combined, seeds=()))
        level_only_of_items += low <= 0.3 <= high
    assert 0.935 <= covered / REPLICATIONS <= 0.965
    assert level_only_of_items / REPLICATIONS < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.4, 0.05], ids=["over-confident", "near its floor"])
def test_coverage_of_a_macro_mean(slope: float) -> None:
    """Over 20 languages noise averages out, and bias does not: without its allowance half is missed."""
    rng = np.random.default_rng(9)
    truth = slope * (0.25 + 0.75 * 0.6 - 0.1)  # every bin is over-confident: the ECE is the gap
    covered = without = 0
    for sample in range(100):
        if sample % 10 == 0:
            resamples = resample(IDS, num_replicates=300, seed=sample)
            rows = resamples.rows(IDS)
        cells = []
        for _ in range(20):
            confidence = draw_confidence(rng, 400)
            cells.append(bootstrap(resamples, rows, confidence, skill(rng, confidence, slope)[1])["ece"])
        combined = inference.mean(cells)
        assert combined is not None
        low, high = inference.interval(combined)
        covered += low <= truth <= high
        without += low + combined.slack[0] <= truth <= high
    assert covered >= 90
    assert (without < 70) == (slope == 0.05)


# --- one draw for all cells
# ---------------------------------------------------------------------------------------


def test_replicates_are_those_of_resampled_rows() -> None:
    """The replicates of means and of the signed error, against rows repeated one by one."""
    rng = np.random.default_rng(4)
    confidence = draw_confidence(rng, 400)
    correct = skill(rng, confidence, 0.3)[1]
    nll = rng.exponential(size=400)
    resamples = resample(IDS, num_replicates=100, seed=5)
    estimates = bootstrap(resamples, resamples.rows(IDS), confidence, correct, {"nll": nll})
    sign = np.sign(bin_predictions(confidence, correct).difference)
    index = np.searchsorted(equal_width_edges(15)[1:], confidence)
    order = np.argsort(np.array(IDS))  # counts are in the order of sorted ids
    shifts = []
    for replicate in range(100):
        rows = np.repeat(order, resamples.counts[replicate].astype(int))
        assert len(rows) == 400
        assert estimates["accuracy"].draws[replicate] == pytest.approx(metrics.accuracy(correct[rows]))
        assert estimates["gap"].draws[replicate] == pytest.approx(
            metrics.confidence_gap(confidence[rows], correct[rows])
        )
        assert estimates["nll"].draws[replicate] == pytest.approx(nll[rows].mean())
        signed = np.mean((sign[index] * (correct - confidence))[rows])
        shifts.append(signed - estimates["ece"].draws[replicate])
    assert np.ptp(shifts) < 1e-12  # the bias, the same for all
    assert estimates["ece"].value == pytest.approx(metrics.ece(confidence, correct), rel=1e-12)
    deviation = np.sqrt(400 * np.array([np.mean(index == b) for b in range(15)]))
    assert 0.0 < shifts[0] < deviation.sum() / 400


def test_the_bias_taken_off_is_the_bias() -> None:
    """Over samples of one model the mean of ECE less its bias is nearer the truth than the ECE."""
    rng = np.random.default_rng(6)
    resamples = resample(IDS, num_replicates=100)
    plain, corrected = [], []
    for _ in range(600):
        confidence = draw_confidence(rng, 400)
        estimate = bootstrap(resamples, resamples.rows(IDS), confidence, skill(rng, confidence, 0.1)[1])[
            "ece"
        ]
        plain.append(estimate.value)
        corrected.append(np.mean(estimate.draws))
    assert np.mean(plain) > 0.06 + 0.015  # 0.06: 0.1 (0.7 - 0.1)
    assert np.mean(corrected) == pytest.approx(0.06, abs=0.004)


@given(st.permutations(IDS[:20]), st.integers(0, 2**32))
def test_the_order_of_rows_does_not_matter(ids: Sequence[str], seed: int) -> None:
    values = {name: k / 20 for k, name in enumerate(IDS[:20])}
    first, second = (
        resample(IDS[:20], num_replicates=100, seed=seed),
        resample(ids, num_replicates=100, seed=seed),
    )
    assert np.array_equal(first.counts, second.counts)
    confidence = np.array([values[name] for name in ids])
    a = bootstrap(second, second.rows(ids), confidence, confidence > 0.5)["ece"]
    combined = np.array([values[name] for name in IDS[:20]])
    b = bootstrap(first, first.rows(IDS[:20]), combined, combined > 0.5)["ece"]
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
    for name in ("accuracy", "gap", "ece"):
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
        bootstrap(resamples, rows, fine, np.ones(400), {"ece": fine})


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
