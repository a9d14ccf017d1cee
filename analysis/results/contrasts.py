"""Which cells of a study are compared: what its grid declares, and what its settings and axes give.

First the contrasts that the grid declares (`study/jobs/contrasts.py`). In each setting, the first trained
cell against the base model, every smoothing factor against the least, and the most against the base model.
Then every other axis that varies: each of its values against the first, all else equal; the model is one of
them, for base models and trained ones alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from analysis.reading.shards import Cell, Study, Test
from analysis.results.selection import select_learning_rates
from analysis.results.settings import COMPARED, Series, settings
from study.axes import axis_text

CHANGES_DATA = (
    *("model", "dataset", "num_examples", "exclude_sources", "global_batch_size"),
    *("max_length_tokens", "template"),
)
"""Axes whose values train on other rows, or in another order."""


@dataclass(frozen=True)
class Contrast:
    """Two cells of one test; differences are a - b."""

    test: Test
    a: Series
    b: Series
    name: str | None = None
    """The name that the grid gives it, if any."""

    @property
    def label(self) -> str:
        """`SFT ε=0.1 - SFT ε=0`."""
        sides = f"{self.a.label} - {self.b.label}"
        return sides if self.name is None else f"{self.name}: {sides}"

    @property
    def shares_data_order(self) -> bool:
        """Whether equal training seeds of both saw the same rows in the same order, and so are paired."""
        return all(self.a.cell.get(axis) == self.b.cell.get(axis) for axis in CHANGES_DATA)


@lru_cache(maxsize=2)
def contrasts(study: Study) -> tuple[Contrast, ...]:
    """All contrasts, each once."""
    distinct: dict[tuple[Test, Cell, Cell], Contrast] = {}
    for contrast in (*_declared(study), *_of_settings(study), *_of_axes(study)):
        distinct.setdefault((contrast.test, contrast.a.cell, contrast.b.cell), contrast)
    return tuple(distinct.values())


def _of_settings(study: Study) -> Iterator[Contrast]:
    for setting in settings(study):
        base = [item for item in setting.series if item.cell.is_base]
        trained = [item for item in setting.series if not item.cell.is_base]
        smoothed = sorted(
            (item for item in trained if item.cell.get("label_smoothing") is not None), key=_smoothing
        )
        pairs = [(trained[0], base[0])] if base and trained else []
        pairs += [(item, smoothed[0]) for item in smoothed[1:]]
        pairs += [(smoothed[-1], base[0])] if base and smoothed else []
        for a, b in pairs:
            yield Contrast(setting.test, a, b)


def _declared(study: Study) -> Iterator[Contrast]:
    """Those of the grid, on every test."""
    if not study.contrasts:
        return
    groups = study.groups()
    names = _varied([cell for cell in groups if not cell.is_base]) or ["model"]
    chosen = [
        dict(cell.axes)
        for selection in select_learning_rates(None, study)
        for cell in groups
        if cell.without("learning_rate") == selection.cell
        if cell.get("learning_rate") == selection.chosen
    ]
    contrasts = [replace(one, a=_as_in_cells(one.a), b=_as_in_cells(one.b)) for one in study.contrasts]
    for test in study.tests():
        cells = [cell for cell in groups if study.select(test, cell)]
        for declared in contrasts:
            for a, b in declared.pairs([dict(cell.axes) for cell in cells], chosen):
                one, two = (Series(cell, _label(cell, names)) for cell in (cells[a], cells[b]))
                yield Contrast(test, one, two, declared.name)


def _as_in_cells(side: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The values of a side as cells have them: a list, such as of excluded sources, is a text there."""
    return None if side is None else {axis: Cell.of({axis: value}).get(axis) for axis, value in side.items()}


def _smoothing(item: Series) -> float:
    return float(item.cell.get("label_smoothing"))


def _of_axes(study: Study) -> Iterator[Contrast]:
    for test in study.tests():
        cells = [cell for cell in study.groups() if study.select(test, cell)]
        trained = [cell for cell in cells if not cell.is_base]
        for of_kind in ([cell for cell in cells if cell.is_base], trained):
            for axis in _varied(of_kind):
                if axis not in COMPARED:
                    yield from _of_axis(test, of_kind, axis)


def _of_axis(test: Test, cells: Iterable[Cell], axis: str) -> Iterator[Contrast]:
    """Each value of an axis against the first, all else equal."""
    cells = list(cells)
    names = _varied(cells)
    alike: dict[Cell, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(cell.without(axis), []).append(cell)
    for first, *others in alike.values():
        for cell in others:
            yield Contrast(test, Series(cell, _label(cell, names)), Series(first, _label(first, names)))


def _varied(cells: Iterable[Cell]) -> list[str]:
    """The axes that take more than one value over these cells; being without, as without a cap, is one."""
    cells = list(cells)
    axes = dict.fromkeys(axis for cell in cells for axis, _ in cell.axes)
    return [axis for axis in axes if len({cell.get(axis) for cell in cells}) > 1]


def _label(cell: Cell, names: Iterable[str]) -> str:
    """`SFT lr=2e-05 ε=0.1`: what varies over the study's trained cells; a base model by its name."""
    texts = [
        axis_text(axis, "none" if cell.get(axis) is None else cell.get(axis))
        for axis in names
        if not cell.is_base or axis == "model"
    ]
    return " ".join(texts if cell.is_base else ["SFT", *texts])
