"""The bootstrap's replicates of a study's numbers, drawn here once more, and intervals from them by SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from study.records import Prediction

stats = pytest.importorskip("scipy.stats")


def weights(all_ids: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """(1000, N) how often each row counts in each replicate."""
    known = sorted(set(all_ids))
    rng = np.random.default_rng(0)
    counts = [np.bincount(rng.integers(0, len(known), len(known)), minlength=len(known)) for _ in range(1000)]
    return np.array(counts, dtype=float)[:, [known.index(name) for name in ids]]


def right_ones(records: Sequence[Prediction]) -> np.ndarray:
    return np.array([max(r.scores) == r.scores[r.label] for r in records], dtype=float)


def student(value: float, error: float, freedom: float) -> tuple[float, float, float]:
    """(low, high, p-value that it is 0) of a value with a standard error, by Student's t."""
    t = stats.t(freedom)
    half = t.ppf(0.975) * error
    return value - half, value + half, 2.0 * t.sf(abs(value) / error)
