"""Which cells of a study belong side by side, and what sets them apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from analysis.reading.shards import Cell, Study, Test
from study.axes import axis_text, value_text

COMPARED = ("label_smoothing", "seed")
"""Axes inside one setting: smoothing factors are compared side by side, seeds are averaged."""


@dataclass(frozen=True)
class Series:
    """One column of a comparison: a cell without its seed, and its name within the setting."""

    cell: Cell
    label: str


@dataclass(frozen=True)
class Setting:
    """Cells to compare: a base model and what became of it under each smoothing factor, all else equal."""

    test: Test
    label: str
    """What sets it apart from the study's other settings; empty where there is just one."""
    series: tuple[Series, ...]


def settings(study: Study) -> list[Setting]:
    """The comparisons of a study, in the order of its plan.

    A base model that no training starts from stands in a last setting, side by side with the others of its
    kind.
    """
    groups = study.groups()
    trained = [cell for cell in groups if not cell.is_base]
    bases = {cell.get("model"): cell for cell in groups if cell.is_base}
    varied = [axis for axis in varied_axes(trained) if axis not in COMPARED]
    found: list[Setting] = []
    tests = study.tests()
    for test in tests:
        # of benchmark, split and protocol only what tells the tests apart
        where = [
            part
            for part, all_parts in zip(test, zip(*tests, strict=True), strict=True)
            if len(set(all_parts)) > 1
        ]
        for key in dict.fromkeys(cell.without(*COMPARED) for cell in trained):
            cells = [cell for cell in trained if cell.without(*COMPARED) == key]
            base = bases.get(key.get("model"))
            series = [Series(base, "base")] if base is not None else []
            series += [Series(cell, trained_label(cell)) for cell in cells]
            label = " · ".join(where + [axis_text(axis, key.get(axis)) for axis in varied])
            found.append(Setting(test, label, tuple(series)))
        used = {cell.get("model") for cell in trained}
        series = [Series(cell, value_text(model)) for model, cell in bases.items() if model not in used]
        label = " · ".join([*where, "base models"] if trained else where)
        found.append(Setting(test, label, tuple(series)))
    planned = [
        replace(one, series=tuple(item for item in one.series if study.select(one.test, item.cell)))
        for one in found
    ]
    return [setting for setting in planned if setting.series]


def trained_label(cell: Cell) -> str:
    """`SFT smoothing=0.1`, or `SFT` where smoothing is no axis."""
    smoothing = cell.get("label_smoothing")
    return "SFT" if smoothing is None else f"SFT {axis_text('label_smoothing', smoothing)}"


def axis_names(study: Study) -> list[str]:
    """Every axis of the study's cells, in the grid's order."""
    return list(dict.fromkeys(axis for cell in study.runs() for axis, _ in cell.axes))


def varied_axes(cells: Iterable[Cell]) -> list[str]:
    """The axes that take more than one value over these cells, in the grid's order."""
    values: dict[str, list[Any]] = {}
    for cell in cells:
        for axis, value in cell.axes:
            seen = values.setdefault(axis, [])
            if value not in seen:
                seen.append(value)
    return [axis for axis, seen in values.items() if len(seen) > 1]


def constants(study: Study) -> list[str]:
    """The axes with one value over all trained cells (over all cells where none is trained), as text."""
    runs = [cell for cell in study.runs() if not cell.is_base] or study.runs()
    varied = varied_axes(runs)
    return [
        axis_text(axis, value) for axis, value in runs[0].axes if axis not in (*varied, "label_smoothing")
    ]
