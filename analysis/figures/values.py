"""Figures of the tables' numbers: slopes, heat maps, responses to the learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from analysis.figures.data import Matrix, Response
from analysis.figures.style import (
    BUCKET_COLOURS,
    COLOURS,
    DOUBLE_IN,
    GREY,
    MARKERS,
    MISSING,
    SINGLE_IN,
    SMALL,
    TINY,
    add_legend,
    crop,
    legend_height,
    panels,
)
from analysis.reading.headline import Metric
from analysis.reading.shards import bucket_of
from analysis.results.names import decimal, group_title, language_text
from analysis.results.table import NOT_PLANNED, Number
from study.axes import axis_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SINGLE = 14
"""Languages that fit into one column."""
ROW_IN = 0.165
"""Height of a row of a heat map."""


def plot_slopes(matrices: Sequence[Matrix]) -> Figure:
    """A panel per metric; a slot per language, from rich to poor, with its cells from left to right."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    languages, labels = matrices[0].languages, matrices[0].labels
    buckets = list(dict.fromkeys(bucket_of(code) for code in languages))
    width = SINGLE_IN if len(languages) <= MAX_SINGLE else DOUBLE_IN
    marks: list[tuple[Any, str]] = [
        (Line2D([], [], **_marker(place), color="black", linestyle=""), label)
        for place, label in enumerate(labels)
    ]
    marks += [(Line2D([], [], color=BUCKET_COLOURS[b], linewidth=2), group_title(b)) for b in buckets]
    marks.append(_interval_mark())
    if _some_missing(value for matrix in matrices for row in matrix.rows for value in row):
        marks.append((Patch(**MISSING), "missing"))
    names = [label for _, label in marks]
    figure, grid = panels(
        len(matrices), 1, width=width, panel_height=1.3, top=legend_height(names, width) + 0.05, bottom=0.3,
        gap=(0.0, 0.08),
    )  # fmt: skip
    markers = [_marker(place) for place in range(len(labels))]
    room = 0.62 / max(2, len(labels)) / (len(languages) + 0.2)
    offsets = [0.62 * (place / max(1, len(labels) - 1) - 0.5) for place in range(len(labels))]
    for row, matrix in enumerate(matrices):
        axes = grid[row][0]
        axes.set_xlim(-0.6, len(languages) - 0.4)
        for slot, (code, values) in enumerate(zip(languages, matrix.rows, strict=True)):
            colour = BUCKET_COLOURS[bucket_of(code)]
            if slot % 2:
                axes.axvspan(slot - 0.5, slot + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
            x = [slot + offset for offset in offsets]
            _draw_points(axes, x, values, colour=colour, markers=markers, room=room)
            if matrix.is_trained:
                _join(axes, x, values, colour=colour)
        if matrix.metric.is_squared:
            axes.axhline(0.0, color=GREY, linewidth=0.7, zorder=1)
        for edge in range(1, len(languages)):
            if bucket_of(languages[edge]) != bucket_of(languages[edge - 1]):
                axes.axvline(edge - 0.5, color=GREY, linewidth=0.5)
        axes.set_xticks(
            range(len(languages)), languages if row == len(matrices) - 1 else [""] * len(languages)
        )
        axes.tick_params(axis="x", length=0, labelrotation=90 if len(languages) > 8 else 0)
        axes.grid(axis="y")
        axes.set_ylabel(matrix.metric.figure_title)
    _share_limits([grid[row][0] for row in range(len(matrices))], matrices)
    figure.align_ylabels()
    add_legend(figure, [handle for handle, _ in marks], names)
    return figure


def plot_heat_map(matrix: Matrix, changes: Matrix | None) -> Figure:
    """Languages x cells with their numbers; on the right the change against the base, where there is a base.

    Hatched: missing. Blank: not planned, or a number that the cell does not have.
    """
    from matplotlib.patches import Patch

    parts = [matrix] if changes is None else [matrix, changes]
    left, right, gap = 1.4, 0.42, 0.15
    num_columns = sum(len(part.labels) for part in parts)
    natural = left + right + gap + 0.5 * num_columns
    width = SINGLE_IN if natural <= SINGLE_IN else DOUBLE_IN
    cell = (width - left - right - gap * (len(parts) - 1)) / num_columns
    longest = max(len(crop(label)) for part in parts for label in part.labels)
    is_steep = longest * 0.06 > cell
    shown = [value for part in parts for row in part.rows for value in row]
    names = (["missing"] if _some_missing(shown) else []) + (
        ["not planned"] if any(value == NOT_PLANNED for value in shown) else []
    )
    legend = legend_height(names, width) if names else 0.0
    top = legend + 0.22 + (0.06 * longest if is_steep else 0.15)
    body = ROW_IN * len(matrix.languages)
    figure, grid = panels(1, 1, width=width, panel_height=body, left=left, right=right, top=top, bottom=0.5)
    height = figure.get_size_inches()[1]
    at = left
    for part in parts:
        axes = grid[0][0] if part is matrix else figure.add_axes((0, 0, 1, 1))
        span = cell * len(part.labels)
        axes.set_position((at / width, 0.5 / height, span / width, body / height))
        bar = figure.add_axes(
            ((at + 0.05) / width, 0.32 / height, min(1.4, span - 0.1) / width, 0.08 / height)
        )
        _draw_heat(axes, bar, part, is_change=part is changes)
        axes.set_xticks(
            [place + 0.5 for place in range(len(part.labels))],
            [crop(label) for label in part.labels],
            rotation=90 if is_steep else 0,
        )
        title = f"{part.metric.figure_title}{f' − {matrix.labels[0]}' if part is changes else ''}"
        figure.text((at + span / 2) / width, 1 - (legend + 0.05) / height, title, ha="center", va="top")
        at += span + gap
    grid[0][0].set_yticks(
        [place + 0.5 for place in range(len(matrix.languages))],
        [language_text(code) for code in matrix.languages],
    )
    start = 0
    for bucket, members in groupby(matrix.languages, bucket_of):
        size = len(list(members))
        y = (0.5 + body * (1 - (start + size / 2) / len(matrix.languages))) / height
        figure.text(
            1 - (right - 0.06) / width,
            y,
            bucket,
            va="center_baseline",
            fontsize=SMALL,
            color=BUCKET_COLOURS[bucket],
        )
        start += size
    handles = {
        "missing": Patch(**MISSING),
        "not planned": Patch(facecolor="white", edgecolor=GREY, linewidth=0.5),
    }
    if names:
        add_legend(figure, [handles[name] for name in names], names)
    return figure


def plot_response(response: Response) -> Figure:
    """Macro means over languages: a row per metric, a column per bucket, a line per smoothing factor."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    width = SINGLE_IN if len(response.groups) <= 2 else DOUBLE_IN
    marks: list[tuple[Any, str]] = [
        (Line2D([], [], **_marker(place + 1), color=COLOURS[place + 1]), label)
        for place, label in enumerate(response.lines)
    ]
    if response.base:
        marks.append((Line2D([], [], color="black", linestyle="--", linewidth=0.8), "base"))
    marks.append(_interval_mark())
    if _some_missing(
        [value for lines in response.values.values() for line in lines for value in line]
        + list(response.base.values())
    ):
        marks.append((Patch(**MISSING), "missing"))
    names = [label for _, label in marks]
    is_rate = response.axis == "learning_rate"
    is_steep = len(response.x) > 3
    figure, grid = panels(
        len(response.metrics), len(response.groups), width=width, panel_height=1.1,
        top=legend_height(names, width) + 0.2, bottom=0.65 if is_steep else 0.45, gap=(0.1, 0.1), left=0.6,
    )  # fmt: skip
    for row, metric in enumerate(response.metrics):
        for column, group in enumerate(response.groups):
            axes = grid[row][column]
            if is_rate:
                axes.set_xscale("log")
            axes.minorticks_off()
            _pad_x(axes, response.x, is_log=is_rate)
            if (base := response.base.get((metric.name, group))) is not None and base.value is not None:
                axes.axhline(base.value, color="black", linestyle="--", linewidth=0.8)
                if base.low is not None and base.high is not None:
                    axes.axhspan(base.low, base.high, color="black", alpha=0.12, linewidth=0)
            lines = response.values[metric.name, group]
            for place, values in enumerate(lines):
                # side by side, so that intervals do not hide each other
                shift = 1.05 ** (place - (len(lines) - 1) / 2) if is_rate else 1.0
                x, colour = [rate * shift for rate in response.x], COLOURS[place + 1]
                markers = [_marker(place + 1)] * len(x)
                _draw_points(axes, x, values, colour=colour, markers=markers, room=0.05)
                _join(axes, x, values, colour=colour)
            axes.set_xticks(
                response.x,
                [f"{x:g}" for x in response.x]
                if row == len(response.metrics) - 1
                else [""] * len(response.x),
            )
            axes.tick_params(axis="x", labelrotation=90 if is_steep else 0)
            axes.tick_params(axis="y", labelleft=column == 0)
            axes.grid(axis="y")
            if row == 0:
                axes.set_title(group_title(group), pad=3)
        grid[row][0].set_ylabel(metric.figure_title)
        _same_limits(grid[row], metric)
    figure.align_ylabels([row[0] for row in grid])
    figure.supxlabel(axis_title(response.axis), fontsize=8, y=0.04 / figure.get_size_inches()[1], va="bottom")
    add_legend(figure, [handle for handle, _ in marks], names)
    return figure


def _join(axes: Axes, x: Sequence[float], values: Sequence[Number], *, colour: str) -> None:
    """A line that breaks where a value is missing."""
    y = [float("nan") if value.value is None else value.value for value in values]
    axes.plot(x, y, color=colour, linewidth=0.7, zorder=2)


def _draw_points(
    axes: Axes,
    x: Sequence[float],
    values: Sequence[Number],
    *,
    colour: str,
    markers: Sequence[dict[str, Any]],
    room: float,
) -> None:
    """Values with their intervals; the place of a missing value is hatched in its colour, edge to edge.

    room: the width of such a place, as a share of the axes. The axes' limits must have been set.
    """
    from matplotlib.patches import Rectangle

    for at, value, marker in zip(x, values, markers, strict=True):
        if value.value is None:
            if _is_missing(value):
                centre, _ = axes.transAxes.inverted().transform(axes.transData.transform((at, 0.0)))
                look = MISSING | {"edgecolor": colour, "zorder": 0.5, "transform": axes.transAxes}
                axes.add_patch(Rectangle((centre - room / 2, 0.0), room, 1.0, **look))
            continue
        if value.low is not None and value.high is not None:
            axes.plot([at, at], [value.low, value.high], color=colour, linewidth=0.6, zorder=2)
        axes.plot([at], [value.value], color=colour, zorder=3, **marker)


def _draw_heat(axes: Axes, bar: Axes, matrix: Matrix, *, is_change: bool) -> None:
    import matplotlib
    import numpy as np
    from matplotlib.patches import Rectangle

    known = [value.value for row in matrix.rows for value in row if value.value is not None]
    # an error below 0 has the colour of 0
    largest = max((abs(value) if is_change else max(value, 0.0) for value in known), default=1.0) or 1.0
    limits = (-largest, largest) if is_change else (0.0, largest)
    grid = np.array([[np.nan if v.value is None else v.value for v in row] for row in matrix.rows])
    colours = matplotlib.colormaps["PuOr_r" if is_change else "viridis"]
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(grid),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        edgecolors="white",
        linewidth=0.4,
    )
    for row, values in enumerate(matrix.rows):
        for column, value in enumerate(values):
            if value.value is not None:
                share = (value.value - limits[0]) / (limits[1] - limits[0])
                red, green, blue, _ = colours(share)
                is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                axes.text(
                    column + 0.5, row + 0.5, decimal(value.value, sign=is_change), fontsize=TINY,
                    ha="center", va="center_baseline", color="white" if is_dark else "black",
                )  # fmt: skip
            elif _is_missing(value):
                axes.add_patch(Rectangle((column, row), 1, 1, **MISSING))
    for row in range(1, len(matrix.languages)):
        if bucket_of(matrix.languages[row]) != bucket_of(matrix.languages[row - 1]):
            axes.axhline(row, color="black", linewidth=0.8)
    axes.set(xlim=(0, len(matrix.labels)), ylim=(len(matrix.languages), 0), yticks=[])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    if not known:
        bar.remove()
        return
    assert axes.figure is not None
    ticks = (limits[0], 0.0, limits[1]) if is_change else limits
    scale = axes.figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=ticks)
    assert scale.solids is not None
    scale.solids.set(edgecolor="face", rasterized=False)  # otherwise a bitmap in a vector file
    bar.set_xticklabels([decimal(tick, sign=is_change) if tick else "0" for tick in ticks])


def _share_limits(axes: Sequence[Axes], matrices: Sequence[Matrix]) -> None:
    """Accuracy and confidences on one scale, both L2 ECEs on another; others have their own."""
    scales: dict[object, tuple[Metric, list[Axes]]] = {}
    for panel, metric in zip(axes, (matrix.metric for matrix in matrices), strict=True):
        scale = metric.ends if metric.ends == (0.0, 1.0) else metric.kind
        scales.setdefault(scale, (metric, []))[1].append(panel)
    for metric, members in scales.values():
        _same_limits(members, metric)


def _same_limits(axes: Sequence[Axes], metric: Metric) -> None:
    """One scale for panels of a metric."""
    limits = [panel.get_ylim() for panel in axes]
    bottom, top = min(limit[0] for limit in limits), max(limit[1] for limit in limits)
    pad, (least, most) = 0.08 * (top - bottom), metric.ends
    # intervals over two or three seeds may reach far beyond what a metric can be
    for panel in axes:
        panel.set_ylim(max(bottom - pad, least - 0.08), min(top + pad, most + 0.04))


def _pad_x(axes: Axes, x: Sequence[float], *, is_log: bool) -> None:
    if is_log:
        pad = (x[-1] / x[0]) ** 0.12
        axes.set_xlim(x[0] / pad, x[-1] * pad)
    else:
        pad = (x[-1] - x[0]) * 0.12
        axes.set_xlim(x[0] - pad, x[-1] + pad)


def _marker(place: int) -> dict[str, Any]:
    """An open marker for the first cell, filled ones for the others."""
    fill = {"markerfacecolor": "white", "markeredgewidth": 0.7} if place == 0 else {"markeredgewidth": 0.0}
    return {"marker": MARKERS[place], "markersize": 2.8, **fill}


def _interval_mark() -> tuple[Any, str]:
    from matplotlib.lines import Line2D

    upright = Line2D([], [], color=GREY, linewidth=0.7, marker="|", markersize=7, linestyle="")
    return upright, "95%"


def _some_missing(numbers: Iterable[Number]) -> bool:
    return any(map(_is_missing, numbers))


def _is_missing(number: Number) -> bool:
    """Planned, and yet not there; a number without a value may also be one that its cell does not have."""
    return number.missing is not None and number != NOT_PLANNED
