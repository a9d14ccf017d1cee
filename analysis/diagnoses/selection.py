"""The rows of selection.csv: which learning rate each criterion would choose, and how sure that is."""

from __future__ import annotations

from pathlib import Path

from analysis.diagnoses.rows import Row
from analysis.reading.shards import Study
from analysis.results.selection import CRITERIA, MACRO, METRICS, UNCERTAINTY, select_learning_rates
from analysis.results.settings import axis_names
from study.jobs.specs import VALIDATION_SPLITS


def selection_rows(study_dir: Path, study: Study) -> list[Row]:
    """The rows of selection.csv: each candidate, where there are several, by each of CRITERIA and METRICS.

    Without validation splits there are none, without English none by English alone.
    """
    validation = [shard for shard in study.shards if shard.split in VALIDATION_SPLITS]
    has_english = any(shard.language == "en" for shard in validation)
    axes = [axis for axis in axis_names(study) if axis not in ("learning_rate", "seed")]
    return [
        {
            **{axis: selection.cell.get(axis) for axis in axes},
            "languages": by,
            "criterion": metric,
            "learning_rate": candidate.learning_rate,
            "missing": candidate.missing or (selection.reason if selection.chosen is None else None),
            "value": candidate.value,
            "is_chosen": candidate.learning_rate == selection.chosen,
            **{name: getattr(candidate, name) for name in UNCERTAINTY},
            "job_ids": list(candidate.job_ids),
        }
        for by in CRITERIA
        if validation and (by == MACRO or has_english)
        for metric in METRICS
        for selection in select_learning_rates(study_dir, study, by, metric)
        if len(selection.candidates) > 1
        for candidate in selection.candidates
    ]
