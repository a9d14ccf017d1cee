"""Whether a contrast's sign holds under other estimators: against the estimators called by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable

import numpy as np
import pytest

from analysis import metrics
from analysis.cli import main
from analysis.diagnoses.multiverse import ESTIMATORS
from analysis.reading.loading import load_study
from analysis.results.differences import difference_rows
from study.bins import FloatArray
from tests.analysis.studies import StudyFolder, letter
from tests.analysis.validation_studies import trained

Estimator = Callable[[FloatArray, FloatArray], float]
BY_HAND: dict[str, Estimator] = {
    "ece": metrics.ece,
    "ece_10": lambda c, y: metrics.ece(c, y, num_bins=10),
    "ece_20": lambda c, y: metrics.ece(c, y, num_bins=20),
    "ece_100": lambda c, y: metrics.ece(c, y, num_bins=100),
    "ace": metrics.ace,
    "ace_10": lambda c, y: metrics.ace(c, y, num_bins=10),
    "ace_20": lambda c, y: metrics.ace(c, y, num_bins=20),
    "ace_100": lambda c, y: metrics.ace(c, y, num_bins=100),
    "smooth_ece": metrics.smooth_ece,
    "debiased_l2": metrics.debiased_l2,
}


def test_each_estimator_and_the_sign_of_its_change(folder: StudyFolder) -> None:
    """Two languages. Training raises renormalised confidence and lowers most raw ones, since less of the
    probability is on the options afterwards.
    """
    rng = np.random.default_rng(3)
    answers: dict[tuple[str, str], tuple[FloatArray, FloatArray, FloatArray]] = {}
    for language in ("en", "sw"):
        correct = rng.uniform(size=60) < 0.5
        for cell, shift, mass in (("base", 0.0, 0.9), ("SFT", 0.2, 0.5)):
            confidence = 0.5503 + np.round(0.2 * rng.uniform(size=60), 3) + shift  # on no edge of a bin
            rows = [
                letter([mass * c, mass * (1 - c)], int(not right), number)
                for number, (c, right) in enumerate(zip(confidence, correct, strict=True))
            ]
            folder.add({"model": "m"} if cell == "base" else trained(), language, rows)
            answers[cell, language] = (confidence, mass * confidence, correct.astype(float))
    assert main(["diagnose", str(folder.root)]) == 0
    with (folder.root / "tables" / "multiverse.csv").open(encoding="utf-8", newline="") as file:
        rows_of_all = [row for row in csv.DictReader(file) if row["level"] == "all"]
    assert {row["estimator"] for row in rows_of_all} == set(ESTIMATORS) == set(BY_HAND)
    assert len(rows_of_all) == 2 * len(ESTIMATORS)
    for row in rows_of_all:
        kind = 0 if row["confidence"] == "renormalised" else 1
        macro = {
            cell: np.mean(
                [
                    BY_HAND[row["estimator"]](answers[cell, lang][kind], answers[cell, lang][2])
                    for lang in ("en", "sw")
                ]
            )
            for cell in ("base", "SFT")
        }
        change = float(macro["SFT"] - macro["base"])
        assert float(row["change"]) == pytest.approx(change, abs=1e-5), row["estimator"]
        assert float(row["headline_change"]) > 0.1
        assert row["has_sign_of_headline"] == str(change > 0)
    same_sign = sum(row["has_sign_of_headline"] == "True" for row in rows_of_all)
    assert 10 <= same_sign < 20
    (headline,) = (row for row in difference_rows(load_study(folder.root)) if row.level == "all")
    written = headline.differences["ece_l2_renormalised"]
    text = (folder.root / "tables" / "multiverse.md").read_text(encoding="utf-8")
    assert f"| {written.value:+.3f} [{written.low:+.3f}, {written.high:+.3f}] | {same_sign} of 20 |" in text
    assert "15 bins of equal width, raw: -0." in text
