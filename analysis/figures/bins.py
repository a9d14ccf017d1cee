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
"""Bins with a smaller share of the predictions are faded: they say little."""
NOTE_IN = 0.1
"""Height of a line of numbers above a panel."""


def plot_languages(diagrams: Diagrams) -> Figure:
    """A panel per language, cells as lines over the bins; a point's area is its share of the predictions."""
    from matplotlib.lines import Line2D

    columns = min(MAX_COLUMNS, len(diagrams.names))
    width = SINGLE_IN if columns <= 3 else DOUBLE_IN
    rows = -(-len(diagrams.names) // columns)
    side = min(MAX_SIDE_IN, (width - 0.5 - 0.08 - 0.1 * (columns - 1)) / columns)
    head = NOTE_IN * len(diagrams.labels) + 0.2
    figure, grid = panels(
        rows, columns, width=width, panel_height=side, top=legend_height(diagrams.labels, width) + head,
        right=width - 0.5 - columns * side - 0.1 * (columns - 1), bottom=0.45, gap=(0.1, head + 0.03),
    )  # fmt: skip
    for place, axes in enumerate(axes for row in grid for axes in row):
        if place >= len(diagrams.names):
            axes.remove()
            continue
        _square(axes, is_left=place % columns == 0, is_bottom=place + columns >= len(diagrams.names))
        title = language_title(diagrams.names[place])
        axes.set_title(title, pad=72 * NOTE_IN * len(diagrams.labels) + 2)
        _draw(axes, diagrams.rows[place], side=side)
    _label(figure, diagrams, "; above: ECE, n")
    figure.supylabel("accuracy", fontsize=8, x=0.01)
    lines = [
        Line2D([], [], color=colour, marker=marker, markersize=3)
        for colour, marker, _ in zip(COLOURS, MARKERS, diagrams.labels, strict=False)
    ]
    add_legend(figure, lines, diagrams.labels)
    return figure


def plot_buckets(diagrams: Diagrams) -> Figure:
    """Bins merged over languages: a row per cell, a column per bucket."""
    columns = len(diagrams.names)
    width = SINGLE_IN if columns <= 2 else DOUBLE_IN
    side = min(MAX_SIDE_IN, (width - 0.68 - 0.1 * (columns - 1)) / columns, 8.0 / len(diagrams.labels) - 0.16)
    figure, grid = panels(
        len(diagrams.labels), columns, width=width, panel_height=side, left=0.6,
        right=width - 0.6 - columns * side - 0.1 * (columns - 1), top=NOTE_IN + 0.25, bottom=0.45,
        gap=(0.1, NOTE_IN + 0.06),
    )  # fmt: skip
    for row, label in enumerate(diagrams.labels):
        for column, name in enumerate(diagrams.names):
            axes = grid[row][column]
            _square(axes, is_left=column == 0, is_bottom=row == len(diagrams.labels) - 1)
            if row == 0:
                axes.set_title(group_title(name), pad=72 * NOTE_IN + 3)
            _draw(axes, [diagrams.rows[column][row]], first=row, side=side)
        grid[row][0].set_ylabel(f"{crop(label, side)}\naccuracy")
    _label(figure, diagrams)
    return figure


def plot_histograms(raw: Diagrams, renormalised: Diagrams) -> Figure:
    """Shares of the predictions over the bins: a row per cell, a column per bucket; dashed: the accuracy."""
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
    """The curves of some cells, and a line of numbers for each above the panel. side: inches."""
    from matplotlib.colors import to_rgba

    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.5, linestyle=":")
    prefix = "ECE " if len(diagrams) == 1 else ""
    for place, diagram in enumerate(diagrams):
        colour, marker = COLOURS[first + place], MARKERS[first + place]
        if diagram.bins is not None:
            filled = diagram.bins.filled
            x, y = diagram.bins.confidence[filled], diagram.bins.accuracy[filled]
            share = diagram.bins.weight[filled]
            is_rare = share < RARE
            axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.15)
            axes.plot(x, np.where(is_rare, np.nan, y), color=colour, linewidth=0.5, alpha=0.5)
            area = (81 * side**2 * share).clip(1.5)
            faces = [to_rgba(colour, 0.2 if rare else 0.7) for rare in is_rare]
            axes.scatter(x, y, s=area, color=faces, marker=marker, linewidths=0, clip_on=False)
        axes.annotate(
            _note(diagram, prefix), (0, 1), (0, 72 * NOTE_IN * (len(diagrams) - 1 - place) + 2),
            xycoords="axes fraction", textcoords="offset points", fontsize=TINY, color=colour,
        )  # fmt: skip
    if all(diagram.bins is None for diagram in diagrams):
        mark_missing(axes, "missing" if any(diagram.num_shards for diagram in diagrams) else "not planned")


def _note(diagram: Diagram, prefix: str) -> str:
    """`ECE 0.123, n=180`; without an ECE where shards are missing, and how many are."""
    if diagram.num_shards == 0:
        return "not planned"
    if diagram.ece is None or diagram.bins is None:
        is_all = diagram.num_missing == diagram.num_shards
        return "missing" if is_all else f"{diagram.num_missing} of {diagram.num_shards} missing"
    return f"{prefix}{diagram.ece:.3f}, n={diagram.bins.num_examples}"


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
    """The accuracy over all examples in the bins."""
    return float(np.sum(bins.weight[bins.filled] * bins.accuracy[bins.filled]))


def _square(axes: Axes, *, is_left: bool, is_bottom: bool) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), yticks=(0.0, 0.5, 1.0))
    axes.set_facecolor("none")  # otherwise it would hide what the neighbour draws on its edge
    axes.set_yticklabels(["0", ".5", "1"] if is_left else [])
    _confidence_ticks(axes, is_labelled=is_bottom)


def _confidence_ticks(axes: Axes, *, is_labelled: bool) -> None:
    axes.set_xticks((0.0, 0.5, 1.0), ["0", ".5", "1"] if is_labelled else ["", "", ""])
    # otherwise the 1 of a panel and the 0 of the next would touch
    first, _, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def _label(figure: Figure, diagrams: Diagrams, about: str = "") -> None:
    """The title of the horizontal axes. about: what the numbers above the panels are."""
    seeds = max(diagram.num_seeds for row in diagrams.rows for diagram in row)
    pooled = f", {seeds} seeds pooled" if seeds > 1 else ""
    text = f"confidence, {diagrams.kind} ({NUM_BINS} bins{pooled}){about}"
    figure.supxlabel(text, fontsize=8, y=0.04 / figure.get_size_inches()[1], va="bottom")
