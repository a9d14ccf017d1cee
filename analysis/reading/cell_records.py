"""The prediction records of one cell on one test, with those that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.metrics.temperature import Sample
from analysis.reading.scored import PerExample, Scored
from analysis.reading.shards import Cell, Metrics, Shard, Study, Test
from study.bins import Bins
from study.jobs.specs import VALIDATION_SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

BASE = "base"
UNSMOOTHED = "label_smoothing=0"
COMPARED = (BASE, UNSMOOTHED)
"""What a cell is compared with: the model before training, and the same training without smoothing."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The records of one shard, and its metrics."""

    table: pa.Table
    """The records themselves (`study.records.COLUMNS`): one row each time an item was asked."""
    record_hash: str
    scored: Scored
    examples: PerExample
    """`scored` and `examples` have one row an item: the mean over the rotations of its options."""
    metrics: Metrics
    bins: Mapping[str, Bins]
    """By kind of confidence."""

    @property
    def sample(self) -> Sample:
        return Sample(self.scored.example_ids, self.scored.score, self.scored.label)


@dataclass(frozen=True, eq=False)
class CellRecords:
    """One cell on one test."""

    test: Test
    cell: Cell
    shards: Mapping[str, Shard]
    """By language, from rich to poor in resources."""
    answers: Mapping[str, Answers]
    """By language, without those that are missing."""
    items: Mapping[str, Path] = field(default_factory=dict)
    """By language, the file with the table of its items, where evaluation left one."""
    before: Mapping[str, CellRecords] = field(default_factory=dict)
    """The cells that this one is compared with, by BASE and UNSMOOTHED."""
    validation: CellRecords | None = None
    """The same cell on the validation split of the benchmark; None where the study evaluates none."""

    @property
    def missing(self) -> list[str]:
        """Languages without records."""
        return [code for code in self.shards if code not in self.answers]


def paired_rows(before: Answers, after: Answers) -> slice | NDArray[np.int64]:
    """The rows of `after` in the order in which `before` has their items."""
    # both asked the same items: a shard that asked others was refused
    ids_before, ids = before.scored.example_ids, after.scored.example_ids
    if np.array_equal(ids_before, ids):  # almost always
        return slice(None)
    order = np.argsort(ids)
    return np.asarray(order[np.searchsorted(ids, ids_before, sorter=order)], dtype=np.int64)


def validation_of(study: Study, test: Test) -> Test | None:
    """The validation split of the same benchmark under the same protocol, where the study evaluates one."""
    benchmark, split, protocol = test
    if split in VALIDATION_SPLITS:
        return None
    candidates = [(benchmark, name, protocol) for name in VALIDATION_SPLITS]
    return next((test for test in candidates if test in study.tests()), None)


def reported(study: Study) -> list[Test]:
    """The tests that results are about: all but validation splits, which serve to fit and to select."""
    return [test for test in study.tests() if test[1] not in VALIDATION_SPLITS]
