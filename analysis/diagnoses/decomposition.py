"""tables/decomposition.csv: how much of a change in calibration is confidence, and how much accuracy.

Each trained cell is compared with its base model, and, where it is smoothed, with the same training without.
The parts are means over the two orders in which confidence and correctness can change (Shapley), so those of
a macro mean over languages are the means of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.diagnoses.rows import Row, finished, named, with_macro
from analysis.metrics import confidence_gap, ece
from analysis.metrics.diagnostics import decompose_change
from analysis.reading.cell_records import Answers, CellRecords
from analysis.reading.scored import CONFIDENCES
from study.bins import FloatArray

METRICS: dict[str, Callable[[FloatArray, FloatArray], float]] = {"ece": ece, "gap": confidence_gap}
COLUMNS = ("n", "before", "after", "change", "from_confidence", "from_accuracy")


def decomposition_rows(
    here: CellRecords, before: Mapping[str, CellRecords], axes: Sequence[str]
) -> Iterator[Row]:
    """Rows of one cell against each of those in `before`: languages, buckets and all."""
    for compared_with, earlier in before.items():
        for kind in CONFIDENCES:
            for name, metric in METRICS.items():
                rows = []
                for language, shard in here.shards.items():
                    row = {
                        **named(here.test, here.cell, axes),
                        "compared_with": compared_with,
                        "metric": name,
                        "confidence": kind,
                        "level": "language",
                        "name": language,
                        "average": "none",
                    }
                    job_ids = [shard.job_id]
                    if language in earlier.shards:
                        job_ids.append(earlier.shards[language].job_id)
                    reason = _why_not(language, here, earlier, compared_with)
                    numbers = reason or _numbers(
                        earlier.answers[language], here.answers[language], kind, metric
                    )
                    rows.append(finished(row, numbers, COLUMNS, job_ids))
                yield from with_macro(rows, COLUMNS)


def _why_not(language: str, here: CellRecords, earlier: CellRecords, name: str) -> str | None:
    if language in here.missing:
        return str(here.shards[language].missing)
    if language not in earlier.answers:
        shard = earlier.shards.get(language)
        return f"{name}: {shard.missing if shard else 'not planned'}"
    return None  # of one language all have asked the same: others were refused


def _numbers(
    before: Answers, after: Answers, kind: str, metric: Callable[[FloatArray, FloatArray], float]
) -> Row:
    start, end = (
        (one.examples.confidence[kind][rows], one.examples.correct.astype(np.float64)[rows])
        for one, rows in ((before, slice(None)), (after, _paired_rows(before, after)))
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


def _paired_rows(before: Answers, after: Answers) -> slice | NDArray[np.int64]:
    """The rows of `after` in the order in which `before` has their items."""
    wanted, ids = before.scored.example_ids, after.scored.example_ids
    if np.array_equal(wanted, ids):  # almost always
        return slice(None)
    order = np.argsort(ids)
    return np.asarray(order[np.searchsorted(ids, wanted, sorter=order)], dtype=np.int64)
