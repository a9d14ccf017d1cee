"""Figures: legible, with real fonts, the same bytes each time, and with what is missing marked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from analysis.aggregate import Study, load_study
from analysis.cli import FIGURE_FORMATS, main
from analysis.figures import FORMATS, write_figures
from analysis.figures_bins import plot_buckets, plot_histograms, plot_languages
from analysis.figures_data import (
    METRICS,
    Matrix,
    Value,
    prepare_changes,
    prepare_diagrams,
    prepare_matrix,
    prepare_responses,
)
from analysis.figures_style import DOUBLE_IN, SINGLE_IN, house_style, number
from analysis.figures_values import plot_heat_map, plot_response, plot_slopes
from study.languages import LANGUAGES as ALL_LANGUAGES

from .studies import StudyFolder, random_letters, sweep
from .test_figures_data import only_setting, rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

ROOT = Path(__file__).parents[2]
GLOBAL_MMLU = [code for code, language in ALL_LANGUAGES.items() if language.in_global_mmlu]


def figures_of(study: Study) -> Iterator[tuple[str, Figure]]:
    """Every kind of figure of a study with one setting."""
    setting = only_setting(study)
    raw, renormalised = (prepare_diagrams(study, setting, kind, "bucket") for kind in ("raw", "renormalised"))
    errors = prepare_matrix(study, setting, "ece_raw")
    yield "languages", plot_languages(prepare_diagrams(study, setting, "raw", "language"))
    yield "buckets", plot_buckets(raw)
    yield "histograms", plot_histograms(raw, renormalised)
    yield "slopes", plot_slopes([prepare_matrix(study, setting, metric) for metric in METRICS])
    yield "heat map", plot_heat_map(errors, prepare_changes(errors))
    for response in prepare_responses(study):
        yield "response", plot_response(response)


def texts(figure: Figure) -> list[Text]:
    """All that is written on it and shows."""
    from matplotlib.text import Text

    return [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]


def not_drawn(figure: Figure) -> set[int]:
    """Labels of ticks beyond an axis' limits: matplotlib keeps them."""
    found = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                found |= {id(tick.label1), id(tick.label2)}
    return found


