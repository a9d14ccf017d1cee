"""The items of a benchmark's language, and the shots that go before them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.items.item import Item
from evaluation.items.row import read_item
from evaluation.items.rows import shot_rows, split_rows
from study.benchmarks.definition import Columns, columns_of
from study.errors import JobError, RecordError
from study.jobs.specs import Benchmark
from study.rows import Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """items: in the order of the source. num_skipped: rows left out because their options have a gap."""

    items: tuple[Item, ...]
    num_skipped: int


def load_split(benchmark: Benchmark, language: str) -> Split:
    """The items of one language, and how many rows were skipped.

    `num_items` counts rows, before any is skipped: languages stay parallel, also after a row that is skipped
    in one of them.
    Raises JobError when the rows cannot be found or downloaded; RecordError for a row that cannot be read,
    or an id that occurs twice.
    """
    place, rows = split_rows(benchmark, language)
    place = f"{place}, split '{benchmark.split}'"
    return _read(columns_of(benchmark.schema), place, rows[: benchmark.num_items])


def load_items(benchmark: Benchmark, language: str) -> list[Item]:
    """The items of `load_split`."""
    return list(load_split(benchmark, language).items)


def load_shots(
    benchmark: Benchmark, language: str, num_shots: int, items: Sequence[Item] | None = None
) -> dict[str, tuple[Item, ...]]:
    """Subject of the benchmark's items -> its first `num_shots` items in the split that shots come from.

    items: the benchmark's, where they have been read already.
    Raises what `load_split` raises, for either split; JobError, with the counts, when a subject has fewer.
    """
    items = load_items(benchmark, language) if items is None else items
    subjects = list(dict.fromkeys(item.subject for item in items))
    if num_shots == 0:
        return dict.fromkeys(subjects, ())
    place, rows = shot_rows(benchmark, language)
    pool: dict[str, list[Item]] = {subject: [] for subject in subjects}
    for item in _read(columns_of(benchmark.schema), place, rows).items:
        pool.setdefault(item.subject, []).append(item)
    short = [f"{subject} ({len(pool[subject])})" for subject in subjects if len(pool[subject]) < num_shots]
    if short:
        raise JobError(
            f"{place}: {len(short)} of {len(subjects)} subjects have fewer than {num_shots} shots: "
            f"{', '.join(short)}; ask for fewer with evaluate.num_shots"
        )
    return {subject: tuple(pool[subject][:num_shots]) for subject in subjects}


def _read(columns: Columns, place: str, rows: Sequence[Row]) -> Split:
    items: dict[str, Item] = {}
    skipped = []
    for number, row in enumerate(rows, start=1):
        where = f"{place}, row {number}"
        item = read_item(row, columns, where)
        if item is None:
            skipped.append(number)
        elif item.example_id in items:
            raise RecordError(f"{where}: id '{item.example_id}' occurs a second time; keep one row of it")
        else:
            items[item.example_id] = item
    if not items:
        raise RecordError(f"{place}: every row lacks options")
    if skipped:
        logger.warning("%s: %d rows skipped for a gap in their options: %s", place, len(skipped), skipped)
    return Split(tuple(items.values()), len(skipped))
