"""Figures of bins: reliability diagrams and histograms of confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from analysis.figures.data import Diagram, Diagrams
from analysis.figures.style import (
    COLOURS,
    DOUBLE_IN,
    GREY,
    MARKERS,
    SINGLE_IN,
    TINY,
    add_legend,
    crop,
    legend_height,
    mark_missing,
    panels,
)
from analysis.results.names import group_title, language_title
from study.bins import NUM_BINS, Bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 7
MAX_SIDE_IN = 2.0
RARE = 0.01
"""A bin with a smaller share of the predictions says little: it is faded."""
NOTE_IN = 0.1
"""A line of numbers above a panel."""


def plot_languages(found: Diagrams) -> Figure:
    """A panel a language, its cells as lines over the bins; an area is a share of the predictions."""
    from matplotlib.lines import Line2D

    columns = min(MAX_COLUMNS, len(found.names))
    width = SINGLE_IN if columns <= 3 else DOUBLE_IN
    rows = -(-len(found.names) // columns)
    side = min(MAX_SIDE_IN, (width - 0.5 - 0.08 - 0.1 * (columns - 1)) / columns)
    head = NOTE_IN * len(found.labels) + 0.2
    figure, grid = panels(
        rows, columns, width=width, panel_height=side, top=legend_height(found.labels, width) + head,
        right=width - 0.5 - columns * side - 0.1 * (columns - 1), bottom=0.45, gap=(0.1, head + 0.03),
    )  # fmt: skip
    for place, axes in enumerate(axes for row in grid for axes in row):
        if place >= len(found.names):
            axes.remove()
            continue
        _square(axes, is_left=place % columns == 0, is_bottom=place + columns >= len(found.names))
        title = language_title(found.names[place])
        axes.set_title(title, pad=72 * NOTE_IN * len(found.labels) + 2)
        _draw(axes, found.rows[place], side=side)
    _label(figure, found, "; above: ECE, n")
    figure.supylabel("accuracy", fontsize=8, x=0.01)
    lines = [
        Line2D([], [], color=colour, marker=marker, markersize=3)
        for colour, marker, _ in zip(COLOURS, MARKERS, found.labels, strict=False)
    ]
    add_legend(figure, lines, found.labels)
    return figure


def plot_buckets(found: Diagrams) -> Figure:
    """Merged over languages: a row a cell, a column a bucket."""
    columns = len(found.names)
    width = SINGLE_IN if columns <= 2 else DOUBLE_IN
    side = min(MAX_SIDE_IN, (width - 0.68 - 0.1 * (columns - 1)) / columns, 8.0 / len(found.labels) - 0.16)
    figure, grid = panels(
        len(found.labels), columns, width=width, panel_height=side, left=0.6,
        right=width - 0.6 - columns * side - 0.1 * (columns - 1), top=NOTE_IN + 0.25, bottom=0.45,
        gap=(0.1, NOTE_IN + 0.06),
    )  # fmt: skip
    for row, label in enumerate(found.labels):
        for column, name in enumerate(found.names):
            axes = grid[row][column]
            _square(axes, is_left=column == 0, is_bottom=row == len(found.labels) - 1)
            if row == 0:
                axes.set_title(group_title(name), pad=72 * NOTE_IN + 3)
            _draw(axes, [found.rows[column][row]], first=row, side=side)
        grid[row][0].set_ylabel(f"{crop(label, side)}\naccuracy")
    _label(figure, found)
    return figure


def plot_histograms(raw: Diagrams, renormalised: Diagrams) -> Figure:
    """Shares of the predictions over the bins: a row a cell, a column a bucket; the line is the accuracy."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    columns = len(raw.names)
    width = SINGLE_IN if columns <= 2 else DOUBLE_IN
    labels = ("confidence, raw", "confidence, renormalised", "accuracy")
    figure, grid = panels(
        len(raw.labels), columns, width=width, panel_height=0.95, left=0.7,
        top=legend_height(labels, width) + 0.2, bottom=0.42, gap=(0.1, 0.12),
    )  # fmt: skip
    handles = [
        Patch(facecolor=COLOURS[6], alpha=0.8),
        Line2D([], [], color=COLOURS[1]),
        Line2D([], [], color="black", linestyle="--"),
    ]
    pairs = [
        [(raw.rows[column][row], renormalised.rows[column][row]) for column in range(columns)]
        for row in range(len(raw.labels))
    ]
    weights = [
        float(one.bins.weight.max()) for row in pairs for pair in row for one in pair if one.bins is not None
    ]
    highest = 1.08 * max(weights, default=1.0)
    for row, label in enumerate(raw.labels):
        for column, name in enumerate(raw.names):
            axes = grid[row][column]
            axes.set(xlim=(0, 1), ylim=(0, highest))
            axes.locator_params(axis="y", nbins=4)
            _confidence_ticks(axes, is_labelled=row == len(raw.labels) - 1)
            axes.tick_params(labelleft=column == 0)
            if row == 0:
                axes.set_title(group_title(name), pad=3)
            _draw_histogram(axes, *pairs[row][column])
        grid[row][0].set_ylabel(f"{crop(label, 0.95)}\nshare")
    _label(figure, replace(raw, kind="raw and renormalised"))
    add_legend(figure, handles, labels)
    return figure


