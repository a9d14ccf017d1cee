"""Metrics: what is refused, in one sentence, and what importing them brings."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from analysis import metrics
from tests.analysis.metrics.test_metrics import PAIRED
from tests.sweeping import ROOT

BAD_CONFIDENCE: list[tuple[Any, str]] = [
    ([], "empty"),
    ([0.5, math.nan], "NaN"),
    ([0.5, math.inf], "NaN or infinite"),
    ([0.5, -1e-9], "0..1"),
    ([0.5, 1.001], "0..1"),
    ([0.5, None], "not numbers|NaN"),
    (["a", "b"], "numeric"),
    ([0.5 + 1j, 0.5], "numeric"),
    ([True, False], "truth values"),
    ([[0.5, 0.5]], "axes"),
    (0.5, "axes"),
    (np.ma.masked_array([0.5, 0.5], [False, True]), "masked"),
    ([0.5], "1 examples"),
    ([0.5, 0.5, 0.5], "3 examples"),
]


@pytest.mark.parametrize("metric", PAIRED)
@pytest.mark.parametrize(("confidence", "reason"), BAD_CONFIDENCE)
def test_bad_confidence_raises(metric: Callable[..., float], confidence: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        metric(confidence, [0, 1])


@pytest.mark.parametrize("correct", [[0, 2], [0, 0.5], [0, math.nan], ["yes", "no"], [0, None], [[0, 1]], []])
def test_bad_correct_raises(correct: Any) -> None:
    for metric in PAIRED:
        with pytest.raises(ValueError, match="correct"):
            metric([0.5, 0.6], correct)
    with pytest.raises(ValueError, match="correct"):
        metrics.accuracy(correct)


@pytest.mark.parametrize("place", [0, 1, 63, 500, 997, 999])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_among_many_is_seen(place: int, bad: float) -> None:
    good = np.linspace(0.1, 0.9, 1000)
    probs = np.stack([good, 1.0 - good], axis=1)
    one_bad = good.copy()
    one_bad[place] = bad
    for metric in PAIRED:
        with pytest.raises(ValueError, match=r"^confidence has NaN or infinite values\.$"):
            metric(one_bad, good > 0.5)
        with pytest.raises(ValueError, match=r"^correct has NaN or infinite values\.$"):
            metric(good, one_bad)
    probs[place, 1] = bad
    with pytest.raises(ValueError, match=r"^probs has NaN or infinite values\.$"):
        metrics.brier(probs, np.zeros(1000, np.int64))


def test_masked_truth_values_are_missing() -> None:
    correct = np.ma.masked_array([True, False], [False, True])
    for metric in PAIRED:
        with pytest.raises(ValueError, match=r"^correct has masked \(missing\) values\.$"):
            metric([0.5, 0.6], correct)


def test_metrics_leave_their_input_alone() -> None:
    """Checks hand on the caller's own array where they can."""
    confidence, correct = np.linspace(0.0, 1.0, 400), np.arange(400) % 2 * 1.0
    probs, labels = np.stack([confidence, 1.0 - confidence], axis=1), np.arange(400) % 2
    for array in (confidence, correct, probs, labels):
        array.setflags(write=False)  # NumPy then raises where somebody writes
    of_pairs: list[Callable[..., Any]] = [*PAIRED, metrics.hendrycks_rms, metrics.mmlu_rms]
    for metric in (*of_pairs, metrics.top_label_decomposition):
        metric(confidence, correct)
    of_options: list[Callable[..., Any]] = [metrics.brier, metrics.brier_decomposition, metrics.classwise_ece]
    for metric in of_options:
        metric(probs, labels)


def test_a_softmax_that_overshoots_one_is_one() -> None:
    assert metrics.ece([1.0 + 1e-7, 1.0], [1, 1]) == 0.0


def test_auroc_of_one_class_raises() -> None:
    for correct in ([1, 1], [0, 0]):
        with pytest.raises(ValueError, match="both"):
            metrics.auroc([0.2, 0.8], correct)


@pytest.mark.parametrize(
    ("probs", "labels"),
    [
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.5]], [-1]),
        ([[0.5, 0.5]], [0.0]),
        ([[0.5, 0.5]], [True]),
        ([[0.5, 0.5]], ["0"]),
        ([[0.5, 0.5]], [0, 1]),
        ([[0.5, 0.5]], [[0]]),
        ([[0.5, 0.6]], [0]),
        ([[0.5, 0.4]], [0]),
        ([[1.5, -0.5]], [0]),
        ([[math.nan, 0.5]], [0]),
        ([0.5, 0.5], [0]),
        ([], []),
    ],
)
def test_bad_probs_and_labels_raise(probs: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"probs|labels"):
        metrics.brier(probs, labels)


@pytest.mark.parametrize(
    ("log_probs", "labels"),
    [
        ([[-1.0, -1.0]], [2]),
        ([[-1.0, -1.0]], [0.5]),
        ([[2.0, -1.0]], [0]),
        ([[-0.1, -0.1]], [0]),
        ([[-math.inf, 0.0]], [0]),
        ([[0.0, -math.inf], [-math.inf, 0.0]], [0, 0]),
        ([[-math.inf, -math.inf]], [0]),
        ([[math.inf, 0.0]], [1]),
        ([["a", "b"]], [0]),
        (np.ma.masked_array([[-1.0, -1.0]], [[True, False]]), [1]),
        ([[math.nan, 0.0]], [1]),
        ([-1.0], [0]),
        (np.empty((0, 4)), []),
    ],
)
def test_bad_log_probs_raise(log_probs: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"log_probs|labels"):
        metrics.nll(log_probs, labels)


def test_messages_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^confidence has 1 examples but correct has 2\.$"):
        metrics.ece([0.5], [0, 1])


def test_importing_metrics_brings_no_torch() -> None:
    code = "import sys, analysis.metrics; print('torch' in sys.modules, 'pyarrow' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert printed.split() == ["False", "False"]
