"""tables/decomposition.csv: how much of a change in calibration comes from confidence or from accuracy.

Each trained cell is compared with its base model and, if it is smoothed, with the same training without
smoothing. The parts are means over the two orders in which confidence and correctness can change (Shapley),
so the parts of a macro mean are the macro means of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from analysis.diagnoses.rows import Row, Table, language_rows, with_macro
from analysis.metrics import confidence_gap, ece
from analysis.metrics.diagnostics import decompose_change
from analysis.reading.cell_records import CellRecords, paired_rows
from analysis.reading.scored import CONFIDENCES
from analysis.reading.shards import Shard
from study.bins import FloatArray

Metric = Callable[[FloatArray, FloatArray], float]
"""Of confidence and correctness, both (N,)."""
METRICS: dict[str, Metric] = {"ece": ece, "gap": confidence_gap}
COLUMNS = ("n", "before", "after", "change", "from_confidence", "from_accuracy")


def decomposition_rows(records: CellRecords) -> Iterator[Row]:
    """The rows of one cell against each cell that it is compared with: languages, buckets and all."""
    for name, before in records.before.items():
        for kind in CONFIDENCES:
            for metric in METRICS:
                keys = {"compared_with": name, "metric": metric, "confidence": kind}
                numbers = partial(_numbers, records, name, kind, METRICS[metric])
                rows = language_rows(records, keys, numbers, partial(_shards, before))
                yield from with_macro(rows, COLUMNS)


def _shards(records: CellRecords, language: str) -> list[Shard]:
    return [records.shards[language]] if language in records.shards else []


def _numbers(records: CellRecords, name: str, kind: str, metric: Metric, language: str) -> Row | str:
    """The numbers of a language, or why the cell `name` has none to compare with."""
    before, after = records.before[name].answers.get(language), records.answers[language]
    if before is None:
        shard = records.before[name].shards.get(language)
        return f"{name}: {shard.missing if shard else 'not planned'}"
    start, end = (
        (answers.examples.confidence[kind][rows], answers.examples.correct.astype(np.float64)[rows])
        for answers, rows in ((before, slice(None)), (after, paired_rows(before, after)))
    )
    change = decompose_change(start, end, metric)
    return {
        "n": len(end[0]),
        "before": metric(*start),
        "after": metric(*end),
        "change": change.total,
        "from_confidence": change.from_confidence,
        "from_accuracy": change.from_accuracy,
    }


TABLE = Table(
    "decomposition",
    ("compared_with", "metric", "confidence", "level", "name", "average"),
    COLUMNS,
    decomposition_rows,
    over_seeds=True,
)
