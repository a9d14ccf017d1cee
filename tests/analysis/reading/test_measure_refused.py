"""Records that the schema allows and no model can have written: their shard is refused, and no other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from analysis.cli import main
from analysis.diagnoses.diagnose import diagnose
from analysis.reading.loading import load_study
from study.records import Prediction
from tests.analysis.studies import StudyFolder, letter, random_letters

ROWS = random_letters("x", 20, 2.0, 0.5, 0.9)


def with_mass(mass: float | None) -> Prediction:
    return replace(ROWS[3], option_mass=mass)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (with_mass(math.nan), "option_mass has NaN or infinite values."),
        (with_mass(-0.5), "option_mass must lie in 0..1, but spans -0.5..0.9."),
        (with_mass(7.0), "option_mass must lie in 0..1, but spans 0.9..7."),
        (with_mass(None), "option_mass is there for some records, and null for others."),
    ],
)
def test_what_is_no_probability_is_refused(row: Prediction, reason: str, folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", ROWS)
    bad = folder.add({"model": "m"}, "de", [*ROWS[:3], row, *ROWS[4:]])
    english, german = load_study(folder.root).shards
    assert english.missing is None
    assert str(german.missing) == f"unreadable: jobs/{bad}: {reason}"
    assert main(["tables", str(folder.root), "--format", "csv"]) == 0
    by_language = {row["name"]: row for row in diagnose(folder.root).rows["diagnostics"]}
    assert by_language["de"]["option_mass_mean"] is None
    assert by_language["en"]["option_mass_mean"] == pytest.approx(0.9)


def test_each_rotation_is_looked_at(folder: StudyFolder) -> None:
    """Over its rotations the mean would be all right."""
    rows = [letter([0.6, 0.2], 0), replace(letter([0.6, 0.2], 1), rotation=1, option_mass=1.1)]
    folder.add({"model": "m"}, "en", rows)
    assert "option_mass must lie in 0..1" in str(load_study(folder.root).shards[0].missing)


def test_a_protocol_without_masses_has_none(folder: StudyFolder) -> None:
    rows = [replace(row, option_mass=None, option_num_tokens=[2] * 4, scores=[-0.1] * 4) for row in ROWS]
    folder.add({"model": "m"}, "en", rows, protocol="option_text")
    folder.add({"model": "m"}, "en", [replace(row, option_mass=None) for row in ROWS])
    for shard in load_study(folder.root).shards:
        assert shard.metrics is not None
        assert shard.metrics.values["option_mass"] is None
