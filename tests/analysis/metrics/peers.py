"""What other libraries say of the same predictions, for tests that run without them.

    pip install -e '.[peers]' && python -m tests.analysis.metrics.peers > tests/analysis/metrics/peers.json

No confidence of these cases lies within 1e-6 of an edge of 15 bins, where conventions differ.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from typing import Any

import numpy as np

NUM_BINS = 15
VERSIONS = ("netcal", "relplot", "uncertainty-calibration", "numpy")


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Confidence and correct: over-confident, nearly calibrated, few examples with empty bins."""
    rng = np.random.default_rng(20)
    results = {}
    for name, n, a, b, factor in [
        ("over", 900, 5, 1.5, 0.6),
        ("close", 3000, 2, 2, 0.97),
        ("few", 40, 8, 2, 0.5),
    ]:
        confidence = rng.beta(a, b, n)
        confidence += np.where(
            np.abs(confidence * NUM_BINS - np.round(confidence * NUM_BINS)) < 2e-5, 1e-4, 0
        )
        results[name] = (confidence, (rng.uniform(size=n) < confidence * factor).astype(np.int64))
    return results


def multiclass() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (600, 4) and labels (600,), over-confident."""
    rng = np.random.default_rng(21)
    logits = rng.normal(size=(600, 4)) * 1.5
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    flat = np.exp(logits / 3) / np.exp(logits / 3).sum(axis=1, keepdims=True)
    return probs, np.array([rng.choice(4, p=row) for row in flat])


def peers() -> dict[str, Any]:
    """Their numbers, by library, function and case."""
    netcal = importlib.import_module("netcal.metrics")
    calibration = importlib.import_module("calibration.utils")
    relplot = importlib.import_module("relplot")
    numbers: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in VERSIONS}}
    for name, (confidence, correct) in cases().items():
        binned = calibration.bin(
            list(zip(confidence, correct, strict=True)), [(k + 1) / NUM_BINS for k in range(NUM_BINS)]
        )
        results = {
            "netcal ECE": netcal.ECE(NUM_BINS).measure(confidence, correct),
            "netcal MCE": netcal.MCE(NUM_BINS).measure(confidence, correct),
            "netcal ACE": netcal.ACE(NUM_BINS).measure(confidence, correct),
            "netcal ECE equal mass": netcal.ECE(NUM_BINS, equal_intervals=False).measure(confidence, correct),
            "calibration plugin_ce 1": calibration.plugin_ce(binned, power=1),
            "calibration plugin_ce 2": calibration.plugin_ce(binned, power=2),
            "calibration unbiased_square_ce": calibration.unbiased_square_ce(binned),
            "calibration get_ece": calibration.get_ece(confidence, correct),
            "calibration get_ece_em": calibration.get_ece_em(confidence, correct),
            "relplot smECE": relplot.smECE(confidence, correct.astype(float)),
        }
        numbers[name] = {key: float(value) for key, value in results.items()}
    probs, labels = multiclass()
    numbers["multiclass"] = {
        "netcal ECE": float(netcal.ECE(NUM_BINS).measure(probs, labels)),
        "calibration marginal 1": float(
            calibration.lower_bound_scaling_ce(
                probs, labels, p=1, debias=False, num_bins=NUM_BINS,
                binning_scheme=lambda _, num_bins: [(k + 1) / num_bins for k in range(num_bins)],
                mode="marginal",
            )
        ),
    }  # fmt: skip
    return numbers


if __name__ == "__main__":
    print(json.dumps(peers(), indent=1))
