"""Rows with the columns of li-lab/MMLU-ProX: up to ten options (null: absent), the answer twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.benchmarks.fields import cell, filled_options, letter_index, text
from evaluation.items import MAX_OPTIONS, Item
from study.errors import RecordError


def parse(row: Mapping[str, Any], where: str) -> Item | None:
    """One row as an item, or None when its options have a gap (zh 3299: option_8 empty, option_9 filled).

    where: file and row, for messages.
    Raises RecordError for a missing column, a value that is blank or of another type, fewer than two options,
    an answer that is no option, or an answer and an answer_index that disagree.
    """
    example_id = cell(row, "question_id", where)
    if isinstance(example_id, bool) or not isinstance(example_id, int | str) or example_id == "":
        raise RecordError(f"{where}: question_id is {example_id!r}, expected a number")
    # the first two must be there; a file of one's own may leave out columns that would all be null
    given = [cell(row, f"option_{i}", where) for i in range(2)]
    given += [row.get(f"option_{i}") for i in range(2, MAX_OPTIONS)]
    options = filled_options(given, where)
    if options is None:
        return None
    if len(options) < 2:
        raise RecordError(f"{where}: has {len(options)} options, expected 2 to {MAX_OPTIONS}")
    label = letter_index(cell(row, "answer", where), len(options), where)
    index = cell(row, "answer_index", where)
    if index != label:
        raise RecordError(f"{where}: answer is {row['answer']} but answer_index is {index!r}")
    return Item(
        example_id=str(example_id),
        subject=text(row, "category", where),
        question=text(row, "question", where),
        options=options,
        label=label,
    )
