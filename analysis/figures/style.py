"""How the figures look: sizes in inches as journals print them, colours that colour-blind readers tell apart.

pyplot is not used: it keeps figures in a global state and starts a window system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE_IN, DOUBLE_IN = 3.25, 6.75
"""Widths of one and two columns of ICML and ACL pages."""
PNG_DPI = 200
SMALL, TINY = 7.0, 6.0
"""Font sizes in points of tick labels and of numbers inside panels; the rest has 8."""
STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "text.parse_math": False,  # a `$` in a model's name is not a formula
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine writes the same bytes
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.5,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "lines.linewidth": 0.9,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
}
# Okabe and Ito's palette
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "D", "s", "^", "v", "*", "X")
BUCKET_COLOURS = {"high": "#0072B2", "mid": "#009E73", "low": "#D55E00", "other": "#777777"}
MISSING: dict[str, Any] = {"facecolor": "white", "edgecolor": "#999999", "hatch": "//////", "linewidth": 0.0}
GREY = "#888888"
MAX_LABEL = 36

_LEGEND_ROW_IN = 0.15
_CHARACTER_IN, _HANDLE_IN = 0.064, 0.42
"""Room for a character at 8 points, and for the rest of an entry of a legend."""


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib with this style alone, without the user's settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def panels(
    rows: int,
    columns: int,
    *,
    width: float,
    panel_height: float,
    left: float = 0.5,
    right: float = 0.08,
    top: float = 0.2,
    bottom: float = 0.45,
    gap: tuple[float, float] = (0.12, 0.12),
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of axes; all lengths in inches. gap: between columns, between rows."""
    from matplotlib.figure import Figure

    height = top + bottom + rows * panel_height + (rows - 1) * gap[1]
    panel_width = (width - left - right - (columns - 1) * gap[0]) / columns
    figure = Figure(figsize=(width, height))
    axes = [
        [
            figure.add_axes(
                (
                    (left + column * (panel_width + gap[0])) / width,
                    (bottom + (rows - 1 - row) * (panel_height + gap[1])) / height,
                    panel_width / width,
                    panel_height / height,
                )
            )
            for column in range(columns)
        ]
        for row in range(rows)
    ]
    return figure, axes


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of entries fit; entries fill a column before the next."""
    for columns in range(len(labels), 1, -1):
        size, longer = divmod(len(labels), columns)
        starts = [column * size + min(column, longer) for column in range(columns + 1)]
        longest = [max(len(crop(label)) for label in labels[a:b]) for a, b in pairwise(starts)]
        if sum(_CHARACTER_IN * count + _HANDLE_IN for count in longest) <= width:
            return columns
    return 1


def legend_height(labels: Sequence[str], width: float) -> float:
    """The height of a legend above the panels, in inches."""
    return 0.1 + _LEGEND_ROW_IN * -(-len(labels) // legend_columns(labels, width))


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend at the top of the figure, where there must be room of `legend_height`."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles,
        [crop(label) for label in labels],
        loc="upper center",
        bbox_to_anchor=(0.5, 1.0 - 0.02 / height),
        ncols=legend_columns(labels, width),
        borderaxespad=0.0,
        borderpad=0.1,
        labelspacing=0.3,
        columnspacing=1.2,
        handlelength=1.6,
        handletextpad=0.5,
    )


def mark_missing(axes: Axes, text: str = "missing") -> None:
    """Hatch a panel, with the reason in it."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, **MISSING))
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def crop(label: str, room: float | None = None) -> str:
    """A label cut to so many inches, or to what fits into a legend."""
    longest = MAX_LABEL if room is None else max(4, int(room / _CHARACTER_IN))
    return label if len(label) <= longest else label[: longest - 1] + "…"
