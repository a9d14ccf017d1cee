"""NLL in two parts: against SciPy's minimum, by hand at the ends, against probmetrics if it is installed."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from analysis import metrics
from analysis.metrics.temperature import fit_temperature, scaled_log_probs
from tests.analysis.metrics.peers import multiclass


def test_refinement_is_the_least_nll_over_temperatures() -> None:
    optimize, special = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.special")
    probs, labels = multiclass()
    log_probs = np.concatenate([np.log(probs), np.full((600, 1), -np.inf)], axis=1)
    log_probs[::2, 3] = -np.inf  # three options
    log_probs -= special.logsumexp(log_probs, axis=1, keepdims=True)
    labels = np.where((labels == 3) & np.isinf(log_probs[:, 3]), 0, labels)

    def nll_at(inverse: float) -> float:
        scaled = special.log_softmax(log_probs * inverse, axis=1)
        return float(-scaled[np.arange(600), labels].mean())

    least = optimize.minimize_scalar(nll_at, bounds=(0.05, 5.0), method="bounded", options={"xatol": 1e-8})
    refinement, calibration = metrics.nll_refinement(log_probs, labels)
    assert refinement == pytest.approx(least.fun, abs=1e-10)
    assert refinement + calibration == pytest.approx(nll_at(1.0), abs=1e-12)
    assert calibration > 0.1  # they are three times as sure as they may be


def test_at_the_ends() -> None:
    sure = np.log([[0.6, 0.4], [0.3, 0.7]])
    all_right = metrics.nll_refinement(sure, [0, 1])
    assert all_right.refinement == pytest.approx(0.0, abs=1e-15)
    assert all_right.calibration == pytest.approx(metrics.nll(sure, [0, 1]))
    # worse than chance: best with all options alike, one of which is not there
    wrong = [[math.log(0.9), math.log(0.1), -math.inf], [math.log(0.8), math.log(0.1), math.log(0.1)]]
    assert metrics.nll_refinement(wrong, [1, 2]).refinement == pytest.approx((math.log(2) + math.log(3)) / 2)
    # as well calibrated as one temperature can be: three of four are right where confidence is .75
    log_probs, labels = np.log([[0.75, 0.25]] * 4), [0, 0, 0, 1]
    refinement, calibration = metrics.nll_refinement(log_probs, labels)
    assert refinement == pytest.approx(metrics.nll(log_probs, labels))
    assert calibration == 0.0


def test_mass_outside_the_options_is_miscalibration() -> None:
    log_probs, labels = np.log([[0.75, 0.25]] * 4), [0, 0, 0, 1]
    over_vocabulary = metrics.nll_refinement(log_probs - 1.0, labels)
    assert over_vocabulary == pytest.approx((metrics.nll(log_probs, labels), 1.0))


def test_probmetrics_agrees() -> None:
    """Run with 1.3.0 (`pip install -e '.[peers]'`)."""
    pm = pytest.importorskip("probmetrics.metrics")
    torch = importlib.import_module("torch")
    calibrators = importlib.import_module("probmetrics.calibrators")
    splitters = importlib.import_module("probmetrics.splitters")
    probs, labels = multiclass()
    log_probs = np.log(probs)

    def theirs(mixes: bool) -> tuple[float, float]:
        """Its refinement and calibration error of the log loss."""
        calibrator = calibrators.get_calibrator("temp-scaling", calibrate_with_mixture=mixes)
        parts = pm.MetricsWithCalibration(pm.LogLoss(), calibrator, splitters.AllSplitter(), cal_name="ts")
        values = parts.compute_all_from_labels_logits(torch.tensor(labels), torch.tensor(log_probs))
        return float(values["refinement_logloss_ts_all"]), float(values["calib-err_logloss_ts_all"])

    ours = metrics.nll_refinement(log_probs, labels)
    assert ours == pytest.approx(theirs(mixes=False), rel=0, abs=1e-8)
    scaled = np.exp(scaled_log_probs(log_probs, fit_temperature(log_probs, labels)))
    mixed = metrics.nll(np.log((600 * scaled + 1 / 4) / 601), labels)
    assert mixed == pytest.approx(theirs(mixes=True)[0], rel=0, abs=1e-8)
