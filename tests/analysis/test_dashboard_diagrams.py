"""The diagrams of the W&B report: plain dicts of plotly, from the numbers and bins of the tables."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from analysis.aggregate import load_study
from analysis.diagrams import error_figure, level_figure
from analysis.labels import settings
from analysis.metrics import ece
from analysis.reliability import reliability_figure
from analysis.tables import table_rows

from .studies import StudyFolder, letter, sweep


def figures_of(folder: StudyFolder) -> list[dict[str, Any]]:
    study = load_study(folder.root)
    (setting,) = settings(study)
    return [make(study, setting) for make in (level_figure, error_figure, reliability_figure)]


def test_figures_are_valid(folder: StudyFolder) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    for figure in figures_of(sweep(folder)):
        assert figure == json.loads(json.dumps(figure, allow_nan=False))
        go.Figure(json.loads(re.sub(r'"@\w+"', '"#123456"', json.dumps(figure))))


def test_figures_of_a_study_without_any_result(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None)
    for figure in figures_of(folder):
        assert not [trace for trace in figure["data"] if trace.get("hovertemplate") and trace["x"]]


def test_level_figure_shows_every_language_and_cell(folder: StudyFolder) -> None:
    levels = figures_of(sweep(folder, skip=[(0.1, 0, "sw")]))[0]
    assert levels["layout"]["yaxis"]["ticktext"] == [
        "German (de)",
        "English (en)",
        "Ukrainian (uk)",
        "Swahili (sw)",
        "Yoruba (yo)",
    ]
    heights = levels["layout"]["yaxis"]["tickvals"]
    assert heights == sorted(heights, reverse=True)
    rows = table_rows(load_study(folder.root))
    markers = [trace for trace in levels["data"] if trace["mode"] == "markers"]
    assert [trace["name"] for trace in markers[:3]] == ["base", "SFT ε=0", "SFT ε=0.1"]
    base = {row["name"]: row for row in rows if row["dataset"] is None and row["level"] == "language"}
    assert markers[0]["x"] == [base[code]["accuracy"] for code in ("de", "en", "uk", "sw", "yo")]
    assert len(markers[1]["x"]) == 5
    assert len(markers[2]["x"]) == 4  # a missing mean is no point
    for trace in markers:
        for text in trace["text"]:
            assert "n = 60" in text
            assert "job 0000" in text
    assert "seeds: " in markers[1]["text"][0]


def test_reliability_is_drawn_from_the_bins_of_the_ece(folder: StudyFolder) -> None:
    rows = [letter([0.7, 0.1], 0, i) for i in range(3)] + [letter([0.75, 0.1], 1, i) for i in range(3, 5)]
    rows += [letter([0.3, 0.2], 0, 9)]
    folder.add({"model": "m"}, "en", rows)
    reliability = figures_of(folder)[2]
    raw, renormalised = reliability["data"]
    # (0.267, 0.333] holds 0.3 (right), (0.667, 0.733] 0.7 x 3 (right), (0.733, 0.8] 0.75 x 2 (wrong)
    assert raw["x"] == pytest.approx([0.3, 0.7, 0.75], abs=1e-6)
    assert raw["y"] == [1.0, 1.0, 0.0]
    assert "3 of 6 predictions" in raw["text"][1]
    assert renormalised["x"] == pytest.approx([0.6, (3 * 0.875 + 2 * 0.75 / 0.85) / 5], abs=1e-6)
    notes = [note["text"] for note in reliability["layout"]["annotations"]]
    expected = ece([0.7] * 3 + [0.75] * 2 + [0.3], [1, 1, 1, 0, 0, 1])
    assert f"ECE of the pool {expected:.3f}" in notes


def test_an_incomplete_pool_says_so(folder: StudyFolder) -> None:
    reliability = figures_of(sweep(folder, skip=[(0.1, 0, "sw")]))[2]
    notes = [note["text"] for note in reliability["layout"]["annotations"]]
    assert notes.count("14 of 15 shards") == 2
