"""Are the parts of a shard its own, and are they all there?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from evaluation.asking import Asked
from study import records
from study.errors import RecordError

NAMED = 3


def read_own_part(
    path: Path, asked: Sequence[Asked], info: records.ShardInfo
) -> tuple[pa.Table, records.ShardInfo]:
    """A part left by an earlier attempt of this very job, and what it says it belongs to.

    The model's name may have changed since: a local folder may move and stay the same job.
    Raises RecordError when it is torn, belongs to another job, or holds other questions than its name says.
    """
    try:
        table, found = records.read_part(path)
    except pa.ArrowInvalid as error:
        raise RecordError(f"{path}: torn ({error}); remove it and the parts after it") from None
    if replace(found, model=info.model) != info:
        raise RecordError(f"{path}: belongs to {found}, this job is {info}")
    lo, hi = records.part_range(path)
    expected = [(item.example_id, rotation, item.label) for item, rotation in asked[lo:hi]]
    columns = (table[name].to_pylist() for name in ("example_id", "rotation", "label"))
    stored = list(zip(*columns, strict=True))
    if stored != expected:
        raise RecordError(
            f"{path}: its examples, rotations or labels are not questions {lo} to {hi} of this shard"
        )
    return table, found


def check_complete(folder: Path, asked: Sequence[Asked]) -> list[Path]:
    """The parts in `folder`, when together they hold every question exactly once and nothing else.

    Raises RecordError naming the first few example ids that are missing, doubled or foreign.
    """
    paths = records.parts(folder)
    found: Counter[tuple[str, int]] = Counter()
    for path in paths:
        table, _ = records.read_part(path)
        found.update(zip(table["example_id"].to_pylist(), table["rotation"].to_pylist(), strict=True))
    expected = [(item.example_id, rotation) for item, rotation in asked]
    known = set(expected)
    problems = {
        "missing": [i for i in expected if i not in found],
        "doubled": [i for i, count in found.items() if count > 1],
        "foreign": [i for i in found if i not in known],
    }
    told = [f"{len(ids)} {what} ({_first(ids)})" for what, ids in problems.items() if ids]
    if told:
        raise RecordError(f"{folder}: of {len(expected)} questions {', '.join(told)}")
    return paths


def _first(keys: Sequence[tuple[str, int]]) -> str:
    names = [f"{name} rotated by {rotation}" if rotation else name for name, rotation in keys[:NAMED]]
    return ", ".join(names) + (", ..." if len(keys) > NAMED else "")
