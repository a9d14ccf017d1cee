"""Logit normalisation: a confidence that ranks answers, whatever the scale of their scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from analysis.metrics.temperature import check_score
from study.bins import FloatArray


def p_norm_confidence(scores: ArrayLike, p: float) -> FloatArray:
    """(N,), 0..1: max z / (sum |z|^p)^(1/p), z the scores of an example less their mean (MaxLogit-pNorm).

    scores: (N, C), logits or log-probabilities, -inf where an example has no such option. p: 1 or more; inf
    divides by the largest |z|. It ranks answers (for `auroc` and `aurc`) and is no probability: 0 where all
    scores are equal, and the same for every other example with two options.

    Cattelan and Silva 2023 (arXiv 2305.15508). Label smoothing harms the ranking by softmax confidence, which
    this repairs (Xia et al. 2024, arXiv 2403.14715). Both choose p on a validation split.
    """
    if isinstance(p, bool) or not isinstance(p, (int, float, np.number)) or not p >= 1:
        raise ValueError(f"p must be a number of at least 1, not {p!r}.")
    score = np.ascontiguousarray(check_score(scores).T)  # sums over few options are slow along the last axis
    has = np.isfinite(score)
    shifted = np.where(has, score - score.max(axis=0), 0.0)
    centred = np.where(has, shifted - shifted.sum(axis=0) / has.sum(axis=0), 0.0)
    size = np.abs(centred)
    largest = size.max(axis=0)
    share = size / np.where(largest > 0.0, largest, 1.0)  # whose powers neither overflow nor all vanish
    norm = largest * (share**p).sum(axis=0) ** (1.0 / p)
    return np.asarray(centred.max(axis=0) / np.where(norm > 0.0, norm, 1.0), dtype=np.float64)
