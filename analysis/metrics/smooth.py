"""Smooth ECE: a calibration error without bins, which does not jump when a confidence crosses an edge."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.metrics.binned import without_rounding
from study.bins import FloatArray, check_predictions

_GRID_STEPS = 1 << 14
"""Steps of the grid over [0, 1]: 16 to the narrowest sigma."""
_NARROWEST = 2.0**-10
_PRECISION = 1e-6
"""How exactly sigma is found, and so the result."""


def smooth_ece(confidence: ArrayLike, correct: ArrayLike) -> float:
    """smECE, 0..1 (Blasiok and Nakkiran 2023): the ECE after Gaussian smoothing, at the width equal to it.

    confidence, correct: (N,). The residuals (confidence - correct) are smoothed over [0, 1] with a Gaussian
    reflected at both ends; smECE_sigma is the integral of their absolute density, and the result is taken at
    the sigma where smECE_sigma = sigma (at 2^-10 where it is below that). At least |confidence_gap|, and
    equal to it where the smoothed residual keeps one sign.

    The authors' package computes something else where sigma is above about 0.15: `smooth_ece_relplot`.
    """
    conf, hit = check_predictions(confidence, correct)
    spectrum = np.fft.rfft(_mirrored(conf, conf - hit))
    below = max(abs(float(np.mean(conf - hit))), _NARROWEST)  # whatever the width, smECE is at least the gap
    error = above = _smoothed_error(spectrum, below)  # a wider Gaussian never gives more
    while above - below > _PRECISION:
        middle = (below + above) / 2.0
        error = _smoothed_error(spectrum, middle)
        below, above = (middle, min(above, error)) if middle < error else (max(below, error), middle)
    return without_rounding(error)


def smooth_ece_relplot(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Smooth ECE, 0..1, as the package relplot (1.0.3) computes it: for comparison with its numbers.

    confidence, correct: (N,). Its Gaussian ends half a unit from its centre, so that residuals of opposite
    signs do not cancel if they are farther apart: where sigma is above about 0.15, it can be more than twice
    `smooth_ece`. sigma comes from ten halvings of 1, so to within 2^-10, from above. Unlike relplot's, an
    example at exactly 0 or 1 counts in full (there, by half), and the integral is a trapezoid sum (there,
    both end points have full weight). Without examples at exactly 0 or 1 the two agree to within 1e-3.
    """
    conf, hit = check_predictions(confidence, correct)
    spectrum = np.fft.rfft(_mirrored(conf, conf - hit))
    gap = abs(float(np.mean(conf - hit)))
    below, sigma = 0.0, 1.0
    for _ in range(10):
        middle = (below + sigma) / 2.0
        if middle < max(gap, 0.001) or middle < _relplots_error(spectrum, middle):
            below = middle
        else:
            sigma = middle
    return without_rounding(_relplots_error(spectrum, sigma))


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
    """smECE_sigma: the integral over [0, 1] of |residual density smoothed by a Gaussian of width sigma|.

    The spectrum of all images of the Gaussian together, two units apart, is a Gaussian. It ends so early
    that a coarser grid, of at least 64 steps to a sigma, holds all of it.
    """
    steps = min(_GRID_STEPS, 1 << math.ceil(math.log2(64.0 / sigma)))
    kernel = np.exp(-0.5 * (np.pi * sigma * np.arange(steps + 1)) ** 2)
    return _integral(spectrum[: steps + 1] * kernel)


def _relplots_error(spectrum: NDArray[np.complex128], sigma: float) -> float:
    """As `_smoothed_error`, with the Gaussian that is cut."""
    return _integral(spectrum * _cut_kernel(sigma))


def _integral(spectrum: NDArray[np.complex128]) -> float:
    """The integral over [0, 1] of the absolute density that has this spectrum over [0, 2), mirrored at 1."""
    density = np.fft.irfft(spectrum, n=2 * (len(spectrum) - 1))
    return float(np.abs(density).sum() / 2.0)  # the period holds [0, 1] twice: half is the trapezoid sum


@lru_cache(maxsize=128)
def _cut_kernel(sigma: float) -> FloatArray:
    """The spectrum of the Gaussian, cut half a unit from its centre. Cached: searches share few sigmas."""
    distance = np.arange(_GRID_STEPS // 2 + 1) / _GRID_STEPS
    right = np.zeros(_GRID_STEPS + 1)
    right[: len(distance)] = np.exp(-0.5 * (distance / sigma) ** 2)
    kernel = np.concatenate([right, right[-2:0:-1]])
    # symmetric, so its spectrum is real
    return np.asarray(np.fft.rfft(kernel / kernel.sum()).real, dtype=np.float64)