def check_legible(name: str, figure: Figure) -> None:
    """No text over another, none beyond the figure's edge, none smaller than 6 points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer: Any = canvas.get_renderer()  # type: ignore[no-untyped-call]
    width, height = figure.get_size_inches() * figure.dpi
    assert figure.get_size_inches()[0] in (SINGLE_IN, DOUBLE_IN)
    shown = [
        (one.get_text(), one.get_window_extent(renderer))
        for one in texts(figure)
        if id(one) not in not_drawn(figure)
    ]
    assert len(shown) > 10
    for text, box in shown:
        assert box.x0 >= -0.5, (name, text)
        assert box.y0 >= -0.5, (name, text)
        assert box.x1 <= width + 0.5, (name, text)
        assert box.y1 <= height + 0.5, (name, text)
    for (text, box), (other, its) in combinations(shown, 2):
        # boxes have room above and below the letters: a point of it may be shared
        overlap_x = min(box.x1, its.x1) - max(box.x0, its.x0)
        overlap_y = min(box.y1, its.y1) - max(box.y0, its.y0)
        slack = figure.dpi / 72
        assert overlap_x <= slack or overlap_y <= 1.5 * slack, (name, text, other)
    assert min(float(one.get_fontsize()) for one in texts(figure)) >= 6.0


def test_42_languages_are_legible(folder: StudyFolder) -> None:
    skip = [(0.1, 0, "sw"), (0.0, 0, "yo"), (0.1, 0, "yo")]
    study = load_study(sweep(folder, seeds=1, languages=GLOBAL_MMLU, count=20, skip=skip).root)
    with house_style():
        names = []
        for name, figure in figures_of(study):
            check_legible(name, figure)
            assert figure.get_size_inches()[1] <= 9.5
            names.append(name)
    assert names == ["languages", "buckets", "histograms", "slopes", "heat map", "response"]


@pytest.mark.parametrize("languages", [["en"], ["xx-own"], ["en", "sw"]])
def test_few_languages_are_legible(folder: StudyFolder, languages: list[str]) -> None:
    study = load_study(sweep(folder, seeds=1, languages=languages).root)
    with house_style():
        for name, figure in figures_of(study):
            check_legible(name, figure)


def test_learning_rates_are_legible(folder: StudyFolder) -> None:
    with house_style():
        for response in prepare_responses(rates(folder, skip=(5e-5, 0.1, "sw"))):
            check_legible("response", plot_response(response))


def values(*given: float | None) -> tuple[Value, ...]:
    return tuple(Value(v, v and v - 0.01, v and v + 0.01, None, None if v else "not done") for v in given)


def test_missing_cells_are_hatched_and_the_legend_says_so() -> None:
    from matplotlib.patches import Rectangle

    matrix = Matrix(
        "ece_raw", ("en", "sw"), ("base", "SFT"), (values(0.1, 0.2), values(0.3, None)), True, True
    )
    with house_style():
        figure = plot_heat_map(matrix, prepare_changes(matrix))
        complete = plot_heat_map(
            Matrix("ece_raw", ("en",), ("base", "SFT"), (values(0.1, 0.2),), True, True), None
        )
    hatched = [one.get_xy() for one in figure.axes[0].findobj(Rectangle) if one.get_hatch()]
    assert hatched == [(1, 1)]
    written = [one.get_text() for one in texts(figure)]
    assert written.count("missing") == 1
    assert {".100", ".200", ".300", "+.100"} <= set(written)
    assert ".000" not in written
    assert "missing" not in [one.get_text() for one in texts(complete)]


def test_all_missing(folder: StudyFolder) -> None:
    """A study that was only planned: every panel says so, nothing is drawn at 0."""
    cells = [(smoothing, 0, code) for smoothing in (0.0, 0.1) for code in ("en", "sw")]
    sweep(folder, seeds=1, languages=["en", "sw"], skip=cells)
    for job in folder.jobs:
        (folder.root / "jobs" / job["job_id"] / "DONE").unlink(missing_ok=True)
    study = load_study(folder.root)
    assert len(study.missing) == len(study.shards)
    with house_style():
        for name, figure in figures_of(study):
            assert "missing" in [one.get_text() for one in texts(figure)], name
            for axes in figure.axes:
                lines = [line for line in axes.lines if line.get_transform() == axes.transData]
                drawn = {y for line in lines for y in np.asarray(line.get_ydata(), dtype=float).tolist()}
                diagonal = {0.0, 1.0} if name in ("languages", "buckets") else set()
                assert {y for y in drawn if y == y} <= diagonal, name


def test_a_missing_value_breaks_the_line_and_is_crossed() -> None:
    languages, labels = ("en", "sw"), ("base", "SFT ε=0", "SFT ε=0.1")
    matrix = Matrix(
        "accuracy", languages, labels, (values(0.5, None, 0.4), values(0.3, 0.2, 0.1)), True, True
    )
    with house_style():
        figure = plot_slopes([matrix])
    (axes,) = figure.axes
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert len(crosses) == 1
    lines = [
        np.asarray(line.get_ydata(), dtype=float)
        for line in axes.lines
        if len(np.ravel(line.get_xdata())) == 3
    ]
    np.testing.assert_array_equal(lines, [[0.5, np.nan, 0.4], [0.3, 0.2, 0.1]])


def test_intervals_beyond_what_a_share_can_be_do_not_flatten_the_rest() -> None:
    wide = Value(0.5, -2.0, 3.0, None, None)
    with house_style():
        figure = plot_slopes(
            [Matrix("accuracy", ("en",), ("base", "SFT"), ((wide, *values(0.6)),), True, True)]
        )
    low, high = figure.axes[0].get_ylim()
    assert -0.1 < low < high < 1.1


def test_files_are_the_same_bytes_in_another_process(folder: StudyFolder) -> None:
    sweep(folder, seeds=2, languages=["en", "sw", "yo"], skip=[(0.1, 1, "sw")])
    paths = list(write_figures(folder.root))
    first = {path.name: path.read_bytes() for path in paths}
    assert sorted(first) == sorted(path.name for path in (folder.root / "figures").iterdir())
    kinds = (
        "confidence heatmap-ece-raw heatmap-ece-renormalised reliability-buckets-raw "
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


def test_a_pdf_has_true_type_fonts_and_no_time(folder: StudyFolder) -> None:
    sweep(folder, seeds=1, languages=["en", "sw"])
    for path in write_figures(folder.root, formats=["pdf"]):
        content = path.read_bytes()
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
        whole = content + b"".join(inflated(stream) for stream in streams)
        assert b"/CIDFontType2" in whole, path
        assert b"/FontFile2" in whole, path
        assert b"/Type3" not in whole, path
        assert b"Date" not in whole, path
        assert b"/Subtype /Image" not in whole.replace(b"/Subtype/Image", b"/Subtype /Image"), path


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


def test_several_base_models_are_not_joined_and_have_no_changes(folder: StudyFolder) -> None:
    names = ("an-organisation/a-model-with-a-very-long-name-indeed-and-longer", "b/small", "c/other", "d/new")
    for model in names:
        for code in ("en", "sw", "xx-own"):
            folder.add({"model": model}, code, random_letters(model + code, 40, 2.0, 0.5, 0.9))
    study = load_study(folder.root)
    with house_style():
        for name, figure in figures_of(study):
            if name == "heat map":
                continue
            check_legible(name, figure)
            if name == "slopes":
                lengths = {len(np.ravel(line.get_xdata())) for axes in figure.axes for line in axes.lines}
                assert len(names) not in lengths
        matrix = prepare_matrix(study, only_setting(study), "ece_raw")
        assert not matrix.has_base
        figure = plot_heat_map(matrix, None)
        check_legible("heat map", figure)
    assert not [text for text in texts(figure) if text.get_text().startswith("+")]


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(0.1234, False, ".123"), (0.9999, False, "1.000"), (-0.1, True, "-.100"), (-0.0001, True, "+.000")],
)
def test_numbers(value: float, signed: bool, text: str) -> None:
    assert number(value, signed=signed) == text


def test_the_command_line_knows_the_formats(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert FIGURE_FORMATS == FORMATS
    sweep(folder, seeds=1, languages=["en"])
    assert main(["figures", str(folder.root), "--format", "pdf"]) == 0
    assert {path.suffix for path in (folder.root / "figures").iterdir()} == {".pdf"}
    assert capsys.readouterr().out.count("\n") == 9


def test_importing_does_not_import_matplotlib() -> None:
    code = "import sys, analysis.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
