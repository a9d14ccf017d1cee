"""Rows with the columns of li-lab/MMLU-ProX: up to ten options (null: absent), the answer twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.items.fields import cell, filled_options, letter_index, require_whole, text
from evaluation.items.item import MAX_OPTIONS, Item
from study.errors import RecordError

OPTION_COLUMNS = tuple(f"option_{i}" for i in range(MAX_OPTIONS))


def parse(row: Mapping[str, Any], where: str) -> Item | None:
    """One row as an item, or None when its options have a gap (zh 3299: option_8 empty, option_9 filled).

    where: file and row, for messages.
    Raises RecordError for a missing column, a value that is blank or of another type, fewer than two options
    or more than ten, an answer that is no option, or an answer and an answer_index that disagree.
    """
    example_id = cell(row, "question_id", where)
    if isinstance(example_id, bool) or not isinstance(example_id, int | str) or example_id == "":
        raise RecordError(f"{where}: question_id is {example_id!r}, expected a whole number or text")
    require_whole(str(example_id), "question_id", where)
    # the first two must be there; a file of one's own may leave out columns that would all be null
    for column in OPTION_COLUMNS[:2]:
        cell(row, column, where)
    options = filled_options(row, OPTION_COLUMNS, where)
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
