"""Whether two sets of prediction records are the same, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.records import COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa


def difference(ours: pa.Table, theirs: pa.Table, columns: Sequence[str] = tuple(COLUMNS.names)) -> str | None:
    """The first difference between two tables of records (`study.records.COLUMNS`), in words, or None.

    The order of the rows does not matter.
    """
    a, b = (
        {(row["example_id"], row["rotation"]): row for row in table.to_pylist()} for table in (ours, theirs)
    )
    if len(a) != ours.num_rows or len(b) != theirs.num_rows:
        return "an example occurs more than once"
    for ids, where in ((a.keys() - b.keys(), "here"), (b.keys() - a.keys(), "there")):
        if ids:
            return f"{len(ids)} of {len(a)} and {len(b)} examples are only {where} ('{min(ids)[0]}', ...)"
    for key, row in a.items():
        for name in columns:
            # as text, in which -0.0 is not 0.0; a float32 survives being a float64
            if repr(row[name]) != repr(b[key][name]):
                return f"example '{key[0]}', {name}: {row[name]} here, {b[key][name]} there"
    return None
