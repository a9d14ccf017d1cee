"""Two "RMS calibration errors" as other projects compute them, to compare with published numbers.

Neither is the textbook definition (`analysis.metrics.rms_ce`), and the two differ. Both put about `beta`
examples into a bin, so their floor for a calibrated model (about 0.048 and more) does not shrink with n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.bins import FloatArray, check_predictions

BETA = 100


def hendrycks_rms(confidence: ArrayLike, correct: ArrayLike, *, beta: int = BETA) -> float:
    """As `calib_err(p="2")` of hendrycks/outlier-exposure, and as Humanity's Last Exam reports it, 0..1.

    confidence, correct: (N,). Bins of `beta` examples in the order of confidence, the rest in the last, and
    the last, most confident bin left out of the sum but not of N: a loop over `len(bins) - 1` bins. Equal
    confidences keep their order (the original does not specify one). Raises ValueError below 2 `beta`
    examples, where nothing is left (the original returns 0 or raises IndexError).
    """
    conf, hit = _checked(confidence, correct, beta, 2, "hendrycks_rms")
    order = _stable_order(conf)
    used = (len(conf) // beta - 1) * beta
    residual = (conf - hit)[order][:used].reshape(-1, beta).mean(axis=1)
    return float(np.sqrt(beta / len(conf) * np.sum(residual**2)))


def mmlu_rms(confidence: ArrayLike, correct: ArrayLike, *, beta: int = BETA) -> float:
    """As `rmsce` of the MMLU repository's calib_tools.py (from Google's uncertainty_metrics), 0..1.

    confidence, correct: (N,). (sum (w_b d_b)^2)^(1/4): the weights are squared too, and the root is taken
    twice. Bins are [lo, hi), N // beta of them, cut at elements of the sorted confidences, so that equal
    confidences share a bin. Raises ValueError below `beta` examples.
    """
    conf, hit = _checked(confidence, correct, beta, 1, "mmlu_rms")
    order = np.argsort(conf)
    ordered = conf[order]
    starts = np.round(np.linspace(0, len(conf), len(conf) // beta, endpoint=False)).astype(np.int64)
    cuts = np.unique(np.searchsorted(ordered, ordered[starts], side="left"))  # each bin's first example
    error = np.add.reduceat((hit - conf)[order], cuts) / len(conf)
    return float(np.sum(error**2) ** 0.25)


def _stable_order(conf: FloatArray) -> NDArray[np.int64]:
    """`np.argsort(conf, kind="stable")` in a third of the time: the default sort has vector instructions."""
    order = np.argsort(conf)
    ordered = conf[order]
    group = np.cumsum(ordered[1:] != ordered[:-1])  # of equal confidences, which it leaves in any order
    rank = len(conf) * np.concatenate([[0], group])
    return np.asarray(np.sort(rank + order) - rank, dtype=np.int64)


def _checked(
    confidence: ArrayLike, correct: ArrayLike, beta: int, num_bins: int, name: str
) -> tuple[FloatArray, FloatArray]:
    conf, hit = check_predictions(confidence, correct)
    if isinstance(beta, bool) or not isinstance(beta, (int, np.integer)) or beta < 1:
        raise ValueError(f"beta must be a whole number of at least 1, not {beta!r}.")
    if len(conf) < num_bins * beta:
        raise ValueError(
            f"{name} needs at least {num_bins * beta} examples for bins of {beta}, not {len(conf)}."
        )
    return conf, hit
