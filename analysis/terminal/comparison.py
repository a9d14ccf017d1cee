"""A comparison as tables for a terminal, or as CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reading.headline import HEADLINE
from analysis.reading.shards import Cell
from analysis.results.compare import COMPARED, Compared, ComparedRow, Comparison, compare
from analysis.results.names import crop, language_name, short, signed
from analysis.results.settings import trained_label, varied_axes
from analysis.tables.files import to_csv
from analysis.terminal.summary import MAX_SETTINGS, NAME_WIDTH
from study.axes import axis_text
from study.bins import NUM_BINS

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = [metric for metric in HEADLINE if metric in COMPARED] + [
    metric for metric in COMPARED if metric.kind == "gap"
]
"""The metrics of the tables; the CSV has all."""
NUMBER_WIDTH = 18
"""A, B, their difference and its star."""


def _fields(row: ComparedRow, axes: Sequence[str]) -> dict[str, Any]:
    """A row of the CSV, in full precision, with the job ids of both studies in the same order."""
    numbers: dict[str, float | None] = {}
    for metric in (metric.name for metric in COMPARED):
        change = row.changes.get(metric)
        of_metric = (change.a, change.b, change.difference.value) if change else (None,) * 3
        numbers |= dict(zip((f"{metric}_a", f"{metric}_b", f"{metric}_difference"), of_metric, strict=True))
        for name in ("low", "high", "p_value", "holm"):
            numbers[f"{metric}_{name}"] = getattr(change.difference, name) if change else None
    return {
        **dict(zip(("benchmark", "split", "protocol"), row.test, strict=True)),
        **{axis: row.cell.get(axis) for axis in axes},
        "level": row.level,
        "name": row.name,
        "num_seeds": row.num_seeds,
        "n": row.n,
        **numbers,
        "job_ids_a": row.job_ids_a,
        "job_ids_b": row.job_ids_b,
    }


def print_comparison(a_dir: Path, b_dir: Path, *, as_csv: bool = False) -> None:
    """Print a comparison as tables for a terminal or as CSV, and on stderr what was not compared."""
    comparison = compare(a_dir, b_dir)
    if as_csv:
        axes = list(dict.fromkeys(axis for row in comparison.rows for axis, _ in row.cell.axes))
        print(to_csv([_fields(row, axes) for row in comparison.rows]), end="")
    else:
        from study.terminal import make_console

        _print_tables(comparison, make_console(), a_dir, b_dir)
    for sentence in comparison.rest:
        print(f"not compared: {sentence}", file=sys.stderr)


def _print_tables(comparison: Comparison, console: Console, a_dir: Path, b_dir: Path) -> None:
    from rich.text import Text

    console.print(Text(f"A: {a_dir}\nB: {b_dir}", style="bold"))
    cells = list(dict.fromkeys(row.cell for row in comparison.rows))
    labels = _labels(cells)
    for test, of_test in groupby(comparison.rows, lambda row: row.test):
        where, rows = ", ".join(test), list(of_test)
        if len(cells) > MAX_SETTINGS:
            totals = [(labels[row.cell], row) for row in rows if row.level == "all"]
            _print_table(console, f"{where}: all languages, macro", totals)
            continue
        for cell, of_cell in groupby(rows, lambda row: row.cell):
            _print_table(console, f"{where}: {labels[cell]}", [(_name(row), row) for row in of_cell])
    sizes = sorted({row.n for row in comparison.rows if row.level == "language"})
    note = (
        f"n = {sizes[0]}{f' to {sizes[-1]}' if len(sizes) > 1 else ''} items a language, the same in both. "
        "raw: probability over the full vocabulary; ren.: renormalised over the options. L2 "
        f"ECE: root-mean-square calibration error in {NUM_BINS} bins of equal width, (lo, hi], without bias. "
        "Bucket rows and all: macro means over the languages that both have; seeds are averaged. *: p < .05 "
        "that there is no difference, paired by example and seed; of languages after Holm's correction."
    )
    console.print(Text(note, style="dim"))


def _labels(cells: Sequence[Cell]) -> dict[Cell, str]:
    """What sets cells apart: `m · lr=1e-05 · SFT ε=0.1`, `m · base`."""
    varied = [axis for axis in varied_axes(cells) if axis not in ("model", "label_smoothing")]
    all_base = all(cell.is_base for cell in cells)
    labels = {}
    for cell in cells:
        parts = [axis_text(axis, value) for axis, value in cell.axes if axis in ("model", *varied)]
        kind = [] if all_base else ["base" if cell.is_base else trained_label(cell)]
        labels[cell] = " · ".join([*parts, *kind])
    return labels


def _print_table(console: Console, title: str, rows: Sequence[tuple[str, ComparedRow]]) -> None:
    """As many metrics side by side as fit, the others in tables below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"\n{title}", style="bold"))
    width = max(NAME_WIDTH, *(len(name) for name, _ in rows))
    per_table = max(1, (console.width - width - 2) // (NUMBER_WIDTH + 2))
    for start in range(0, len(SHOWN), per_table):
        chosen = SHOWN[start : start + per_table]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True, width=width)
        for metric in chosen:
            heading = f"{metric.heading}\n{'A':>5} {'B':>5} {'B - A':>5}"
            table.add_column(heading, no_wrap=True, width=NUMBER_WIDTH)
        for name, row in rows:
            fields = [_field(row.changes.get(metric.name)) for metric in chosen]
            # Text, since rich takes "[x]" in a model's name for a style
            table.add_row(Text(name), *fields, style="" if row.level == "language" else "bold")
        console.print(table)


def _field(change: Compared | None) -> str:
    """A, B and their difference, with a star where it is significant."""
    if change is None:
        return f"{'-':>5}"
    mark = "*" if change.difference.is_significant else " "
    return f"{short(change.a):>5} {short(change.b):>5} {signed(change.difference.value):>5}{mark}"


def _name(row: ComparedRow) -> str:
    if row.level != "language":
        return row.name
    return crop(f"  {row.name:<3} {language_name(row.name)}", NAME_WIDTH)
