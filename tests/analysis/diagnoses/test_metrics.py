"""tables/metrics.csv: every metric, by hand and by scikit-learn; what is not defined is empty."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.diagnoses.diagnose import diagnose
from analysis.diagnoses.rows import Row
from tests.analysis.studies import StudyFolder, letter, random_letters


def rows_of(folder: StudyFolder, confidence: str) -> dict[str, Row]:
    rows = diagnose(folder.root).rows["metrics"]
    return {row["name"]: row for row in rows if row["confidence"] == confidence}


def test_every_metric_by_hand(folder: StudyFolder) -> None:
    """Raw confidence .8, .8, .4 and .4; right, wrong, right, wrong: two bins."""
    sure, unsure = [0.8, 0.1, 0.05, 0.05], [0.4, 0.2, 0.2, 0.2]
    asked = [(sure, 0), (sure, 1), (unsure, 0), (unsure, 1)]
    folder.add({"model": "m"}, "en", [letter(p, label, k) for k, (p, label) in enumerate(asked)])
    row = rows_of(folder, "raw")["en"]
    expected = {
        "n": 4,
        "accuracy": 0.5,
        "chance_normalised_accuracy": 1 / 3,
        "mean_confidence": 0.6,
        "chance_normalised_confidence": (0.6 - 0.25) / 0.75,
        "confidence_gap": 0.1,
        "ece": (0.3 + 0.1) / 2,
        "mce": 0.3,
        "rms_ce": (0.09 / 2 + 0.01 / 2) ** 0.5,
        # each bin: d^2 - acc (1 - acc) / (n - 1)
        "debiased_l2": ((0.09 - 0.25) + (0.01 - 0.25)) / 2,
        "over_confidence": 0.15,
        "under_confidence": 0.05,
        "auroc": 0.5,
        "top_label_brier": (0.04 + 0.64 + 0.36 + 0.16) / 4,
        "reliability": 0.05,
        "resolution": 0.0,
        "uncertainty": 0.25,
        "within": 0.0,
        "classwise_ece": None,
        "hendrycks_rms": None,
        "mmlu_rms": None,
        "nll_refinement": None,
        "auroc_p_norm": None,
    }
    for name, value in expected.items():
        assert row[name] == (value if value is None else pytest.approx(value, abs=1e-7)), name  # float32


def test_what_a_cell_does_not_have_is_empty_and_so_is_its_mean(folder: StudyFolder) -> None:
    from sklearn.metrics import roc_auc_score

    records = random_letters("x", 250, 2.0, 0.6, 0.9)
    folder.add({"model": "m"}, "en", records)
    folder.add({"model": "m"}, "de", [letter([0.7, 0.1, 0.1, 0.1], 0, k) for k in range(5)])  # all right
    folder.add({"model": "m"}, "sw", None)
    rows = rows_of(folder, "renormalised")
    probs = np.exp([record.scores for record in records])
    probs /= probs.sum(axis=1, keepdims=True)
    right = probs.argmax(axis=1) == [record.label for record in records]
    assert rows["en"]["auroc"] == pytest.approx(roc_auc_score(right, probs.max(axis=1)), abs=1e-9)
    scores = np.log(probs)
    scores -= scores.mean(axis=1, keepdims=True)
    ranking = scores.max(axis=1) / np.linalg.norm(scores, axis=1)
    assert rows["en"]["auroc_p_norm"] == pytest.approx(roc_auc_score(right, ranking), abs=1e-9)
    by_rank = ~right[np.argsort(-ranking)]
    assert rows["en"]["aurc_p_norm"] == pytest.approx(np.mean(np.cumsum(by_rank) / np.arange(1, 251)))
    nll = -np.log(probs[np.arange(250), [record.label for record in records]]).mean()
    assert rows["en"]["nll_refinement"] + rows["en"]["nll_calibration"] == pytest.approx(nll)
    assert all(rows["en"][name] is not None for name in ("hendrycks_rms", "mmlu_rms", "classwise_ece"))
    assert [rows["de"][name] for name in ("auroc", "auroc_p_norm", "hendrycks_rms")] == [None] * 3
    assert rows["high"]["auroc"] is None
    assert rows["high"]["ece"] == pytest.approx((rows["en"]["ece"] + rows["de"]["ece"]) / 2)
    assert (rows["sw"]["missing"], rows["sw"]["ece"]) == ("not done", None)
    assert (rows["all"]["missing"], rows["all"]["ece"]) == ("1 of 3 missing", None)
