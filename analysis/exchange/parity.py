"""Are two sets of prediction records the same, bit by bit?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.records import COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa


def difference(ours: pa.Table, theirs: pa.Table, columns: Sequence[str] = tuple(COLUMNS.names)) -> str | None:
    """The first thing two tables of records (`study.records.COLUMNS`) disagree on, in words; None for none.

    They may hold the same examples in another order.
    """
    keyed = [
        {(row["example_id"], row["rotation"]): row for row in table.to_pylist()} for table in (ours, theirs)
    ]
    here, there = keyed
    if len(here) != ours.num_rows or len(there) != theirs.num_rows:
        return "an example occurs more than once"
    for ids, where in ((here.keys() - there.keys(), "here"), (there.keys() - here.keys(), "there")):
        if ids:
            first = min(ids)[0]
            return f"{len(ids)} of {len(here)} and {len(there)} examples are only {where} ('{first}', ...)"
    for key, row in here.items():
        for name in columns:
            # as text, in which -0.0 is not 0.0; a float32 survives being a float64
            if repr(row[name]) != repr(there[key][name]):
                return f"example '{key[0]}', {name}: {row[name]} here, {there[key][name]} there"
    return None
