"""Contrasts that a grid declares: which cells are compared, beside those that every study has.

    contrasts:
      - name: smoothing, each at its own learning rate
        a: {label_smoothing: 0.1, learning_rate: chosen}
        b: {label_smoothing: 0.0, learning_rate: chosen}
      - a: {model: org/instruct}
        b: base

A side is the values of some axes, `base` for the model that the other side was trained from. The axes that
neither side names are equal on both. `chosen` is the learning rate that the validation split chooses. They
are outside the identity of jobs: declaring one runs nothing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.errors import UserError, nearest

EQUIVALENCE_MARGIN = 0.01
"""A change below this counts as none, unless the grid says otherwise."""
CHOSEN = "chosen"
BASE = "base"
KEYS = ("name", "a", "b")
Axes = Mapping[str, Any]
"""Values by axis; of a cell, or of one side of a contrast."""


@dataclass(frozen=True)
class DeclaredContrast:
    """Differences are a - b."""

    name: str | None
    a: Axes | None
    """None for the base model."""
    b: Axes | None

    def pairs(self, cells: Sequence[Axes], chosen: Iterable[Axes] = ()) -> Iterator[tuple[int, int]]:
        """The places of a and b of every pair of cells that this compares.

        cells: of one test; a base model has `model` alone, and no cell has a seed. chosen: the cells with a
        chosen learning rate.
        """
        named = {*(self.a or {}), *(self.b or {})}
        selected = list(chosen)
        for i, a in enumerate(cells):
            if not _is_side(self.a, a, selected):
                continue
            for k, b in enumerate(cells):
                if k != i and _is_side(self.b, b, selected) and _alike(a, b, named):
                    yield i, k

    def to_dict(self) -> dict[str, Any]:
        sides = {"a": BASE if self.a is None else dict(self.a), "b": BASE if self.b is None else dict(self.b)}
        return sides if self.name is None else {"name": self.name, **sides}


def _is_side(side: Axes | None, cell: Axes, chosen: Sequence[Axes]) -> bool:
    is_base = set(cell) == {"model"}
    if side is None:
        return is_base
    if side.get("learning_rate") == CHOSEN and cell not in chosen:
        return False
    fixed = {axis: value for axis, value in side.items() if value != CHOSEN}
    return all(cell.get(axis) == value for axis, value in fixed.items()) and (
        not is_base or set(side) == {"model"}
    )


def _alike(a: Axes, b: Axes, named: set[str]) -> bool:
    """Whether the axes that both cells have and neither side names are equal."""
    return all(a[axis] == b[axis] for axis in a.keys() & b.keys() - named)


def declared_contrasts(entries: Sequence[Any], where: str) -> tuple[DeclaredContrast, ...]:
    """The contrasts of a grid. Raises UserError for another shape."""
    return tuple(_declared(entry, f"{where}[{place}]") for place, entry in enumerate(entries))


def _declared(entry: Any, where: str) -> DeclaredContrast:
    if not isinstance(entry, Mapping):
        raise UserError("not a contrast", where=where, remedy="give a: and b:, each axes with a value")
    for key in entry:
        if key not in KEYS:
            raise UserError("unknown key", where=f"{where}.{key}", remedy=nearest(str(key), KEYS))
    for side in ("a", "b"):
        value = entry.get(side)
        if value != BASE and not (isinstance(value, Mapping) and value):
            remedy = "give axes with a value each, e.g. {label_smoothing: 0.1}, or base"
            raise UserError("is not a side of a contrast", where=f"{where}.{side}", remedy=remedy)
    if entry["a"] == entry["b"]:
        raise UserError("compares cells with themselves", where=where, remedy="give a and b other values")
    a, b = (None if entry[side] == BASE else dict(entry[side]) for side in ("a", "b"))
    name = entry.get("name")
    return DeclaredContrast(None if name is None else str(name), a, b)


def check_contrasts(
    contrasts: Sequence[DeclaredContrast], cells: Sequence[Axes], axes: Iterable[str], where: str
) -> None:
    """Raise UserError for an unknown axis, `chosen` for another one, and a contrast without a pair of cells.

    cells: of the plan, without seeds. A chosen learning rate may be any.
    """
    known = [axis for axis in axes if axis != "seed"]
    for place, contrast in enumerate(contrasts):
        for side, values in (("a", contrast.a), ("b", contrast.b)):
            for axis, value in (values or {}).items():
                at = f"{where}[{place}].{side}.{axis}"
                if axis not in known:
                    raise UserError("unknown axis", where=at, remedy=nearest(axis, known))
                if value == CHOSEN and axis != "learning_rate":
                    raise UserError("only a learning rate is chosen", where=at, remedy="give a value")
        if next(contrast.pairs(cells, cells), None) is None:
            raise UserError(
                "compares no two cells of this grid",
                where=f"{where}[{place}]",
                remedy="give values that the axes have, and name every axis in which the sides differ",
            )
