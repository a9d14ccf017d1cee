"""The rows of a dataset that a job trains on, without excluded sources, sub-sampled, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import JobError, nearest
from study.grid.sources import require_commit
from study.jobs.specs import Hyperparameters, Source
from study.presets import PRESETS
from study.rows import READ_AT_ONCE, Row, lines, parse_line, reading_parquet

Indices: TypeAlias = npt.NDArray[np.int64]
PlacedRow: TypeAlias = tuple[str, Row]
"""(where a row is, for error messages; the row)"""


class _Table(NamedTuple):
    """sources: gives the column `source`, or None without one. read: gives the rows at ascending indices."""

    num_rows: int
    sources: Callable[[], Sequence[str | None] | None]
    read: Callable[[Indices], Iterator[PlacedRow]]


@dataclass(frozen=True)
class Rows:
    """Rows to train on, read from disk on each iteration.

    num_read: rows of the dataset. num_excluded: how many of them are left out by source.
    chosen: (N,) int64, ascending, the indices of the rows that remain after sub-sampling.
    """

    num_read: int
    num_excluded: int
    chosen: Indices
    read: Callable[[Indices], Iterator[PlacedRow]]

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[PlacedRow]:
        return self.read(self.chosen)


def open_rows(source: Source, hyper: Hyperparameters) -> Rows:
    """The rows of a dataset without `exclude_sources`, then sub-sampled to `num_examples` by seed.

    Raises RecordError for an unreadable file; JobError for a dataset without rows, or whose rows have no
    source of a name that is to be excluded.
    """
    table = _open(source, hyper)
    if not table.num_rows:
        raise JobError(f"{source.name}: the dataset has no rows")
    kept = _kept(table, source.name, hyper.exclude_sources)
    chosen = kept
    if source.kind != "embedded" and hyper.num_examples is not None and hyper.num_examples < len(kept):
        drawn = np.random.default_rng(hyper.seed).choice(len(kept), hyper.num_examples, replace=False)
        chosen = kept[np.sort(drawn)]
    return Rows(table.num_rows, table.num_rows - len(kept), chosen, table.read)


def _kept(table: _Table, name: str, excluded: Sequence[str]) -> Indices:
    """Indices of the rows of other sources. Refuses a name that no row has: it may be a misspelt one."""
    if not excluded:
        return np.arange(table.num_rows)
    sources = table.sources()
    if sources is None:
        raise JobError(f"{name}: exclude_sources needs a column 'source', and the rows have none; remove it")
    known = {source for source in sources if source is not None}
    for source in excluded:
        if source not in known:
            raise JobError(f"{name}: exclude_sources: no row is of '{source}'; {nearest(source, known)}")
    left_out = set(excluded)
    kept = np.flatnonzero([source not in left_out for source in sources])
    if not len(kept):
        raise JobError(f"{name}: exclude_sources leaves no row; name fewer")
    return kept


def _open(source: Source, hyper: Hyperparameters) -> _Table:
    if source.kind == "embedded":
        return _embedded(source.name, hyper)
    if source.kind == "hub":
        return _hub(source)
    file = Path(source.name)
    return _parquet(file) if file.suffix == ".parquet" else _jsonl(file)


def _embedded(name: str, hyper: Hyperparameters) -> _Table:
    from study.cldr import instructions

    num_rows = hyper.num_examples or PRESETS[name].num_rows
    assert num_rows is not None
    rows = instructions.GENERATORS[name](num_rows, seed=hyper.seed)
    return _Table(
        len(rows), lambda: None, lambda indices: ((f"{name}, row {i}", rows[i]) for i in indices.tolist())
    )


def _hub(source: Source) -> _Table:
    from datasets import load_dataset

    data = load_dataset(source.name, revision=source.revision, split="train")
    require_commit(data, source)

    def sources() -> Sequence[str | None] | None:
        return list(data["source"]) if "source" in data.column_names else None

    def read(indices: Indices) -> Iterator[PlacedRow]:
        for begin in range(0, len(indices), READ_AT_ONCE):
            part = indices[begin : begin + READ_AT_ONCE].tolist()
            columns = data[part]
            for place, values in zip(part, zip(*columns.values(), strict=True), strict=True):
                yield f"{source.name}, row {place}", dict(zip(columns, values, strict=True))

    return _Table(len(data), sources, read)


def _parquet(file: Path) -> _Table:
    with reading_parquet(file):
        table = pq.ParquetFile(file)

    def sources() -> Sequence[str | None] | None:
        if "source" not in table.schema_arrow.names:
            return None
        with reading_parquet(file):
            column: list[str | None] = table.read(columns=["source"])["source"].to_pylist()
        return column

    def read(indices: Indices) -> Iterator[PlacedRow]:
        begin = 0
        with reading_parquet(file):
            for batch in table.iter_batches(batch_size=READ_AT_ONCE):
                end = begin + batch.num_rows
                part = indices[np.searchsorted(indices, begin) : np.searchsorted(indices, end)]
                rows = batch.take(pa.array(part - begin)).to_pylist()
                for place, row in zip(part.tolist(), rows, strict=True):
                    yield f"{file}, row {place}", row
                begin = end

    return _Table(table.metadata.num_rows, sources, read)


def _jsonl(file: Path) -> _Table:
    def sources() -> Sequence[str | None] | None:
        missing = object()
        found = [parse_line(line, where).get("source", missing) for where, line in lines(file)]
        if all(source is missing for source in found):
            return None
        return [source if isinstance(source, str) else None for source in found]

    def read(indices: Indices) -> Iterator[PlacedRow]:
        wanted = np.zeros(num_rows, dtype=np.bool_)
        wanted[indices] = True
        for is_wanted, (where, line) in zip(wanted, lines(file), strict=True):
            if is_wanted:
                yield where, parse_line(line, where)

    num_rows = sum(1 for _ in lines(file))
    return _Table(num_rows, sources, read)
