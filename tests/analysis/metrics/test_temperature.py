"""Temperature scaling: against SciPy and known temperatures; folds and splits do not leak."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from analysis import metrics
from analysis.metrics import temperature
from analysis.metrics.temperature import MIN_AGREEING, NotFittedError, Sample
from study.bins import FloatArray

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


def assert_minimum(fitted: float, score: FloatArray, target: FloatArray) -> None:
    """1 / T is where SciPy finds the least cross-entropy of `target` and softmax(score / T).

    Where every target is the best option there is no minimum: the cross-entropy falls for ever, and is 0 in
    float64 long before the end of the range, so that SciPy may stop anywhere there.
    """

    def cross_entropy(inverse: float) -> float:
        return float(-np.mean(np.sum(target * special.log_softmax(score * inverse, axis=1), axis=1)))

    best = optimize.minimize_scalar(
        cross_entropy, bounds=(0.01, 100.0), method="bounded", options={"xatol": 1e-10}
    )
    assert cross_entropy(1 / fitted) <= best.fun + 1e-9
    if (target[np.arange(len(score)), score.argmax(axis=1)] == 1.0).all():
        assert fitted == temperature.COLDEST
    elif 0.02 < best.x < 90:
        assert 1 / fitted == pytest.approx(best.x, rel=1e-3, abs=1e-4)


@given(st.integers(0, 1000), st.integers(5, 60))
@example(902, 5)  # all labels are right
def test_the_fit_is_scipys_minimum(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    score, label = rng.normal(size=(size, 3)) * 2, rng.integers(0, 3, size)
    assert_minimum(fit(score, label), score, np.eye(3)[label])


@given(st.integers(0, 1000), st.floats(0.1, 5.0))
def test_the_fit_without_labels_is_scipys_minimum_over_agreeing_items(seed: int, slope: float) -> None:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(150, 3))
    score = slope * base + rng.normal(size=(150, 3)) * 0.3
    fitted = temperature.label_free({"en": (score, base)}, ["en"], "per_language")["en"]
    agree = score.argmax(axis=1) == base.argmax(axis=1)
    assert_minimum(fitted, score[agree], special.softmax(base[agree], axis=1))


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


# --- without labels
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "slope", "noise"), [(0, 2.0, 0.3), (1, 4.0, 0.5), (2, 4.0, 1.0)])
def test_without_labels_the_ece_is_that_of_the_labels_where_the_base_is_calibrated(
    seed: int, slope: float, noise: float
) -> None:
    """The base knows the odds of each label; training made it sharper, and noisy."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(2850, 4)) * 1.5
    label = np.array([rng.choice(4, p=odds) for odds in special.softmax(base, axis=1)])
    score = slope * base + rng.normal(size=base.shape) * noise

    def ece(at: float) -> float:
        log_probs = special.log_softmax(score / at, axis=1)
        return metrics.ece(np.exp(log_probs.max(axis=1)), log_probs.argmax(axis=1) == label)

    free = temperature.label_free({"en": (score, base)}, ["en"], "per_language")["en"]
    assert ece(free) == pytest.approx(ece(fit(score, label)), abs=0.01)
    assert ece(free) < ece(1.0) - 0.1
    # disagreeing items would have made it too warm
    everything = optimize.minimize_scalar(
        lambda at: -np.sum(special.softmax(base, axis=1) * special.log_softmax(score / at, axis=1)),
        bounds=(0.01, 100.0),
        method="bounded",
    )
    assert free < everything.x


def test_schemes_without_labels() -> None:
    """Two languages, sharper by 2 and by 4, whose base has fewer options for every other item."""
    rng = np.random.default_rng(1)
    pairs = {}
    for code, slope in (("en", 2.0), ("sw", 4.0)):
        base = rng.normal(size=(200, 4))
        base[::2, 2:] = -np.inf
        pairs[code] = (base * slope, base)
    own = temperature.label_free(pairs, ["en", "sw"], "per_language")
    assert own == pytest.approx({"en": 2.0, "sw": 4.0})
    assert temperature.label_free(pairs, ["sw"], "english") == pytest.approx({"sw": 2.0})
    everywhere = temperature.label_free(pairs, ["en", "sw"], "global")
    assert 2.0 < everywhere["en"] == everywhere["sw"] < 4.0


def test_too_little_agreement_and_other_options_fit_nothing() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(MIN_AGREEING + 20, 3))
    score = np.where(np.arange(len(base))[:, None] < MIN_AGREEING - 1, 2.0 * base, -base)
    with pytest.raises(NotFittedError, match=r"^agrees with the base on 49 of 70 items, 50 are needed$"):
        temperature.label_free({"sw": (score, base)}, ["sw"], "per_language")
    both = {"sw": (score, base), "en": (base, base)}
    assert temperature.label_free(both, ["sw"], "global")["sw"] > 0.0  # 119 together
    with pytest.raises(NotFittedError, match="on 0 of 70 items"):
        temperature.label_free({"sw": (-base, base)}, ["sw"], "per_language")
    fewer = np.where(np.arange(3) < 2, base, -np.inf)
    with pytest.raises(NotFittedError, match="other options"):
        temperature.label_free({"sw": (fewer, base)}, ["sw"], "per_language")
