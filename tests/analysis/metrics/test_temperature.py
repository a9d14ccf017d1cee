"""Temperature scaling: against SciPy and known temperatures; folds and splits do not leak."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from analysis import metrics
from analysis.metrics import temperature
from analysis.metrics.temperature import Sample

optimize = pytest.importorskip("scipy.optimize")
special = pytest.importorskip("scipy.special")


def draw(rng: np.random.Generator, true: float, size: int = 4000, prefix: str = "q") -> Sample:
    """Labels from softmax(score / true); every other example has two of four options."""
    score = rng.normal(size=(size, 4)) * 3
    score[::2, 2:] = -np.inf
    weight = np.exp(score / true)
    label = [rng.choice(4, p=row / row.sum()) for row in weight]
    return Sample([f"{prefix}{k}" for k in range(size)], score, np.array(label))


def fit(score: ArrayLike, label: ArrayLike) -> float:
    """The temperature of one language's examples."""
    sample = Sample([], np.asarray(score), np.asarray(label))
    return temperature.fit_temperatures({"en": sample}, ["en"], "per_language")["en"]


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true: float) -> None:
    sample = draw(np.random.default_rng(1), true)
    assert fit(sample.score, sample.label) == pytest.approx(true, rel=0.07)


@given(st.integers(0, 1000), st.integers(5, 60))
def test_the_fit_is_scipys_minimum(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    score, label = rng.normal(size=(size, 3)) * 2, rng.integers(0, 3, size)
    fitted = fit(score, label)

    def nll(inverse: float) -> float:
        return float(-np.mean(special.log_softmax(score * inverse, axis=1)[np.arange(size), label]))

    best = optimize.minimize_scalar(nll, bounds=(0.01, 100.0), method="bounded", options={"xatol": 1e-10})
    assert nll(1 / fitted) <= best.fun + 1e-9
    if 0.02 < best.x < 90:
        assert 1 / fitted == pytest.approx(best.x, rel=1e-3, abs=1e-4)


def test_scaled_log_probs_are_scipys() -> None:
    sample = draw(np.random.default_rng(2), 1.0, size=50)
    ours = temperature.scaled_log_probs(sample.score, 2.5)
    assert ours == pytest.approx(special.log_softmax(sample.score / 2.5, axis=1))
    assert np.isneginf(ours[::2, 2:]).all()
    assert np.array_equal(ours.argmax(axis=1), sample.score.argmax(axis=1))  # accuracy stays


def test_ends_of_the_range() -> None:
    assert fit([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == temperature.COLDEST
    assert fit([[1.0, 0.0], [0.0, 1.0]], [1, 0]) == temperature.HOTTEST
    assert fit([[1000.0, 0.0]] * 3, [0, 0, 1]) == temperature.HOTTEST
    # two of three right at a score of s ahead: log 2 = s / T
    assert fit([[1.0, 0.0]] * 3, [0, 0, 1]) == pytest.approx(1 / math.log(2))


def test_schemes() -> None:
    rng = np.random.default_rng(3)
    samples = {"en": draw(rng, 1.0), "sw": draw(rng, 4.0)}
    languages = ["en", "sw"]
    own = temperature.fit_temperatures(samples, languages, "per_language")
    english = temperature.fit_temperatures(samples, [*languages, "yo"], "english")
    everywhere = temperature.fit_temperatures(samples, languages, "global")
    assert own["en"] == pytest.approx(1.0, rel=0.1)
    assert own["sw"] == pytest.approx(4.0, rel=0.1)
    assert english == dict.fromkeys(["en", "sw", "yo"], own["en"])
    assert everywhere["en"] == everywhere["sw"]
    assert own["en"] < everywhere["en"] < own["sw"]
    with pytest.raises(ValueError, match="need examples of en"):
        temperature.fit_temperatures({"sw": samples["sw"]}, ["sw"], "english")
    with pytest.raises(ValueError, match="need examples of yo"):
        temperature.fit_temperatures(samples, ["en", "yo"], "per_language")
    with pytest.raises(ValueError, match="global, english, per_language, not 'best'"):
        temperature.fit_temperatures(samples, languages, "best")


def test_global_fits_languages_that_differ_in_options() -> None:
    rng = np.random.default_rng(4)
    wide = draw(rng, 2.0, size=500)
    narrow = Sample(wide.example_ids, wide.score[:, :3], np.minimum(wide.label, 2))
    once = temperature.fit_temperatures({"en": wide, "sw": narrow}, ["en", "sw"], "global")
    padded = np.concatenate([narrow.score, np.full((500, 1), -np.inf)], axis=1)
    expected = fit(np.concatenate([wide.score, padded]), np.concatenate([wide.label, narrow.label]))
    assert once["en"] == pytest.approx(expected, rel=1e-9)


def test_validated_lowers_the_nll_of_the_test_split() -> None:
    rng = np.random.default_rng(5)
    test = {"en": draw(rng, 2.0, 1000), "sw": draw(rng, 5.0, 1000)}
    validation = {code: draw(rng, true, 300, prefix="v") for code, true in (("en", 2.0), ("sw", 5.0))}

    def nll(log_probs: np.ndarray, sample: Sample) -> float:
        return float(-log_probs[np.arange(len(sample.label)), sample.label].mean())

    plain = nll(temperature.scaled_log_probs(test["sw"].score, 1.0), test["sw"])
    english = nll(temperature.validated(test, validation, "english")["sw"].log_probs, test["sw"])
    own = temperature.validated(test, validation, "per_language")["sw"].log_probs
    assert nll(own, test["sw"]) < english < plain
    conf, hit = np.exp(own.max(axis=1)), own.argmax(axis=1) == test["sw"].label
    raw = temperature.scaled_log_probs(test["sw"].score, 1.0)
    assert metrics.ece(conf, hit) < metrics.ece(np.exp(raw.max(axis=1)), hit) - 0.1


def test_a_question_in_both_splits_raises() -> None:
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match=r"^3 examples are in both splits, such as 'q0'$"):
        temperature.validated({"en": draw(rng, 1.0, 3)}, {"sw": draw(rng, 1.0, 9)}, "global")


def test_cross_fitting_does_not_see_the_example() -> None:
    """Another label for one example, in each language, leaves its own log-probabilities as they are."""
    rng = np.random.default_rng(7)
    samples = {"en": draw(rng, 1.0, 60), "sw": draw(rng, 3.0, 60)}
    for scheme in ("global", "english", "per_language"):
        before = temperature.cross_fitted(samples, scheme)
        others = []
        for row in (1, 7, 33):
            changed = {
                code: Sample(s.example_ids, s.score, np.where(np.arange(60) == row, 1 - s.label % 2, s.label))
                for code, s in samples.items()
            }
            after = temperature.cross_fitted(changed, scheme)
            for code in samples:
                assert np.array_equal(after[code].log_probs[row], before[code].log_probs[row])
                others.append(not np.array_equal(after[code].log_probs, before[code].log_probs))
        assert all(others)


def test_cross_fitting_does_not_depend_on_the_order() -> None:
    sample = draw(np.random.default_rng(8), 2.0, 200)
    order = np.random.default_rng(9).permutation(200)
    turned = Sample([sample.example_ids[k] for k in order], sample.score[order], sample.label[order])
    one = temperature.cross_fitted({"en": sample}, "global")["en"].log_probs
    two = temperature.cross_fitted({"en": turned}, "global")["en"].log_probs
    assert np.isfinite(one.max(axis=1)).all()
    assert np.where(np.isinf(two), -1e9, two) == pytest.approx(np.where(np.isinf(one), -1e9, one)[order])


@pytest.mark.parametrize(
    ("score", "label"),
    [
        ([[0.0, math.nan]], [0]),
        ([[0.0, math.inf]], [0]),
        ([[0.0, -math.inf]], [0]),
        ([[0.0, 1.0, -math.inf]], [2]),
        ([[0.0, 1.0]], [2]),
        ([[0.0, 1.0]], [-1]),
        ([[0.0, 1.0]], [0.0]),
        ([[0.0, 1.0]], [0, 1]),
        ([0.0, 1.0], [0]),
    ],
)
def test_bad_scores_and_labels_raise(score: list[list[float]], label: list[int]) -> None:
    with pytest.raises(ValueError, match=r"score|label"):
        fit(score, label)


def test_bad_temperatures_and_folds_raise() -> None:
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            temperature.scaled_log_probs([[0.0, 1.0]], bad)
    with pytest.raises(ValueError, match="num_folds"):
        temperature.cross_fitted({"en": draw(np.random.default_rng(1), 1.0, 9)}, "global", num_folds=1)
