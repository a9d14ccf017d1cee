"""Temperature scaling, the usual remedy that label smoothing has to beat: p = softmax(scores / T).

One number T is fitted to the NLL of examples other than those reported: a validation split or, if there is
none, the other folds of the test split (`cross_fitted`). Accuracy does not change. T above 1 lowers
confidence. Scaling acts on the softmax over the options, so there is no `raw` confidence after it.

Schemes: `global`, one T for all languages; `english`, the T of English for all, as if there were no other
data; `per_language`.

Without labels (`label_free`, after DACA, arXiv 2505.16690): where a trained model and its base choose the
same option, T brings the trained model's probabilities closest to those of the base, by the Kullback-Leibler
divergence. Where they choose differently the base's low confidence would say nothing of the other choice, and
T would be too warm, so these items are left out. A base that is not calibrated is copied as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.bins import FloatArray

Scheme = Literal["global", "english", "per_language"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
COLDEST, HOTTEST = 0.01, 100.0
NUM_FOLDS = 5
MIN_AGREEING = 50
"""Items on which both models agree; fewer fit no T."""
MAX_TURNS = 400
TOLERANCE, EDGE = 1e-10, 1e-8
"""Precision of log T, and how close to an end of the range it counts as the end."""


class NotFittedError(ValueError):
    """There are no examples to fit a temperature on, or none on which it may be fitted."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Examples of one language."""

    example_ids: Sequence[str] | NDArray[np.str_]
    score: FloatArray
    """(N, C) nats; -inf where there is no option."""
    label: NDArray[np.int64]
    """(N,), 0..C-1."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """Examples of one language after scaling."""

    log_probs: FloatArray
    """(N, C) nats, over the options; -inf where there is no option."""
    temperature: float
    """Over several folds the geometric mean."""


Part = tuple[FloatArray, FloatArray]
"""(C, N) scores minus the best score of the example, and (N,) the one of the label, or the one to expect."""


def _prepared(score: ArrayLike, label: ArrayLike) -> Part:
    s, y = _check(score, label)
    shifted = _shifted(s)
    return shifted, shifted[y, np.arange(len(y))]


def _shifted(score: FloatArray) -> FloatArray:
    # not -inf, which times a weight of 0 is NaN; its square is finite, and exp(-1e100 / T) is 0 for any T
    shifted = np.maximum(score - score.max(axis=1, keepdims=True), -1e100)
    # transposed: sums over few options are slow along the last axis
    return np.ascontiguousarray(shifted.T)


def _fit(parts: Sequence[Part]) -> float:
    """T with the least NLL: it is convex in 1 / T. Newton steps in log(1 / T), bisection where one leaves the
    bracket.
    """

    def slope(log_inverse: float) -> tuple[float, float]:
        """The derivatives of the summed NLL in 1 / T: E[score] - score of the label, and the variance."""
        first = second = 0.0
        for shifted, wanted in parts:
            weight = np.exp(shifted * np.exp(log_inverse))
            weight /= weight.sum(axis=0)
            weight *= shifted
            mean = weight.sum(axis=0)
            weight *= shifted
            first += float((mean - wanted).sum())
            second += float((weight.sum(axis=0) - mean**2).sum())
        return first, second

    low, high = lowest, highest = -np.log(HOTTEST), -np.log(COLDEST)
    point = 0.0
    for turn in range(MAX_TURNS):
        first, second = slope(point)
        low, high = (point, high) if first < 0.0 else (low, point)
        step = -first / (second * np.exp(point)) if second > 0.0 else np.inf
        target = point + step
        if not low < target < high or turn % 8 == 7:  # every eighth time, so that the bracket always shrinks
            target = (low + high) / 2.0
        step, point = target - point, target
        if abs(step) < TOLERANCE:
            break
    return HOTTEST if point - lowest < EDGE else COLDEST if highest - point < EDGE else float(np.exp(-point))


def scaled_log_probs(score: ArrayLike, temperature: float) -> FloatArray:
    """(N, C) nats: log softmax(score / temperature); -inf stays -inf. Raises ValueError as the fit does."""
    if not (np.isfinite(temperature) and temperature > 0.0):
        raise ValueError(f"temperature must be above 0, not {temperature!r}.")
    s = check_score(score)
    scaled = (s - s.max(axis=1, keepdims=True)) / temperature
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)), dtype=np.float64)


def fit_temperature(score: ArrayLike, label: ArrayLike) -> float:
    """T of one set of examples, as `fit_temperatures`. score: (N, C) nats. label: (N,), 0..C-1."""
    return _fit([_prepared(score, label)])


def fit_temperatures(
    samples: Mapping[str, Sample], languages: Sequence[str], scheme: str
) -> dict[str, float]:
    """T for each of `languages`, from `samples` by language code.

    Each T minimises the NLL of softmax(score / T) in 0.01..100. If there is no minimum inside, the end of the
    range is returned: 0.01 if all labels are right (any T is too warm), 100 for scores worse than chance.
    global: every example counts the same. Raises ValueError for NaN, an example without two options, a label
    that is not an option, and an unknown scheme; NotFittedError if a language that the scheme fits on has no
    example.
    """
    needed = _needed([code for code in samples if len(samples[code].label)], samples, languages, scheme)
    parts = {code: _prepared(samples[code].score, samples[code].label) for code in needed}
    return _by_language(parts, languages, scheme)


def agreement(score: ArrayLike, base_score: ArrayLike) -> NDArray[np.bool_]:
    """(N,) whether a model and its base choose the same option; the first option wins a tie.

    score, base_score: (N, C) nats, of the same items in the same order; -inf where there is no option. Raises
    ValueError as the fit does, NotFittedError where an item has other options in one of them.
    """
    ours, theirs = check_score(score), check_score(base_score)
    if ours.shape != theirs.shape or not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        raise NotFittedError("the base was asked other options")
    return np.asarray(ours.argmax(axis=1) == theirs.argmax(axis=1))


def label_free(
    pairs: Mapping[str, tuple[FloatArray, FloatArray]], languages: Sequence[str], scheme: str
) -> dict[str, float]:
    """T for each of `languages`, without labels, from (score, base_score) by language code.

    Each T minimises the divergence of softmax(score / T) from softmax(base_score) over the items on which
    both agree. Otherwise as `fit_temperatures`; raises NotFittedError, too, where they agree on fewer than
    MIN_AGREEING items.
    """
    needed = _needed(list(pairs), pairs, languages, scheme)
    parts = {}
    for code in needed:
        agree = agreement(*pairs[code])
        score, base = (np.asarray(of_model, dtype=np.float64)[agree] for of_model in pairs[code])
        shifted = _shifted(score)
        target = np.exp(scaled_log_probs(base, 1.0)).T if agree.any() else shifted
        parts[code] = (shifted, (target * shifted).sum(axis=0))
    for group in [[code] for code in needed] if scheme == "per_language" else [needed]:
        count, total = (
            sum(parts[code][1].size for code in group),
            sum(len(pairs[code][0]) for code in group),
        )
        if count < MIN_AGREEING:
            raise NotFittedError(
                f"agrees with the base on {count} of {total} items, {MIN_AGREEING} are needed"
            )
    return _by_language(parts, languages, scheme)


def _needed(usable: Sequence[str], given: Iterable[str], languages: Sequence[str], scheme: str) -> list[str]:
    """The languages that a scheme fits on, all of them usable."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}.")
    needed = {"global": list(given), "english": ["en"], "per_language": list(languages)}[scheme]
    lacking = [code for code in needed if code not in usable]
    if lacking or not needed:
        raise NotFittedError(f"{scheme} temperatures need examples of {', '.join(lacking) or 'a language'}")
    return needed


