"""Items as a table, by whose columns analysis slices the records of a shard."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from evaluation.items.item import Item

SCHEMA = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("cultural_sensitivity", pa.string()),
        pa.field("num_options", pa.int16(), nullable=False),
        pa.field("quality", pa.string()),
        pa.field("share_equal_to_english", pa.float32()),
        pa.field("question_characters", pa.int32(), nullable=False),
    ]
)


def items_table(items: Iterable[Item]) -> pa.Table:
    """One row per item, in their order; null where a benchmark has no such column. Joins by `example_id`.

    question_characters: length of the question as prompts show it, without surrounding blanks or a passage.
    """
    rows = [
        {
            **vars(item),
            "num_options": len(item.options),
            "question_characters": len(item.question.strip()),
        }
        for item in items
    ]
    # the schema picks its columns; the others are not stored
    return pa.Table.from_pylist(rows, schema=SCHEMA)
