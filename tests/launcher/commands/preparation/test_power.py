"""`calsweep power`: what a grid can find, with assumed components and with those of an earlier study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.inference.power import Components
from analysis.results.components import ASSUMED
from launcher.cli import main
from study.paths import ROOT
from tests.analysis.studies import StudyFolder, sweep

DEMO = str(ROOT / "examples" / "demo.yaml")


def test_a_grid_of_13_languages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", DEMO]) == 0
    printed = capsys.readouterr().out
    assert "13 languages x 205 questions, 3 seeds" in printed
    assert "assumed: from a pilot of one 270M model" in printed
    assert main(["power", DEMO, "--json"]) == 0
    (before,) = json.loads(capsys.readouterr().out)
    assert main(["power", DEMO, "grid.seed=[0,1,2,3,4,5,6,7]", "--json"]) == 0
    (after,) = json.loads(capsys.readouterr().out)
    for few, many in zip(before["metrics"], after["metrics"], strict=True):
        assert many["detectable"] < few["detectable"]


def test_components_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pilot whose answers are random changes more from question to question than is assumed."""
    folder = StudyFolder(tmp_path / "pilot")
    folder.root.mkdir()
    sweep(folder)
    assert main(["power", DEMO, "--from", str(folder.root), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["components_from"] == f"measured in {folder.root}"
    assumed = ASSUMED["accuracy"]
    assert isinstance(assumed, Components)
    (accuracy,) = (one for one in found["metrics"] if one["metric"] == "accuracy")
    assert accuracy["detectable"] > 3 * assumed.question_sd / (13 * 205) ** 0.5
    assert main(["power", DEMO, "--from", str(tmp_path)]) == 2
    assert "is not a study" in capsys.readouterr().err


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", DEMO, "--change", "0"]) == 2
    assert capsys.readouterr().err == "calsweep: --change: out of range; give a change between 0 and 1\n"
