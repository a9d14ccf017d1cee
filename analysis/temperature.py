"""Temperature scaling, the usual remedy that label smoothing has to beat: p = softmax(scores / T).

One number T is fitted to the NLL of examples that are not those reported: a validation split, or, where there
is none, the other folds of the test split (`cross_fitted`). It leaves accuracy as it is. T above 1 takes
confidence away. It acts on the softmax over the options, so it has no `raw` confidence.

Schemes: `global`, one T for all languages; `english`, that of English for all, as one would who has no other
data; `per_language`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.bins import FloatArray

Scheme = Literal["global", "english", "per_language"]
COLDEST, HOTTEST = 0.01, 100.0
NUM_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Sample:
    """Examples of one language."""

    example_ids: Sequence[str]
    score: FloatArray
    """(N, C) nats, as in `analysis.measure.Scored`; -inf where there is no option."""
    label: NDArray[np.int64]
    """(N,), 0..C-1."""


def fit_temperature(score: ArrayLike, label: ArrayLike) -> float:
    """The T in 0.01..100 that minimises the NLL of softmax(score / T).

    score: (N, C) nats, -inf where there is no option. label: (N,). The NLL is convex in 1 / T, so its slope
    is halved down to. The end of the range is the answer where there is no minimum inside: all labels right
    (0.01: any T is too warm), or scores worse than chance (100). Raises ValueError for NaN, an example
    without two options, and a label that is no option.
    """
    s, y = _check(score, label)
    there = np.isfinite(s)
    shifted = np.where(there, s - s.max(axis=1, keepdims=True), 0.0)
    of_label = shifted[np.arange(len(y)), y]

    def slope(log_inverse: float) -> float:
        """Of the NLL in 1 / T: the mean of E[score] - score of the label."""
        weight = np.where(there, np.exp(shifted * np.exp(log_inverse)), 0.0)
        return float(np.mean((weight * shifted).sum(axis=1) / weight.sum(axis=1) - of_label))

    low, high = -np.log(HOTTEST), -np.log(COLDEST)
    if slope(low) >= 0.0:
        return HOTTEST
    if slope(high) <= 0.0:
        return COLDEST
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
    return float(np.exp(-(low + high) / 2.0))


def scaled_log_probs(score: ArrayLike, temperature: float) -> FloatArray:
    """(N, C) nats: log softmax(score / temperature); -inf stays -inf. Raises ValueError as the fit does."""
    if not (np.isfinite(temperature) and temperature > 0.0):
        raise ValueError(f"temperature must be above 0, not {temperature!r}.")
    s = _check_score(score)
    scaled = (s - s.max(axis=1, keepdims=True)) / temperature
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)), dtype=np.float64)


def fit_temperatures(
    samples: Mapping[str, Sample], languages: Sequence[str], scheme: str
) -> dict[str, float]:
    """T for each of `languages`, from `samples` by language code.

    global: every example counts the same. Raises ValueError for an unknown scheme, and where a language that
    the scheme fits on has no sample.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme must be one of {', '.join(get_args(Scheme))}, not {scheme!r}.")
    needed = {"global": list(samples), "english": ["en"], "per_language": list(languages)}[scheme]
    lacking = [code for code in needed if code not in samples]
    if lacking or not needed:
        raise ValueError(f"{scheme} temperatures need examples of {', '.join(lacking) or 'a language'}.")
    if scheme == "per_language":
        return {code: fit_temperature(samples[code].score, samples[code].label) for code in languages}
    width = max(samples[code].score.shape[1] for code in needed)
    scores = [
        np.pad(s, ((0, 0), (0, width - s.shape[1])), constant_values=-np.inf)
        for s in (samples[code].score for code in needed)
    ]
    one = fit_temperature(np.concatenate(scores), np.concatenate([samples[code].label for code in needed]))
    return dict.fromkeys(languages, one)


def validated(
    test: Mapping[str, Sample], validation: Mapping[str, Sample], scheme: str
) -> dict[str, FloatArray]:
    """Log-probabilities of the test examples, (N, C) nats, at temperatures fitted on a validation split.

    Raises ValueError where an example id is in both, in any language: items are parallel, so a test question
    in another language is still that question.
    """
    both = _ids(test) & _ids(validation)
    if both:
        raise ValueError(f"{len(both)} examples are in both splits, such as {min(both)!r}.")
    chosen = fit_temperatures(validation, list(test), scheme)
    return {code: scaled_log_probs(sample.score, chosen[code]) for code, sample in test.items()}


def cross_fitted(
    samples: Mapping[str, Sample], scheme: str, *, num_folds: int = NUM_FOLDS
) -> dict[str, FloatArray]:
    """Log-probabilities of all examples, (N, C) nats, each at a temperature fitted on the other folds.

    A fold is a hash of the example id: the same in all languages, whatever the order of rows. Raises
    ValueError where a fold leaves a language nothing to be fitted on.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, not {num_folds}.")
    folds = {code: _folds(sample.example_ids, num_folds) for code, sample in samples.items()}
    result = {code: np.full(sample.score.shape, np.nan) for code, sample in samples.items()}
    for fold in range(num_folds):
        others = {code: _part(sample, folds[code] != fold) for code, sample in samples.items()}
        chosen = fit_temperatures(others, list(samples), scheme)
        for code, sample in samples.items():
            here = folds[code] == fold
            if here.any():
                result[code][here] = scaled_log_probs(sample.score[here], chosen[code])
    return result


def _folds(example_ids: Sequence[str], num_folds: int) -> NDArray[np.int64]:
    return np.array([zlib.crc32(name.encode()) % num_folds for name in example_ids], dtype=np.int64)


def _part(sample: Sample, keep: NDArray[np.bool_]) -> Sample:
    ids = [name for name, kept in zip(sample.example_ids, keep, strict=True) if kept]
    return Sample(ids, sample.score[keep], sample.label[keep])


def _ids(samples: Mapping[str, Sample]) -> set[str]:
    return {name for sample in samples.values() for name in sample.example_ids}


def _check(score: ArrayLike, label: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    s = _check_score(score)
    y = np.asarray(label)
    if y.dtype.kind not in "iu" or y.shape != s.shape[:1]:
        raise ValueError(f"label must be {len(s)} whole numbers, not {y.dtype} of shape {y.shape}.")
    if y.min() < 0 or y.max() >= s.shape[1] or not np.isfinite(s[np.arange(len(y)), y]).all():
        raise ValueError("a label is not one of the options of its example.")
    return s, y.astype(np.int64)


def _check_score(score: ArrayLike) -> FloatArray:
    s = np.asarray(score, dtype=np.float64)
    if s.ndim != 2 or s.size == 0:
        raise ValueError(f"score must be (N, C) and not empty, not of shape {s.shape}.")
    if np.isnan(s).any() or np.isposinf(s).any():
        raise ValueError("score has NaN or infinite values.")
    if (np.isfinite(s).sum(axis=1) < 2).any():
        raise ValueError("every example needs scores of at least 2 options.")
    return s
