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
    """Cells to compare: a base model and its trainings under each smoothing factor, all else equal."""

    test: Test
    label: str
    """What sets it apart from the study's other settings; empty where there is just one."""
    series: tuple[Series, ...]


def settings(study: Study) -> list[Setting]:
    """The comparisons of a study, in the order of its plan.

    Base models that no training starts from are compared with each other, in a last setting.
    """
    groups, tests = study.groups(), study.tests()
    trained = [cell for cell in groups if not cell.is_base]
    bases = {cell.get("model"): cell for cell in groups if cell.is_base}
    varied = [axis for axis in varied_axes(trained) if axis not in COMPARED]
    alike: dict[Cell, list[Cell]] = {}
    for cell in trained:
        alike.setdefault(cell.without(*COMPARED), []).append(cell)
    all_settings: list[Setting] = []
    for test in tests:
        # the parts of (benchmark, split, protocol) that set the tests apart
        where = [
            part for part, parts in zip(test, zip(*tests, strict=True), strict=True) if len(set(parts)) > 1
        ]
        for key, cells in alike.items():
            base = [Series(bases[key.get("model")], "base")] if key.get("model") in bases else []
            series = base + [Series(cell, trained_label(cell)) for cell in cells]
            label = " · ".join(where + [axis_text(axis, key.get(axis)) for axis in varied])
            all_settings.append(Setting(test, label, tuple(series)))
        used = {cell.get("model") for cell in trained}
        series = [Series(cell, value_text(model)) for model, cell in bases.items() if model not in used]
        all_settings.append(
            Setting(test, " · ".join([*where, *(["base models"] if trained else [])]), tuple(series))
        )
    planned = (
        replace(
            setting, series=tuple(item for item in setting.series if study.select(setting.test, item.cell))
        )
        for setting in all_settings
    )
    return [setting for setting in planned if setting.series]


def trained_label(cell: Cell) -> str:
    """`SFT ε=0.1`, or `SFT` where smoothing is not an axis."""
    smoothing = cell.get("label_smoothing")
    return "SFT" if smoothing is None else f"SFT {axis_text('label_smoothing', smoothing)}"


def axis_names(study: Study) -> list[str]:
    """Every axis of the study's cells, in the grid's order."""
    return list(dict.fromkeys(axis for cell in study.runs() for axis, _ in cell.axes))


def varied_axes(cells: Iterable[Cell]) -> list[str]:
    """The axes that take more than one value over these cells, in the grid's order."""
    values: dict[str, set[Any]] = {}
    for axis, value in (pair for cell in cells for pair in cell.axes):
        values.setdefault(axis, set()).add(value)
    return [axis for axis, different in values.items() if len(different) > 1]


def constants(study: Study) -> list[str]:
    """The axes with one value over all trained cells (over all cells where none is trained), as text."""
    runs = [cell for cell in study.runs() if not cell.is_base] or study.runs()
    varied = varied_axes(runs)
    return [
        axis_text(axis, value) for axis, value in runs[0].axes if axis not in (*varied, "label_smoothing")
    ]
