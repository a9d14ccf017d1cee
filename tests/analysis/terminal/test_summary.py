"""The summary of a study for the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from analysis.reading.loading import load_study
from analysis.tables.calibration import table_rows
from analysis.terminal.summary import print_summary
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep
from tests.analysis.tables.test_tables import find

NAMES = ("accuracy", "confidence_renormalised", "confidence_raw", "ece_l2_renormalised", "ece_l2_raw")


def printed(folder: StudyFolder, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_summary(folder.root, console)
    return console.export_text()


def test_summary_of_the_demo_fits_100_columns(folder: StudyFolder) -> None:
    sweep(folder)
    text = printed(folder)
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert lines[0].strip() == "tiny · cldr-tiny · cldr-instruct · lr=0.001"
    (header,) = (line for line in lines if "SFT" in line)
    assert header.split() == "base SFT ε=0 (3 seeds) SFT ε=0.1 (3 seeds)".split()

    rows = table_rows(load_study(folder.root))
    expected = []
    for smoothing in (None, 0.0, 0.1):
        row = find(rows, label_smoothing=smoothing, seed=None, level="language", name="sw")
        expected += [f"{row[name]:.3f}".lstrip("0") for name in NAMES]
    (swahili,) = (line for line in lines if "Swahili" in line)
    assert swahili.split() == ["sw", "Swahili", *expected]
    totals = [
        line.strip().split("  ")[0] for line in lines if line.startswith((" high", " mid", " low", " all"))
    ]
    assert totals == ["high (2)", "mid (1)", "low (2)", "all (5)"]
    assert "n = 60 a language" in text
    assert "0 of 35 shards missing." in " ".join(text.split())


def test_summary_says_what_is_missing(folder: StudyFolder) -> None:
    sweep(folder, skip=[(0.1, 0, "sw"), (0.1, 1, "sw"), (0.0, 1, "de")])
    text = " ".join(printed(folder).split())
    assert "2 of 3 missing" in text
    assert "2 of 15 missing" in text
    assert "3 of 35 shards missing (2 not done, 1 failed)." in text


def test_summary_breaks_into_tables_where_the_terminal_is_narrow(folder: StudyFolder) -> None:
    sweep(folder)
    text = printed(folder, width=50)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 50
    assert sum("Swahili" in line for line in text.splitlines()) == 3


def test_an_error_below_0_has_its_sign_and_what_is_not_there_a_dash(folder: StudyFolder) -> None:
    """One of two is right, at a confidence of .5 each: a square of -.25; raw has none."""
    rows = [letter([0.5, 0.5], 0), letter([0.5, 0.5], 1, 1)]
    rows = [replace(row, option_mass=None, option_num_tokens=[1, 1]) for row in rows]
    folder.add({"model": "m"}, "sw", rows, protocol="option_text")
    (swahili,) = (line for line in printed(folder).splitlines() if "Swahili" in line)
    assert swahili.split()[2:] == [".500", ".500", ".500", "-.50", "-"]


def test_summary_of_many_settings_is_one_line_a_cell(folder: StudyFolder) -> None:
    for rate in (1e-6, 5e-6, 1e-5, 5e-5, 1e-4):
        cell = {"model": "org/[bold]m", "dataset": "d", "learning_rate": rate, "label_smoothing": 0.0}
        folder.add(cell, "en", random_letters(f"{rate}", 20, 1.0, 0.5, 0.9))
    text = printed(folder)
    assert "lr=5e-06" in text
    assert text.count("SFT ε=0") == 5
    assert "[bold]m" in text
    assert "English" not in text
