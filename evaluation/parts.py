"""Are the parts of a shard its own, and are they all there?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from evaluation.questions import Asked
from study import records
from study.errors import RecordError

NAMED = 3


def read_own_part(
    path: Path, asked: Sequence[Asked], info: records.ShardInfo
) -> tuple[pa.Table, records.ShardInfo]:
    """A part left by an earlier attempt of this very job, and what it says it belongs to.

    The model's name may have changed since: a local folder may move and stay the same job.
    Raises RecordError when it is torn, belongs to another job, or holds other questions than its name says or
    values that no job writes.
    """
    try:
        table, found = records.read_part(path)
        if replace(found, model=info.model) != info:
            raise RecordError(f"{path}: belongs to {found}, this job is {info}")
        _require_answers(path, table, asked, info.protocol)
    except RecordError as error:
        # of a job that goes on; of a complete one, whose parts are listed, a part removed would be missed
        raise RecordError(f"{error}; remove it and the parts after it: they are scored again") from None
    return table, found


def _require_answers(path: Path, table: pa.Table, asked: Sequence[Asked], protocol: str) -> None:
    lo, hi = records.part_range(path)
    expected = [(item.example_id, rotation, item.label) for item, rotation in asked[lo:hi]]
    columns = (table[name].to_pylist() for name in ("example_id", "rotation", "label"))
    stored = list(zip(*columns, strict=True))
    if stored != expected:
        raise RecordError(
            f"{path}: its examples, rotations or labels are not questions {lo} to {hi} of this shard"
        )
    for row, (item, _) in zip(table.to_pylist(), asked[lo:hi], strict=True):
        count, mass, tokens = len(item.options), row["option_mass"], row["option_num_tokens"]
        if protocol == "letter":
            fits = mass is not None and 0 <= mass <= 1 and tokens is None
        else:
            fits = mass is None and tokens is not None and len(tokens) == count and min(tokens) > 0
        if not fits or len(row["scores"]) != count or not all(map(math.isfinite, row["scores"])):
            raise RecordError(f"{path}: {_told(row)} for '{row['example_id']}', an item of {count} options")


def _told(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {row[name]}" for name in ("scores", "option_mass", "option_num_tokens"))


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
