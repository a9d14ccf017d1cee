"""The training cells of a grid: the product of its axes, with `zip` and `exclude`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from study.errors import UserError, nearest
from study.grid.config import AXES, GridConfig, checked_value

MAX_CELLS = 200_000
Values: TypeAlias = Mapping[str, tuple[Any, Any]]
"""axis -> (value as written, value as used), e.g. ("0.1", 0.1)."""


def cells(config: GridConfig, where: str) -> Iterator[dict[str, Any]]:
    """The training cells, axis -> value, in order; none without a dataset.

    Raises UserError for a `zip` or `exclude` that does not fit the axes, or leaves no cell.
    """
    if "dataset" not in config.grid and "dataset" not in config.train:
        _refuse_values_without_dataset(config, where)
        return
    constants = {"dataset": config.train["dataset"]} if "dataset" in config.train else {}
    _check_rules(config, where)
    used = [False] * len(config.exclude)
    rules = [
        {key: value if isinstance(value, list) else [value] for key, value in rule.items()}
        for rule in config.exclude
    ]
    dimensions = _dimensions(config, where)
    if math.prod(len(dimension) for dimension in dimensions) > MAX_CELLS:
        raise UserError(
            f"has more than {MAX_CELLS:,} cells", where=f"{where}: grid", remedy="shorten some axes"
        )
    empty = True
    for chosen in itertools.product(*dimensions):
        values = {axis: pair for part in chosen for axis, pair in part.items()}
        matched = [i for i, rule in enumerate(rules) if _matches(values, rule)]
        for i in matched:
            used[i] = True
        if not matched:
            empty = False
            yield {**{axis: pair[1] for axis, pair in values.items()}, **constants}
    if empty:
        raise UserError("leaves no cell", where=f"{where}: exclude", remedy="remove a rule")
    if not all(used):
        raise UserError(
            "matches no cell",
            where=f"{where}: exclude[{used.index(False)}]",
            remedy="correct it or remove it",
        )


def _dimensions(config: GridConfig, where: str) -> list[list[Values]]:
    """The factors of the product: single axes, and zip groups."""
    groups = _zip_groups(config, where)
    zipped = {axis for group in groups for axis in group}
    groups += [[axis] for axis in config.grid if axis not in zipped]
    pairs = {
        axis: [(value, checked_value(axis, value, f"{where}: grid")) for value in values]
        for axis, values in config.grid.items()
    }
    ordered = sorted((sorted(group, key=AXES.index) for group in groups), key=lambda g: AXES.index(g[0]))
    return [
        [dict(zip(group, row, strict=True)) for row in zip(*(pairs[axis] for axis in group), strict=True)]
        for group in ordered
    ]


def _zip_groups(config: GridConfig, where: str) -> list[list[str]]:
    seen: set[str] = set()
    for index, group in enumerate(config.zip):
        place = f"{where}: zip[{index}]"
        if not isinstance(group, list) or len(group) < 2:
            raise UserError(
                "not a list of two axes or more", where=place, remedy="e.g. zip: [[model, learning_rate]]"
            )
        for axis in group:
            if axis not in config.grid:
                raise UserError(
                    f"{axis!r} is not an axis of this grid",
                    where=place,
                    remedy=nearest(str(axis), config.grid),
                )
            if axis in seen:
                raise UserError(f"'{axis}' is zipped twice", where=place, remedy="name it once")
            seen.add(axis)
        lengths = {axis: len(config.grid[axis]) for axis in group}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{axis} {length}" for axis, length in lengths.items())
            raise UserError(
                f"zipped axes must have the same number of values ({counts})",
                where=place,
                remedy="add or remove values",
            )
    return [list(group) for group in config.zip]


def _check_rules(config: GridConfig, where: str) -> None:
    for index, rule in enumerate(config.exclude):
        if not isinstance(rule, dict) or not rule:
            raise UserError(
                "not a mapping of axes", where=f"{where}: exclude[{index}]", remedy="e.g. {model: x, seed: 1}"
            )
        for key in rule:
            if key not in config.grid:
                raise UserError(
                    "is not an axis of this grid",
                    where=f"{where}: exclude[{index}].{key}",
                    remedy=nearest(str(key), config.grid),
                )


def _matches(values: Values, rule: Mapping[str, Sequence[Any]]) -> bool:
    return all(any(value in excluded for value in values[axis]) for axis, excluded in rule.items())


def _refuse_values_without_dataset(config: GridConfig, where: str) -> None:
    if config.exclude or config.zip:
        key = "exclude" if config.exclude else "zip"
        raise UserError(
            "applies to training cells, and this grid has none",
            where=f"{where}: {key}",
            remedy="remove it, or leave models out of grid.model",
        )
    extra = [axis for axis in (*config.grid, *config.train) if axis != "model"]
    if extra:
        raise UserError(
            "has training values but no dataset",
            where=f"{where}: {'grid' if extra[0] in config.grid else 'train'}.{extra[0]}",
            remedy="add grid.dataset, or remove them to evaluate base models alone",
        )
