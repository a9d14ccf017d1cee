"""Rows with the columns of CohereLabs/Global-MMLU: four options, the answer a letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.benchmarks.item import Item, cell, filled_options, letter_index, text

OPTION_COLUMNS = ("option_a", "option_b", "option_c", "option_d")


def parse(row: Mapping[str, Any], where: str) -> Item | None:
    """One row as an item, or None when fewer than four options are filled.

    where: file and row, for messages.
    Raises RecordError for a missing column, a value that is not text, or an answer outside A to D.
    """
    options = filled_options([cell(row, column, where) for column in OPTION_COLUMNS], where)
    if options is None or len(options) != len(OPTION_COLUMNS):
        return None
    return Item(
        example_id=text(row, "sample_id", where),
        subject=text(row, "subject", where),
        question=text(row, "question", where),
        options=options,
        label=letter_index(cell(row, "answer", where), len(options), where),
    )
