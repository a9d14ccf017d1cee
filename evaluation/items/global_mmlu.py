"""Rows with the columns of CohereLabs/Global-MMLU: four options, the answer a letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.items.fields import cell, filled_options, letter_index, optional_share, optional_text, text
from evaluation.items.item import Item

OPTION_COLUMNS = ("option_a", "option_b", "option_c", "option_d")


def parse(row: Mapping[str, Any], where: str) -> Item | None:
    """One row as an item, or None when fewer than four options are filled.

    The columns that analysis slices by may be missing; `quality` and `share_equal_to_english` are the
    embedded benchmark's.
    where: file and row, for messages.
    Raises RecordError for a missing column, a value that is blank or no text, a fifth option, or an answer
    outside A to D.
    """
    for column in OPTION_COLUMNS:
        cell(row, column, where)
    options = filled_options(row, OPTION_COLUMNS, where)
    if options is None or len(options) != len(OPTION_COLUMNS):
        return None
    return Item(
        example_id=text(row, "sample_id", where),
        subject=text(row, "subject", where),
        question=text(row, "question", where),
        options=options,
        label=letter_index(cell(row, "answer", where), len(options), where),
        category=optional_text(row, "subject_category", where),
        # `-` where nobody annotated
        cultural_sensitivity=optional_text(row, "cultural_sensitivity_label", where, absent="-"),
        quality=optional_text(row, "quality", where),
        share_equal_to_english=optional_share(row, "share_equal_to_english", where),
    )
