"""How well confidence tells right answers from wrong ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from study.bins import FloatArray, check_predictions


def auroc_values(confidence: ArrayLike, correct: ArrayLike) -> FloatArray:
    """(N,) numbers whose mean is the AUROC, and whose deviations from it are each example's influence on it.

    So the AUROC can be resampled as a mean. The influence follows from the placement values of DeLong et al.
    (1988): the share of wrong answers with a lower confidence than a right one, ties counting half, and the
    other way round. confidence, correct: (N,). Raises ValueError for bad input, and where all answers are
    right or all are wrong: there is no AUROC then.
    """
    conf, hit = check_predictions(confidence, correct)
    is_right = hit == 1.0
    right, wrong = np.sort(conf[is_right]), np.sort(conf[~is_right])
    if len(right) == 0 or len(wrong) == 0:
        raise ValueError("AUROC needs a right answer and a wrong one.")
    placement = np.empty(len(conf))
    for members, others, sign in ((is_right, wrong, 1.0), (~is_right, right, -1.0)):
        values = conf[members]
        below = np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
        share = below / (2.0 * len(others))
        placement[members] = share if sign > 0 else 1.0 - share
    area = float(placement[is_right].mean())
    own = np.where(is_right, len(right), len(wrong)) / len(conf)
    return np.asarray(area + (placement - area) / own, dtype=np.float64)
