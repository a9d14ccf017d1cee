"""`compare A B`: intervals and tests of its differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.inference.bootstrap import resample
from analysis.results.compare import compare
from tests.analysis.replicates import student
from tests.analysis.results.test_compare import CELL, found_row, like
from tests.analysis.studies import StudyFolder, random_letters


def test_intervals_are_of_the_shared_draw(both: tuple[StudyFolder, StudyFolder]) -> None:
    """Against rows weighted one by one; B has a language more, and with it an item that A never asked."""
    a, b = both
    rows = random_letters("x", 50, 2.0, 0.6, 0.9)
    others = like(rows, "y", 4.0)
    a.add(CELL, "en", rows)
    b.add(CELL, "en", others)
    b.add(CELL, "de", [*rows, replace(rows[0], example_id="new")])
    change = found_row(compare(a.root, b.root), "en").changes["accuracy"].difference
    resamples = resample([*(row.example_id for row in rows), "new"])
    weight = resamples.counts[:, resamples.rows([row.example_id for row in rows])].astype(float)
    right = [[row.scores.index(max(row.scores)) == row.label for row in side] for side in (rows, others)]
    draws = weight @ (np.array(right[1], float) - np.array(right[0], float)) / weight.sum(axis=1)
    expected = student(change.value, draws.std(ddof=1), 49)
    assert (change.low, change.high, change.p_value) == pytest.approx(expected, rel=1e-6)
    assert change.holm == change.p_value  # one language


def test_equal_studies_do_not_differ(both: tuple[StudyFolder, StudyFolder]) -> None:
    """Seeds are paired: their spread says nothing where each is the same in both."""
    for folder in both:
        for language in ("en", "sw"):
            for seed in range(3):
                rows = random_letters(f"{language}{seed}", 40, 2.0, 0.3 * seed, 0.9)
                folder.add({**CELL, "seed": seed}, language, rows)
    a, b = both
    for row in compare(a.root, b.root).rows:
        for metric in ("accuracy", "confidence_raw", "ece_l2_raw", "auroc_renormalised", "nll"):
            change = row.changes[metric].difference
            assert (change.low, change.high, change.p_value) == (0.0, 0.0, 1.0)
            assert change.holm == (1.0 if row.level == "language" else None)


def test_holm_runs_over_the_languages_of_a_cell(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    for smoothing in (0.0, 0.1):
        for language, sharpness in (("en", 2.2), ("de", 2.1), ("sw", 2.05)):
            rows = random_letters(language, 40, 2.0, 0.6, 0.9)
            a.add({**CELL, "label_smoothing": smoothing}, language, rows)
            other = like(rows, f"b{language}", sharpness)
            b.add({**CELL, "label_smoothing": smoothing}, language, other)
    found = [row for row in compare(a.root, b.root).rows if row.level == "language"]
    assert len(found) == 6
    for cell in (found[:3], found[3:]):
        p = sorted((row.changes["confidence_raw"].difference.p_value or 0.0, row.name) for row in cell)
        steps = [min(1.0, value * (3 - rank)) for rank, (value, _) in enumerate(p)]
        truth = {name: max(steps[: rank + 1]) for rank, (_, name) in enumerate(p)}
        for row in cell:
            assert row.changes["confidence_raw"].difference.holm == pytest.approx(truth[row.name])
