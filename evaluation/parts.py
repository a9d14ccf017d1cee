"""Check that the parts of a shard belong to it, and that none is missing."""

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

MAX_NAMES = 3


def read_own_part(
    path: Path, asked: Sequence[Asked], info: records.ShardInfo
) -> tuple[pa.Table, records.ShardInfo]:
    """A part from an earlier attempt of this job, and the shard that it names.

    The name of the model may differ: a local folder may move, and its jobs stay the same.
    Raises RecordError when it is torn, belongs to another job, or holds other questions than its name says or
    values that no job writes.
    """
    try:
        table, stored = records.read_part(path)
        if replace(stored, model=info.model) != info:
            raise RecordError(f"{path}: belongs to {stored}, this job is {info}")
        _require_answers(path, table, asked, info.protocol)
    except RecordError as error:
        # this job is not complete: DONE lists no parts yet, so a removed part will not be missed
        raise RecordError(f"{error}; remove it and the parts after it: they are scored again") from None
    return table, stored


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
            raise RecordError(f"{path}: {_values(row)} for '{row['example_id']}', an item of {count} options")


def _values(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {row[name]}" for name in ("scores", "option_mass", "option_num_tokens"))


def check_complete(folder: Path, asked: Sequence[Asked]) -> list[Path]:
    """The parts in `folder`, if together they hold every question exactly once and nothing else.

    Raises RecordError naming the first few example ids that are missing, doubled or foreign.
    """
    paths = records.parts(folder)
    stored: Counter[tuple[str, int]] = Counter()
    for path in paths:
        table, _ = records.read_part(path)
        stored.update(zip(table["example_id"].to_pylist(), table["rotation"].to_pylist(), strict=True))
    expected = [(item.example_id, rotation) for item, rotation in asked]
    known = set(expected)
    problems = {
        "missing": [i for i in expected if i not in stored],
        "doubled": [i for i, count in stored.items() if count > 1],
        "foreign": [i for i in stored if i not in known],
    }
    sentences = [f"{len(ids)} {problem} ({_first(ids)})" for problem, ids in problems.items() if ids]
    if sentences:
        raise RecordError(f"{folder}: of {len(expected)} questions {', '.join(sentences)}")
    return paths


def _first(keys: Sequence[tuple[str, int]]) -> str:
    names = [f"{name} rotated by {rotation}" if rotation else name for name, rotation in keys[:MAX_NAMES]]
    return ", ".join(names) + (", ..." if len(keys) > MAX_NAMES else "")
