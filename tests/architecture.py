"""Draw the map of the code in ARCHITECTURE.md from the code itself: `python -m tests.architecture`.

Each package is a frame, with a box for each folder that lists its modules. An arrow means "imports"; a
package may also import packages further down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from tests.sweeping import ROOT
from tests.test_layout import MAY_IMPORT

PICTURE = ROOT / "examples" / "pictures" / "architecture.svg"
FLOORS = (("launcher",), ("training", "evaluation", "analysis"), ("modeling",), ("study",))
"""From top to bottom, as they are drawn."""
COLUMNS = {"study": 7, "modeling": 1, "training": 1, "evaluation": 1, "analysis": 4, "launcher": 7}
COLOURS = {
    "study": "#e8eef7", "modeling": "#e4f1ec", "training": "#fbeee0", "evaluation": "#f7e6ea",
    "analysis": "#efe9f6", "launcher": "#f4f1dc",
}  # fmt: skip
ARROWS = (
    ("launcher", "training"), ("launcher", "evaluation"), ("launcher", "analysis"),
    ("training", "modeling"), ("evaluation", "modeling"), ("modeling", "study"), ("analysis", "study"),
)  # fmt: skip
LINE, BOX_WIDTH, GAP, BETWEEN = 13, 158, 10, 36
"""Pixels."""


def folders(package: str) -> list[str]:
    return [folder for folder in MAY_IMPORT if folder.partition("/")[0] == package]


def modules(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")


def columns_of(package: str) -> list[list[str]]:
    """The folders of a package in columns of similar height."""
    columns: list[list[str]] = [[] for _ in range(min(COLUMNS[package], len(folders(package))))]
    for folder in folders(package):
        min(columns, key=column_height).append(folder)
    return columns


def box_height(folder: str) -> int:
    return LINE * len(modules(folder)) + 26


def column_height(column: Sequence[str]) -> int:
    return sum(box_height(folder) + GAP for folder in column)


def box(folder: str, x: int, y: int) -> Iterator[str]:
    """A folder as a box with its name and its modules."""
    size = f'width="{BOX_WIDTH}" height="{box_height(folder)}"'
    yield f'<rect x="{x}" y="{y}" {size} rx="4" fill="#fff" stroke="#aaa"/>'
    yield f'<text x="{x + 7}" y="{y + 15}" font-weight="bold">{escape(folder)}/</text>'
    for number, module in enumerate(modules(folder), start=1):
        yield f'<text x="{x + 14}" y="{y + 16 + LINE * number}">{escape(module)}</text>'


def svg() -> str:
    columns = {package: columns_of(package) for floor in FLOORS for package in floor}
    widths = {package: len(columns[package]) * (BOX_WIDTH + GAP) + GAP for package in columns}
    heights = {package: max(map(column_height, columns[package])) + 32 for package in columns}
    total = max(sum(widths[package] + 2 * GAP for package in floor) for floor in FLOORS)
    frames: dict[str, tuple[int, int, int]] = {}  # centre, top, bottom
    parts: list[str] = []
    top = GAP
    for floor in FLOORS:
        height = max(heights[package] for package in floor)
        left = (total - sum(widths[package] for package in floor) - 2 * GAP * (len(floor) - 1)) // 2
        if floor == ("modeling",):  # below the two packages that import it
            left = (frames["training"][0] + frames["evaluation"][0] - widths["modeling"]) // 2
        for package in floor:
            size = f'width="{widths[package]}" height="{height}"'
            parts.append(
                f'<rect x="{left}" y="{top}" {size} rx="8" fill="{COLOURS[package]}" stroke="#888"/>'
            )
            name = f'x="{left + GAP}" y="{top + 20}" font-size="15" font-weight="bold"'
            parts.append(f"<text {name}>{package}</text>")
            for number, column in enumerate(columns[package]):
                y = top + 30
                for folder in column:
                    parts += box(folder, left + GAP + number * (BOX_WIDTH + GAP), y)
                    y += box_height(folder) + GAP
            frames[package] = (left + widths[package] // 2, top, top + height)
            left += widths[package] + 2 * GAP
        top += height + BETWEEN
    for above, below in ARROWS:
        (x_above, _, start), (x_below, end, _) = frames[above], frames[below]
        x = x_below if above == "launcher" else x_above
        x_end = x_below if below == "modeling" else x
        line = f'x1="{x}" y1="{start}" x2="{x_end}" y2="{end - 2}"'
        parts.append(f'<line {line} stroke="#666" stroke-width="1.5" marker-end="url(#head)"/>')
    head = (
        '<defs><marker id="head" orient="auto" markerWidth="8" markerHeight="8" refX="7" refY="4">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#666"/></marker></defs>'
    )
    page = f'<rect width="{total}" height="{top - BETWEEN + GAP}" fill="#fff"/>'
    root = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {top - BETWEEN + GAP}"'
    style = 'font-family="Helvetica, Arial, sans-serif" font-size="11" fill="#222">'
    return "\n".join([f"{root} {style}", head, page, *parts, "</svg>", ""])


if __name__ == "__main__":
    Path(PICTURE).write_text(svg(), encoding="utf-8")
