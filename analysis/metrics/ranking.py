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
    num_right = int(hit.sum())
    num_wrong = len(hit) - num_right
    if num_right == 0 or num_wrong == 0:
        raise ValueError("AUROC needs a right answer and a wrong one.")
    order = np.argsort(conf)
    ordered, right = conf[order], hit[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1.0))  # of each group of equal confidences
    group_sizes = np.diff(starts, append=len(ordered))
    right_in = np.add.reduceat(right, starts)
    wrong_in = group_sizes - right_in
    right_below = np.repeat(np.cumsum(right_in) - right_in / 2.0, group_sizes)
    wrong_below = np.repeat(np.cumsum(wrong_in) - wrong_in / 2.0, group_sizes)
    is_right = right == 1.0
    placement = np.where(is_right, wrong_below / num_wrong, 1.0 - right_below / num_right)
    area = float(wrong_below[is_right].sum()) / num_right / num_wrong
    share = np.where(is_right, num_right, num_wrong) / len(hit)
    values = np.empty(len(hit))
    values[order] = area + (placement - area) / share
    return values


def aurc_values(confidence: ArrayLike, correct: ArrayLike) -> FloatArray:
    """(N,) numbers whose mean is the AURC, and whose deviations from it are each example's influence on it.

    With R_k the share of errors among the k most confident examples, the AURC is the mean of all R_k; an
    example of rank r, with error e of 0 or 1, has R_r + sum over k >= r of (e - R_k) / k. Examples of equal
    confidence share the means over their ranks. confidence, correct: (N,). Raises ValueError for bad input.
    """
    conf, hit = check_predictions(confidence, correct)
    order = np.argsort(-conf, kind="stable")
    ordered, error = conf[order], 1.0 - hit[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=2.0))  # of each group of equal confidences
    sizes = np.diff(starts, append=len(ordered))

    def shared(values: FloatArray) -> FloatArray:
        return np.asarray(np.repeat(np.add.reduceat(values, starts) / sizes, sizes), dtype=np.float64)

    ranks = np.arange(1, len(ordered) + 1)
    risk = np.cumsum(shared(error)) / ranks
    later = np.cumsum((1.0 / ranks)[::-1])[::-1]
    later_risk = np.cumsum((risk / ranks)[::-1])[::-1]
    values = np.empty(len(hit))
    values[order] = shared(risk) + error * shared(later) - shared(later_risk)
    return values