def _by_language(parts: Mapping[str, Part], languages: Sequence[str], scheme: str) -> dict[str, float]:
    if scheme == "per_language":
        return {code: _fit([parts[code]]) for code in languages}
    return dict.fromkeys(languages, _fit(list(parts.values())))


def validated(test: Mapping[str, Sample], validation: Mapping[str, Sample], scheme: str) -> dict[str, Scaled]:
    """The test examples at temperatures fitted on a validation split.

    Raises NotFittedError if an example id is in both splits, in any language: items are parallel, so a test
    question in another language is still that question.
    """
    both = _ids(test) & _ids(validation)
    if both:
        raise NotFittedError(f"{len(both)} examples are in both splits, such as '{min(both)}'")
    fitted = fit_temperatures(validation, list(test), scheme)
    return {
        code: Scaled(scaled_log_probs(sample.score, fitted[code]), fitted[code])
        for code, sample in test.items()
    }


def cross_fitted(
    samples: Mapping[str, Sample], scheme: str, *, num_folds: int = NUM_FOLDS
) -> dict[str, Scaled]:
    """All examples, each at a temperature fitted on the other folds.

    The fold of an example is a hash of its id: the same in all languages, whatever the order of rows. Raises
    NotFittedError if a fold leaves a language without examples to fit on.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, not {num_folds}.")
    folds = {code: _folds(sample.example_ids, num_folds) for code, sample in samples.items()}
    log_probs = {code: np.full(sample.score.shape, np.nan) for code, sample in samples.items()}
    temperatures: dict[str, list[float]] = {code: [] for code in samples}
    for fold in range(num_folds):
        fitted_on = (
            samples if scheme != "english" else {code: samples[code] for code in samples if code == "en"}
        )
        other_folds = {code: _part(sample, folds[code] != fold) for code, sample in fitted_on.items()}
        fitted = fit_temperatures(other_folds, list(samples), scheme)
        for code, sample in samples.items():
            rows = folds[code] == fold
            temperatures[code].append(fitted[code])
            if rows.any():
                log_probs[code][rows] = scaled_log_probs(sample.score[rows], fitted[code])
    return {
        code: Scaled(log_probs[code], float(np.exp(np.mean(np.log(several)))))
        for code, several in temperatures.items()
    }


def _folds(example_ids: Sequence[str] | NDArray[np.str_], num_folds: int) -> NDArray[np.int64]:
    return _folds_of(tuple(np.asarray(example_ids).tolist()), num_folds)


@lru_cache(maxsize=64)
def _folds_of(example_ids: tuple[str, ...], num_folds: int) -> NDArray[np.int64]:
    """Cached: items are parallel, so all languages, cells and schemes have the same folds."""
    return np.array([zlib.crc32(name.encode()) % num_folds for name in example_ids], dtype=np.int64)


def _part(sample: Sample, keep: NDArray[np.bool_]) -> Sample:
    return Sample(np.asarray(sample.example_ids)[keep], sample.score[keep], sample.label[keep])


def _ids(samples: Mapping[str, Sample]) -> set[str]:
    return {name for sample in samples.values() for name in sample.example_ids}


def _check(score: ArrayLike, label: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    s = check_score(score)
    y = np.asarray(label)
    if y.dtype.kind not in "iu" or y.shape != s.shape[:1]:
        raise ValueError(f"label must be {len(s)} whole numbers, not {y.dtype} of shape {y.shape}.")
    if y.min() < 0 or y.max() >= s.shape[1] or not np.isfinite(s[np.arange(len(y)), y]).all():
        raise ValueError("a label is not one of the options of its example.")
    return s, y.astype(np.int64)


def check_score(score: ArrayLike) -> FloatArray:
    """`score` as float64 (N, C), at least two options an example and -inf for none, or ValueError."""
    if np.ma.is_masked(score):
        raise ValueError("score has masked (missing) values.")
    s = np.asarray(score, dtype=np.float64)
    if s.ndim != 2 or s.size == 0:
        raise ValueError(f"score must be (N, C) and not empty, not of shape {s.shape}.")
    if np.isnan(s).any() or np.isposinf(s).any():
        raise ValueError("score has NaN or infinite values.")
    if (np.isfinite(s).sum(axis=1) < 2).any():
        raise ValueError("every example needs scores of at least 2 options.")
    return s
