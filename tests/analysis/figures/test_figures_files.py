"""The files of figures: the same bytes each time, with real fonts, and named by what sets them apart."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace

import pytest

from analysis.cli import FIGURE_FORMATS, main
from analysis.figures.files import FORMATS, write_figures
from tests.analysis.figures.test_figures_data import rates
from tests.analysis.studies import StudyFolder, random_letters, sweep
from tests.sweeping import ROOT


def test_files_are_the_same_bytes_in_another_process(folder: StudyFolder) -> None:
    sweep(folder, seeds=2, languages=["en", "sw", "yo"], skip=[(0.1, 1, "sw")])
    paths = list(write_figures(folder.root))
    first = {path.name: path.read_bytes() for path in paths}
    assert sorted(first) == sorted(path.name for path in (folder.root / "figures").iterdir())
    kinds = (
        "confidence heatmap-ece-l2-raw heatmap-ece-l2-renormalised reliability-buckets-raw "
        "reliability-buckets-renormalised reliability-languages-raw reliability-languages-renormalised "
        "response slopes"
    )
    assert sorted({path.stem for path in paths}) == kinds.split()
    shutil.rmtree(folder.root / "figures")
    # with other hashes, and a style of the user's own that must not show
    (folder.root / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\n")
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "figures", "."], cwd=folder.root, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "PATH": "/usr/bin", "HOME": str(folder.root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"figures/{path.name}" for path in paths]
    assert "1 of 15 shards are missing" in done.stderr
    for name, content in first.items():
        assert (folder.root / "figures" / name).read_bytes() == content, name


def test_only_what_is_asked_for_is_drawn(folder: StudyFolder) -> None:
    sweep(folder, seeds=1, languages=["en", "sw"])
    complete = {path.name: path.read_bytes() for path in write_figures(folder.root, formats=["png"])}
    shutil.rmtree(folder.root / "figures")
    some = list(write_figures(folder.root, formats=["png"], shown=("slopes", "heatmap-ece-l2-raw")))
    assert [path.name for path in some] == ["slopes.png", "heatmap-ece-l2-raw.png"]
    assert sorted(some) == sorted((folder.root / "figures").iterdir())
    assert all(complete[path.name] == path.read_bytes() for path in some)


def test_a_confidence_that_is_no_probability_has_no_calibration_figure(folder: StudyFolder) -> None:
    """Under option_text, raw confidence is that of an average token."""
    for cell in ({"model": "m"}, {"model": "m", "dataset": "d"}):
        rows = random_letters(f"{cell}", 10, 2.0, 0.5, 0.9)
        rows = [replace(row, option_mass=None, option_num_tokens=[1] * 4) for row in rows]
        folder.add(cell, "en", rows, protocol="option_text")
    names = {path.stem for path in write_figures(folder.root, formats=["png"])}
    kinds = ("heatmap-ece-l2", "reliability-buckets", "reliability-languages")
    assert names == {"confidence", "slopes", *(f"{kind}-renormalised" for kind in kinds)}


def test_a_pdf_has_true_type_fonts_and_no_time(folder: StudyFolder) -> None:
    sweep(folder, seeds=1, languages=["en", "sw"])
    for path in write_figures(folder.root, formats=["pdf"]):
        content = path.read_bytes()
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
        complete = content + b"".join(inflated(stream) for stream in streams)
        assert b"/CIDFontType2" in complete, path
        assert b"/FontFile2" in complete, path
        assert b"/Type3" not in complete, path
        assert b"Date" not in complete, path
        assert b"/Subtype /Image" not in complete.replace(b"/Subtype/Image", b"/Subtype /Image"), path


def inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_names_say_what_sets_settings_apart(folder: StudyFolder) -> None:
    study = rates(folder, count=10)
    some = [
        shard
        for shard in study.shards
        if shard.cell.get("model") == "a/llama" and shard.cell.get("learning_rate") in (None, 1e-5, 1e-4)
    ]
    study = replace(study, shards=tuple(some))
    names = [path.name for path in write_figures(folder.root, formats=["png"], study=study)]
    assert len(set(names)) == len(names) == 2 * 8 + 1
    assert {"slopes_lr-1e-05.png", "slopes_lr-0.0001.png", "response.png"} <= set(names)


def test_models_that_share_a_name_do_not_share_a_file(folder: StudyFolder) -> None:
    for model in ("a/$m$", "b/$m$"):  # a `$` is no formula
        for lr in (1e-5, 1e-4):
            for base in ({"model": model}, {"model": model, "learning_rate": lr, "label_smoothing": 0.0}):
                folder.add(base, "en", random_letters(f"{base}", 10, 2.0, 0.5, 0.9))
    folder.jobs = [job for place, job in enumerate(folder.jobs) if place % 4 != 2]
    folder.write_plan()
    names = [path.name for path in write_figures(folder.root, formats=["png"])]
    assert len(set(names)) == len(names)
    assert {"slopes_m-lr-1e-05.png", "slopes_m-lr-1e-05-2.png"} <= set(names)


def test_many_cells_are_drawn_some_at_a_time(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", random_letters("m", 10, 2.0, 0.5, 0.9))
    for smoothing in (0.0, 0.05, 0.1, 0.2, 0.3):
        cell = {"model": "m", "dataset": "d", "label_smoothing": smoothing}
        folder.add(cell, "en", random_letters(f"{smoothing}", 10, 2.0, 0.5, 0.9))
    names = [path.name for path in write_figures(folder.root, formats=["png"])]
    assert [name for name in names if name.startswith("slopes")] == ["slopes_part-1.png", "slopes_part-2.png"]


def test_the_command_line_knows_the_formats(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert FIGURE_FORMATS == FORMATS
    sweep(folder, seeds=1, languages=["en"])
    assert main(["figures", str(folder.root), "--format", "pdf"]) == 0
    assert {path.suffix for path in (folder.root / "figures").iterdir()} == {".pdf"}
    assert capsys.readouterr().out.count("\n") == 9


def test_importing_does_not_import_matplotlib() -> None:
    code = "import sys, analysis.figures.files; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
