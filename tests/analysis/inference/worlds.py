"""Models with a known calibration, who answer the same questions in several languages: for simulations.

Each option of a question has a logit; the right option is drawn from the softmax of the logits, and a model
whose `slope` is 1 reports that softmax. One with a slope below 1 divides the logits by it and is
over-confident, one above 1 is under-confident; `crossing` is under-confident where it is unsure and
over-confident where it is sure. A question's difficulty and luck are shared over languages and, more so, over
models: a Gaussian copula with the shares of variance in `SHARED`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import add

import numpy as np
from scipy.special import ndtr, softmax

from analysis.inference.bootstrap import Key, Resamples, estimates, sum_rows
from analysis.inference.estimates import Estimate, mean
from analysis.inference.squared import expand
from analysis.metrics.binned import floor
from analysis.metrics.ranking import auroc_values
from study.bins import NUM_BINS, FloatArray, assign_bins, bin_predictions, error_over_bins

NUM_OPTIONS = 4
METRICS = ("accuracy", "gap", "auroc", "ece_l2")
SPREAD = 1.5
"""Standard deviation of the logits."""
SHARED = {"question": 0.5, "language": 0.25, "model": 0.1}
"""Shares of variance: of a question, of it in a language (all models), of it for a model (all languages)."""
ENDS: dict[Key, tuple[float, float]] = {
    ("accuracy", None): (0.0, 1.0),
    ("confidence", "c"): (0.0, 1.0),
    ("auroc", None): (0.0, 1.0),
}


@dataclass(frozen=True)
class Model:
    """What a model reports of its true probabilities."""

    slope: float = 1.0
    is_crossing: bool = False
    share: float = 1.0
    """The probability of all options together, where confidence is raw."""

    def confidence(self, logits: FloatArray) -> FloatArray:
        """logits: (..., C)."""
        slope: FloatArray | float = self.slope
        if self.is_crossing:
            sure = softmax(logits, axis=-1).max(axis=-1) > 0.6
            slope = np.where(sure, 0.75, 1.35)[..., None]
        return np.asarray(self.share * softmax(logits / slope, axis=-1).max(axis=-1))


@dataclass(frozen=True)
class Truth:
    accuracy: float
    gap: float
    auroc: float
    ece: float
    ece_l2: float


@lru_cache
def truth(model: Model, size: int = 2_000_000) -> Truth:
    """By Monte Carlo, from the probabilities to be right."""
    logits = SPREAD * np.random.default_rng(77).standard_normal((size, NUM_OPTIONS))
    chance, confidence = softmax(logits, axis=-1).max(axis=-1), model.confidence(logits)
    index, _ = assign_bins(confidence)
    weight = np.bincount(index, minlength=NUM_BINS) / size
    off = np.bincount(index, chance - confidence, minlength=NUM_BINS) / size
    filled = weight > 0.0
    order = np.argsort(confidence)
    right, wrong = chance[order], 1.0 - chance[order]
    below = np.cumsum(wrong) - wrong / 2.0
    return Truth(
        accuracy=float(chance.mean()),
        gap=float((confidence - chance).mean()),
        auroc=float((right * below).sum() / (right.sum() * wrong.sum())),
        ece=float(np.abs(off).sum()),
        ece_l2=float(np.sqrt((off[filled] ** 2 / weight[filled]).sum())),
    )


def draw(
    rng: np.random.Generator, num_items: int, num_languages: int, models: Sequence[Model]
) -> tuple[FloatArray, FloatArray]:
    """(confidence, correct), each (N, L, M)."""
    shape = (num_items, num_languages, len(models))
    logits = SPREAD * _correlated(rng, shape, NUM_OPTIONS)
    luck = ndtr(_correlated(rng, shape, 1)[..., 0])
    correct = luck < softmax(logits, axis=-1).max(axis=-1)
    confidence = np.stack([model.confidence(logits[:, :, m]) for m, model in enumerate(models)], axis=2)
    return confidence, correct.astype(np.float64)


def _correlated(rng: np.random.Generator, shape: tuple[int, int, int], size: int) -> FloatArray:
    items, languages, models = shape
    parts = {
        "question": (items, 1, 1, size),
        "language": (items, languages, 1, size),
        "model": (items, 1, models, size),
    }
    total = np.sqrt(1.0 - sum(SHARED.values())) * rng.standard_normal((items, languages, models, size))
    for name, of_part in parts.items():
        total = total + np.sqrt(SHARED[name]) * rng.standard_normal(of_part)
    return np.asarray(total, dtype=np.float64)


def cells(resamples: Resamples, confidence: FloatArray, correct: FloatArray) -> list[dict[str, Estimate]]:
    """The estimates of each language of one model. confidence, correct: (N, L)."""
    rows = np.arange(len(confidence))
    sums = [
        sum_rows(resamples, rows, {"c": conf}, hit, {("auroc", None): auroc_values(conf, hit)})
        for conf, hit in zip(confidence.T, correct.T, strict=True)
    ]
    return [{kind: e for (kind, _), e in of.items()} for of in estimates(resamples, sums, ENDS)]


def macro(of_languages: Sequence[dict[str, Estimate]], metric: str) -> Estimate | None:
    """None where a language has no such number: no AUROC of answers that are all right."""
    return mean([of.get(metric) for of in of_languages])


def micro(resamples: Resamples, confidence: FloatArray, correct: FloatArray) -> tuple[float, float]:
    """(ECE, floor) of all examples of all languages in one set of bins. confidence, correct: (N, L)."""
    rows = np.arange(len(confidence))
    languages = zip(confidence.T, correct.T, strict=True)
    pooled = reduce(add, [sum_rows(resamples, rows, {"c": c}, hit, {}) for c, hit in languages])
    bins = bin_predictions(confidence.ravel(), correct.ravel())
    return error_over_bins(bins), floor(bins) * math.sqrt(expand(pooled.errors["c"]).design_effect)