def _draw(axes: Axes, diagrams: Sequence[Diagram], *, side: float, first: int = 0) -> None:
    """The lines of some cells, and above the panel a line of numbers for each. side: inches."""
    from matplotlib.colors import to_rgba

    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.5, linestyle=":")
    prefix = "ECE " if len(diagrams) == 1 else ""
    for place, one in enumerate(diagrams):
        colour, marker = COLOURS[first + place], MARKERS[first + place]
        if one.bins is not None:
            filled = one.bins.filled
            x, y = one.bins.confidence[filled], one.bins.accuracy[filled]
            share = one.bins.weight[filled]
            is_rare = share < RARE
            axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.15)
            axes.plot(x, np.where(is_rare, np.nan, y), color=colour, linewidth=0.5, alpha=0.5)
            area = (81 * side**2 * share).clip(1.5)
            faces = [to_rgba(colour, 0.2 if rare else 0.7) for rare in is_rare]
            axes.scatter(x, y, s=area, color=faces, marker=marker, linewidths=0, clip_on=False)
        axes.annotate(
            _note(one, prefix), (0, 1), (0, 72 * NOTE_IN * (len(diagrams) - 1 - place) + 2),
            xycoords="axes fraction", textcoords="offset points", fontsize=TINY, color=colour,
        )  # fmt: skip
    if all(one.bins is None for one in diagrams):
        mark_missing(axes, "missing" if any(one.num_shards for one in diagrams) else "not planned")


def _note(one: Diagram, prefix: str) -> str:
    """`ECE 0.123, n=180`; where shards are missing how many, and no ECE."""
    if one.num_shards == 0:
        return "not planned"
    if one.ece is None or one.bins is None:
        whole = one.num_missing == one.num_shards
        return "missing" if whole else f"{one.num_missing} of {one.num_shards} missing"
    return f"{prefix}{one.ece:.3f}, n={one.bins.num_examples}"


def _draw_histogram(axes: Axes, raw: Diagram, renormalised: Diagram) -> None:
    if raw.bins is None or renormalised.bins is None:
        mark_missing(axes, "missing" if raw.num_shards else "not planned")
        return
    edges = np.append(raw.bins.lo, raw.bins.hi[-1])
    axes.stairs(raw.bins.weight, edges, fill=True, color=COLOURS[6], alpha=0.8)
    axes.stairs(renormalised.bins.weight, edges, color=COLOURS[1], linewidth=0.9)
    axes.axvline(overall_accuracy(raw.bins), color="black", linewidth=0.8, linestyle="--")
    note = f"n={raw.bins.num_examples}"
    if raw.num_missing:
        note += f"\n{raw.num_missing} of {raw.num_shards} missing"
    axes.text(
        0.04, 0.95, note, transform=axes.transAxes, va="top", fontsize=TINY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def overall_accuracy(bins: Bins) -> float:
    """Of all examples in the bins."""
    return float(np.sum(bins.weight[bins.filled] * bins.accuracy[bins.filled]))


def _square(axes: Axes, *, is_left: bool, is_bottom: bool) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), yticks=(0.0, 0.5, 1.0))
    axes.set_facecolor("none")  # or it would cut off what the neighbour draws on its edge
    axes.set_yticklabels(["0", ".5", "1"] if is_left else [])
    _confidence_ticks(axes, is_labelled=is_bottom)


def _confidence_ticks(axes: Axes, *, is_labelled: bool) -> None:
    axes.set_xticks((0.0, 0.5, 1.0), ["0", ".5", "1"] if is_labelled else ["", "", ""])
    # a panel's 1 and the 0 of the next would touch
    first, _, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def _label(figure: Figure, found: Diagrams, about: str = "") -> None:
    """What the horizontal axes are; `about` what the numbers are."""
    seeds = max(one.num_seeds for row in found.rows for one in row)
    pooled = f", {seeds} seeds pooled" if seeds > 1 else ""
    text = f"confidence, {found.kind} ({NUM_BINS} bins{pooled}){about}"
    figure.supxlabel(text, fontsize=8, y=0.04 / figure.get_size_inches()[1], va="bottom")
