"""Figures: legible, and with what is missing marked."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from analysis.figures.bins import plot_buckets, plot_histograms, plot_languages
from analysis.figures.data import (
    Diagram,
    Diagrams,
    Matrix,
    prepare_changes,
    prepare_diagrams,
    prepare_matrix,
    prepare_responses,
)
from analysis.figures.style import DOUBLE_IN, SINGLE_IN, house_style
from analysis.figures.values import plot_heat_map, plot_response, plot_slopes
from analysis.reading.headline import BY_NAME, HEADLINE
from analysis.reading.loading import load_study
from analysis.reading.shards import Missing, Study
from analysis.results.table import Number
from study.benchmarks.definition import definition_of
from study.bins import bin_predictions
from tests.analysis.figures.test_figures_data import only_setting, rates
from tests.analysis.studies import StudyFolder, random_letters, sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

GLOBAL_MMLU = definition_of("global_mmlu").languages


def figures_of(study: Study) -> Iterator[tuple[str, Figure]]:
    """Every kind of figure of a study with one setting."""
    setting = only_setting(study)
    raw, renormalised = (prepare_diagrams(study, setting, kind, "bucket") for kind in ("raw", "renormalised"))
    errors = prepare_matrix(study, setting, BY_NAME["ece_l2_raw"])
    yield "languages", plot_languages(prepare_diagrams(study, setting, "raw", "language"))
    yield "buckets", plot_buckets(raw)
    yield "histograms", plot_histograms(raw, renormalised)
    yield "slopes", plot_slopes([prepare_matrix(study, setting, metric) for metric in HEADLINE])
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


def values(*given: float | None) -> tuple[Number, ...]:
    return tuple(
        Number(v, v and v - 0.01, v and v + 0.01, None, None if v else Missing("not done")) for v in given
    )


def test_missing_cells_are_hatched_and_the_legend_says_so() -> None:
    from matplotlib.patches import Rectangle

    matrix = Matrix(
        BY_NAME["ece_raw"], ("en", "sw"), ("base", "SFT"), (values(0.1, 0.2), values(0.3, None)), True, True
    )
    with house_style():
        figure = plot_heat_map(matrix, prepare_changes(matrix))
        complete = plot_heat_map(
            Matrix(BY_NAME["ece_raw"], ("en",), ("base", "SFT"), (values(0.1, 0.2),), True, True), None
        )
    hatched = [one.get_xy() for one in figure.axes[0].findobj(Rectangle) if one.get_hatch()]
    assert hatched == [(1, 1)]
    written = [one.get_text() for one in texts(figure)]
    assert written.count("missing") == 1
    assert {".100", ".200", ".300", "+.100"} <= set(written)
    assert ".000" not in written
    assert "missing" not in [one.get_text() for one in texts(complete)]


def test_a_number_that_a_cell_does_not_have_is_not_missing() -> None:
    """Such as an L2 ECE where no bin holds two examples: nothing is drawn, and nothing hatched."""
    from matplotlib.patches import Rectangle

    rows = (values(0.1, 0.2), (Number(), *values(0.3)))
    matrix = Matrix(BY_NAME["ece_l2_raw"], ("en", "sw"), ("base", "SFT"), rows, True, True)
    with house_style():
        figures = plot_heat_map(matrix, prepare_changes(matrix)), plot_slopes([matrix])
    for figure in figures:
        assert "missing" not in [one.get_text() for one in texts(figure)]
        assert not [one for one in figure.findobj(Rectangle) if one.get_hatch()]


def test_an_error_below_0_has_the_colour_of_0() -> None:
    metric = BY_NAME["ece_l2_raw"]
    row = (Number(-0.3), *values(0.2), Number(0.0))
    matrix = Matrix(metric, ("en",), ("base", "SFT ε=0", "SFT ε=0.1"), (row,), True, True)
    with house_style():
        figure = plot_heat_map(matrix, None)
    (mesh,) = figure.axes[0].collections
    assert mesh.get_clim() == (0.0, 0.2)
    below, largest, zero = mesh.to_rgba(np.array([-0.3, 0.2, 0.0])).tolist()
    assert below == zero != largest
    assert "−.300" in [one.get_text() for one in texts(figure)]


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


def test_a_missing_value_breaks_the_line_and_its_place_is_hatched() -> None:
    from matplotlib.patches import Rectangle

    languages, labels = ("en", "sw"), ("base", "SFT ε=0", "SFT ε=0.1")
    matrix = Matrix(
        BY_NAME["accuracy"], languages, labels, (values(0.5, None, 0.4), values(0.3, 0.2, 0.1)), True, True
    )
    with house_style():
        figure = plot_slopes([matrix])
    (axes,) = figure.axes
    (hatched,) = [one for one in axes.findobj(Rectangle) if one.get_hatch()]
    # from edge to edge, in the middle of the first language: it is nowhere near a value
    box = hatched.get_window_extent().transformed(axes.transAxes.inverted())
    assert (box.y0, box.y1) == pytest.approx((0.0, 1.0))
    ends = axes.transData.inverted().transform(hatched.get_window_extent().get_points())[:, 0]
    assert -0.31 < ends[0] < ends[1] < 0.31
    assert ends.mean() == pytest.approx(0.0)
    assert "x" not in [line.get_marker() for line in axes.lines]
    lines = [
        np.asarray(line.get_ydata(), dtype=float)
        for line in axes.lines
        if len(np.ravel(line.get_xdata())) == 3
    ]
    np.testing.assert_array_equal(lines, [[0.5, np.nan, 0.4], [0.3, 0.2, 0.1]])


def test_intervals_beyond_what_a_share_can_be_do_not_flatten_the_rest() -> None:
    wide = Number(0.5, -2.0, 3.0, None, None)
    with house_style():
        figure = plot_slopes(
            [Matrix(BY_NAME["accuracy"], ("en",), ("base", "SFT"), ((wide, *values(0.6)),), True, True)]
        )
    low, high = figure.axes[0].get_ylim()
    assert -0.1 < low < high < 1.1


def test_rare_bins_are_faint_and_there() -> None:
    """One of 200 predictions is alone in its bin."""
    bins = bin_predictions([0.5] * 100 + [0.9] * 99 + [0.2], [True, False] * 100)
    with house_style():
        figure = plot_languages(
            Diagrams("raw", ("en",), ("base",), ((Diagram(bins, 0.1, 1, 0, 1),),)),
        )
    axes = figure.axes[0]
    (points,) = axes.collections
    assert np.asarray(points.get_offsets())[:, 0] == pytest.approx([0.2, 0.5, 0.9])
    assert np.asarray(points.get_facecolor())[:, 3] == pytest.approx([0.2, 0.7, 0.7])
    _, complete, frequent = axes.lines
    assert np.isfinite(np.asarray(complete.get_ydata(), dtype=float)).all()
    assert np.isnan(np.asarray(frequent.get_ydata(), dtype=float)).tolist() == [True, False, False]
    assert float(complete.get_alpha() or 1) < float(frequent.get_alpha() or 1)


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
        matrix = prepare_matrix(study, only_setting(study), BY_NAME["ece_l2_raw"])
        assert not matrix.has_base
        figure = plot_heat_map(matrix, None)
        check_legible("heat map", figure)
    assert not [text for text in texts(figure) if text.get_text().startswith("+")]
