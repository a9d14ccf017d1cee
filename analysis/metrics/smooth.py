"""Smooth ECE: a calibration error without bins, which does not jump when a confidence crosses an edge."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.bins import FloatArray, check_predictions

_GRID_STEPS = 1 << 14
"""Steps of the grid over [0, 1]: 16 to the narrowest sigma of the search, 2^-10."""


def smooth_ece(confidence: ArrayLike, correct: ArrayLike) -> float:
    """smECE, 0..1 (Blasiok and Nakkiran 2023): the ECE after Gaussian smoothing, at the width equal to it.

    confidence, correct: (N,). The residuals (confidence - correct) are smoothed over [0, 1] with a Gaussian
    reflected at both ends; smECE_sigma is the integral of their absolute density, and the result is taken at
    the sigma where smECE_sigma = sigma. At least |confidence_gap|, and equal to it where the smoothed
    residual keeps one sign.

    As the authors' `relplot.smECE`: sigma comes from ten halvings of 1 (so to within 2^-10, from above) and
    the Gaussian ends half a unit from its centre. Unlike it, an example at exactly 0 or 1 counts in full
    (there, by half), and the integral is a trapezoid sum (there, both end points have full weight). Without
    examples at exactly 0 or 1 the two agree to within 1e-3.
    """
    conf, hit = check_predictions(confidence, correct)
    spectrum = np.fft.rfft(_mirrored(conf, conf - hit))
    gap = abs(float(np.mean(conf - hit)))
    below, sigma = 0.0, 1.0
    error_at_sigma: float | None = None
    for _ in range(10):
        middle = (below + sigma) / 2.0
        if middle < max(gap, 0.001):  # whatever the width, smECE is at least the gap
            below = middle
            continue
        error = _smoothed_error(spectrum, middle)
        if middle < error:
            below = middle
        else:
            sigma, error_at_sigma = middle, error
    return _smoothed_error(spectrum, sigma) if error_at_sigma is None else error_at_sigma


def _mirrored(position: FloatArray, value: FloatArray) -> FloatArray:
    """The density of `value: (N,)` at `position: (N,)` on a grid over [0, 2), mirrored at 1.

    One period of a function mirrored at 0 and at 1: a circular convolution of it reflects exactly. Each value
    is shared linearly between the two grid points around it.
    """
    left = np.minimum((position * _GRID_STEPS).astype(np.int64), _GRID_STEPS - 1)
    share = position * _GRID_STEPS - left
    grid = np.bincount(left, weights=value * (1.0 - share), minlength=_GRID_STEPS + 1)
    grid += np.bincount(left + 1, weights=value * share, minlength=_GRID_STEPS + 1)
    grid[0] *= 2.0  # an end point is its own mirror image: the period below holds it once, not twice
    grid[-1] *= 2.0
    return np.asarray(np.concatenate([grid, grid[-2:0:-1]]) / len(value), dtype=np.float64)


def _smoothed_error(spectrum: NDArray[np.complex128], sigma: float) -> float:
    """smECE_sigma: the integral over [0, 1] of |residual density smoothed by a Gaussian of width sigma|."""
    smoothed = np.fft.irfft(spectrum * _kernel_spectrum(sigma), n=2 * _GRID_STEPS)
    return float(np.abs(smoothed).sum() / 2.0)  # the period holds [0, 1] twice: half is the trapezoid sum


@lru_cache(maxsize=128)
def _kernel_spectrum(sigma: float) -> FloatArray:
    """The spectrum of the Gaussian, cut half a unit from its centre. Cached: searches share few sigmas."""
    distance = np.arange(_GRID_STEPS // 2 + 1) / _GRID_STEPS
    right = np.zeros(_GRID_STEPS + 1)
    right[: len(distance)] = np.exp(-0.5 * (distance / sigma) ** 2)
    kernel = np.concatenate([right, right[-2:0:-1]])
    # symmetric, so its spectrum is real
    return np.asarray(np.fft.rfft(kernel / kernel.sum()).real, dtype=np.float64)
