"""Metrics beside other libraries: equal where conventions are, and by how much they differ elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analysis import metrics
from tests.analysis.metrics.peers import cases, multiclass


def test_brier_and_nll_are_scikit_learns() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(4), 200)
    labels = rng.integers(0, 4, 200)
    assert metrics.brier(probs, labels) == pytest.approx(brier_score_loss(labels, probs, scale_by_half=False))
    assert metrics.nll(np.log(probs), labels) == pytest.approx(log_loss(labels, probs, labels=range(4)))


def test_auroc_is_scikit_learns() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(2)
    confidence = np.round(rng.uniform(size=500), 1)  # many ties
    correct = rng.integers(0, 2, 500)
    assert metrics.auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence))


@pytest.mark.parametrize(
    ("norm", "metric"), [("l1", metrics.ece), ("max", metrics.mce), ("l2", metrics.rms_ce)]
)
def test_torchmetrics_agrees_away_from_edges(norm: str, metric: Callable[..., float]) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(5)
    confidence = rng.beta(5, 2, 1000)
    correct = rng.integers(0, 2, 1000)
    # binary_calibration_error takes P(class 1) as the confidence and the target as the accuracy
    theirs = functional.binary_calibration_error(
        torch.tensor(confidence), torch.tensor(correct), n_bins=15, norm=norm
    )
    assert metric(confidence, correct) == pytest.approx(float(theirs), abs=1e-6)


def test_torchmetrics_puts_an_edge_in_the_bin_above_and_one_in_a_bin_of_its_own() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")

    def theirs(confidence: list[float], correct: list[int]) -> float:
        result = functional.binary_calibration_error(
            torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct), n_bins=2
        )
        return float(result)

    assert metrics.ece([0.4, 0.5], [1, 0], num_bins=2) == pytest.approx(0.05)
    assert theirs([0.4, 0.5], [1, 0]) == pytest.approx(0.55)
    assert metrics.ece([0.9, 1.0], [1, 0], num_bins=2) == pytest.approx(0.45)
    assert theirs([0.9, 1.0], [1, 0]) == pytest.approx(0.55)


PEERS = json.loads(Path(__file__).with_name("peers.json").read_text())
"""Made by `python -m tests.analysis.metrics.peers`; it says of which versions."""


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize(
    ("peer", "metric"),
    [
        ("netcal ECE", metrics.ece),
        ("netcal MCE", metrics.mce),
        ("calibration get_ece", metrics.ece),
        ("calibration plugin_ce 1", metrics.ece),
        ("calibration plugin_ce 2", metrics.rms_ce),
        ("calibration unbiased_square_ce", metrics.debiased_l2),
    ],
)
def test_peers_agree(name: str, peer: str, metric: Callable[..., float]) -> None:
    assert metric(*cases()[name]) == pytest.approx(PEERS[name][peer], rel=0, abs=1e-10)


@pytest.mark.parametrize("name", cases())
def test_relplots_smooth_ece_is_near(name: str) -> None:
    """Another grid and another integral: `smooth_ece_relplot` says how."""
    value = metrics.smooth_ece_relplot(*cases()[name])
    assert value == pytest.approx(PEERS[name]["relplot smECE"], rel=0, abs=1e-3)


@pytest.mark.parametrize("name", ["over", "close"])
@pytest.mark.parametrize("peer", ["netcal ECE equal mass", "calibration get_ece_em"])
def test_equal_mass_agrees_where_bins_divide_the_examples(name: str, peer: str) -> None:
    assert metrics.ace(*cases()[name]) == pytest.approx(PEERS[name][peer], rel=0, abs=1e-10)


def test_equal_mass_is_three_things_where_they_do_not() -> None:
    """40 examples in 15 bins: ours takes ranks rounded down, calibration splits, netcal interpolates."""
    theirs = PEERS["few"]
    values = (metrics.ace(*cases()["few"]), theirs["netcal ECE equal mass"], theirs["calibration get_ece_em"])
    assert values == pytest.approx((0.3951261, 0.3804989, 0.3475455), abs=1e-6)


@pytest.mark.parametrize("name", cases())
def test_netcals_ace_is_the_unweighted_mean(name: str) -> None:
    """Average, not adaptive: another metric under the same three letters."""
    confidence, correct = cases()[name]
    index = np.ceil(confidence * 15).astype(int)
    errors = [abs(np.mean((confidence - correct)[index == b])) for b in np.unique(index)]
    assert PEERS[name]["netcal ACE"] == pytest.approx(np.mean(errors), rel=0, abs=1e-10)
    assert abs(metrics.ace(confidence, correct) - PEERS[name]["netcal ACE"]) > 1e-4


def test_classwise_and_top_label_are_theirs() -> None:
    probs, labels = multiclass()
    assert metrics.classwise_ece(probs, labels) == pytest.approx(
        PEERS["multiclass"]["calibration marginal 1"], rel=0, abs=1e-10
    )
    assert metrics.ece(probs.max(axis=1), probs.argmax(axis=1) == labels) == pytest.approx(
        PEERS["multiclass"]["netcal ECE"], rel=0, abs=1e-10
    )


def test_torchmetrics_agrees_in_float64() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = multiclass()
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    for norm, metric in (("l1", metrics.ece), ("max", metrics.mce), ("l2", metrics.rms_ce)):
        theirs = functional.multiclass_calibration_error(
            torch.tensor(probs), torch.tensor(labels), num_classes=4, n_bins=15, norm=norm
        )
        # it computes in float32, whatever comes in: 4e-9 away
        assert metric(confidence, correct) == pytest.approx(float(theirs), rel=0, abs=1e-6)


def test_hendrycks_drops_the_most_confident_bin() -> None:
    """The published loop, and the example that it does not see."""

    def published(confidence: np.ndarray, correct: np.ndarray, beta: int = 100) -> float:
        order = np.argsort(confidence, kind="stable")
        confidence, correct = confidence[order], correct[order]
        bins = [[i * beta, (i + 1) * beta] for i in range(len(confidence) // beta)]
        bins[-1] = [bins[-1][0], len(confidence)]
        total = 0.0
        for i in range(len(bins) - 1):
            lo, hi = bins[i]
            total += (hi - lo) / len(confidence) * (confidence[lo:hi].mean() - correct[lo:hi].mean()) ** 2
        return math.sqrt(total)

    for name in ("over", "close"):
        confidence, correct = cases()[name]
        assert metrics.hendrycks_rms(confidence, correct) == pytest.approx(
            published(confidence, correct), rel=0, abs=1e-10
        )
    confidence = np.repeat([0.5, 0.99], 150)
    wrong_where_sure = np.concatenate([np.arange(150) % 2, np.zeros(150)])
    assert metrics.hendrycks_rms(confidence, wrong_where_sure) == pytest.approx(
        math.sqrt((0.745 - 0.25) ** 2 / 3)  # [100, 200) has both; [200, 300) is not seen
    )
    with pytest.raises(ValueError, match="at least 200"):
        metrics.hendrycks_rms(confidence[:199], wrong_where_sure[:199])


def test_the_mmlu_repositorys_takes_the_root_twice() -> None:
    """0.3165810...: `rmsce(labels, probs)` of calib_tools.py in hendrycks/test at f112c7a, with numpy 2.4."""
    probs, labels = multiclass()
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    value = metrics.mmlu_rms(confidence, correct)
    assert value == pytest.approx(0.31658104320938174, rel=0, abs=1e-10)
    assert value > 1.25 * metrics.rms_ce(confidence, correct, num_bins=6, scheme="equal_mass")
    # one bin leaves |gap|, of which it takes another root
    gap = metrics.confidence_gap(confidence[:150], correct[:150])
    assert metrics.mmlu_rms(confidence[:150], correct[:150]) == pytest.approx(math.sqrt(abs(gap)))
    with pytest.raises(ValueError, match="at least 100"):
        metrics.mmlu_rms(confidence[:99], correct[:99])
