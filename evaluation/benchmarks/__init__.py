"""Multiple-choice benchmarks as items: rows from a source, read by the parser of their schema."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from evaluation.benchmarks import global_mmlu, mmlu_prox
from evaluation.benchmarks.item import Item
from evaluation.benchmarks.rows import split_rows
from study.errors import RecordError
from study.specs import Benchmark

logger = logging.getLogger(__name__)

PARSERS = {"global_mmlu": global_mmlu.parse, "mmlu_prox": mmlu_prox.parse}


@dataclass(frozen=True)
class Split:
    """items: in the order of the source. num_skipped: rows left out because their options have a gap."""

    items: tuple[Item, ...]
    num_skipped: int


def load_split(benchmark: Benchmark, language: str) -> Split:
    """The items of one language, and how many rows could not become one.

    `num_items` counts rows, before any is skipped: languages stay parallel, a skipped row's neighbours
    included.
    Raises JobError when the rows cannot be had; RecordError for a row that cannot be read, or an id
    that occurs twice.
    """
    place, rows = split_rows(benchmark, language)
    parse = PARSERS[benchmark.schema]
    items: dict[str, Item] = {}
    skipped = []
    for number, row in enumerate(rows[: benchmark.num_items], start=1):
        where = f"{place}, row {number} of split '{benchmark.split}'"
        item = parse(row, where)
        if item is None:
            skipped.append(number)
        elif item.example_id in items:
            raise RecordError(f"{where}: id '{item.example_id}' occurs a second time")
        else:
            items[item.example_id] = item
    if not items:
        raise RecordError(f"{place}: every row of split '{benchmark.split}' lacks options")
    if skipped:
        logger.warning("%s: %d rows skipped for a gap in their options: %s", place, len(skipped), skipped)
    return Split(tuple(items.values()), len(skipped))


def load_items(benchmark: Benchmark, language: str) -> list[Item]:
    """The items of `load_split`."""
    return list(load_split(benchmark, language).items)


__all__ = ["Item", "Split", "load_items", "load_split"]
