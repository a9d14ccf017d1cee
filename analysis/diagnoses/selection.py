"""Which learning rate to report, chosen without looking at the test split.

For each combination of the other axes (seeds are averaged) the learning rate with the lowest criterion is
chosen; of two with the same criterion, the lower one. The criterion is

1. the NLL over the options on the validation splits that the study evaluates: the macro mean over languages,
   or English alone, then the mean over splits;
2. if it evaluates none, the last NLL of the training itself, without smoothing. This is not held out: a
   learning rate that fits its training data better looks better, and the reason says so.

A missing candidate might have been the best: then nothing is chosen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reading.cell_records import VALIDATION_SPLITS
from analysis.reading.shards import Cell, Shard, Study
from study.files import read_json
from study.paths import JobPaths, StudyPaths

MACRO, ENGLISH = "macro", "english"
CRITERIA = (MACRO, ENGLISH)
LAST_SHARE = 0.1
"""The last training NLL is the mean over this share of the logged steps: that of one batch is noise."""


@dataclass(frozen=True)
class Candidate:
    """A learning rate, and its criterion."""

    learning_rate: float
    value: float | None
    """The criterion, nats."""
    numbers: Mapping[str, float]
    """Those that the criterion is the mean of, by test or training job."""
    missing: str | None
    job_ids: tuple[str, ...]
    """The evaluations or trainings that were read."""


@dataclass(frozen=True)
class Selection:
    """The choice for one cell without learning rate and seed."""

    cell: Cell
    criterion: str
    candidates: tuple[Candidate, ...]
    """By learning rate."""
    chosen: float | None
    reason: str
    """In words, why this one is chosen, or none."""


def select_learning_rates(study_dir: Path, study: Study, by: str = MACRO) -> list[Selection]:
    """One selection for each combination of the other axes, in the order of the plan.

    by: `macro`, the mean over the languages of a validation split, or `english` alone. Raises ValueError for
    anything else.
    """
    if by not in CRITERIA:
        raise ValueError(f"by must be one of {', '.join(CRITERIA)}, not {by!r}.")
    # nothing below sees a shard of another split
    validation = [shard for shard in study.shards if shard.split in VALIDATION_SPLITS]
    trained = [cell for cell in study.runs() if not cell.is_base and cell.get("learning_rate") is not None]
    trainings = _trainings(StudyPaths(Path(study_dir)))
    selections = []
    for key in dict.fromkeys(cell.without("learning_rate", "seed") for cell in trained):
        rates: dict[float, list[Cell]] = {}
        for cell in trained:
            if cell.without("learning_rate", "seed") == key:
                rates.setdefault(float(cell.get("learning_rate")), []).append(cell)
        if validation:
            languages = "English" if by == ENGLISH else "macro mean over languages"
            criterion = f"NLL over the options on the validation splits, {languages}"
            candidates = [_validated(rate, rates[rate], validation, by) for rate in sorted(rates)]
        else:
            criterion = f"last training NLL (mean of the last {LAST_SHARE:.0%} of its log), not held out"
            candidates = [_trained(rate, rates[rate], trainings) for rate in sorted(rates)]
        selections.append(_choose(key, criterion, candidates))
    return selections


def _choose(key: Cell, criterion: str, candidates: Sequence[Candidate]) -> Selection:
    lacking = [candidate for candidate in candidates if candidate.value is None]
    if len(candidates) == 1:
        reason = f"nothing was selected: {candidates[0].learning_rate:g} is the only learning rate"
        return Selection(key, "none", tuple(candidates), None, reason)
    if lacking:
        which = ", ".join(f"{candidate.learning_rate:g} ({candidate.missing})" for candidate in lacking)
        reason = f"nothing was selected: no {criterion} of {which}"
        return Selection(key, criterion, tuple(candidates), None, reason)
    best = min(candidates, key=lambda candidate: (candidate.value, candidate.learning_rate))
    values = ", ".join(f"{candidate.learning_rate:g}: {candidate.value:.5g}" for candidate in candidates)
    return Selection(key, criterion, tuple(candidates), best.learning_rate, f"lowest {criterion} ({values})")


def _validated(rate: float, cells: Sequence[Cell], validation: Sequence[Shard], by: str) -> Candidate:
    members = [
        shard for shard in validation if shard.cell in cells and (by == MACRO or shard.language == "en")
    ]
    job_ids = tuple(shard.job_id for shard in members)
    lacking = [shard for shard in members if shard.metrics is None]
    if lacking or not members:
        what = (
            f"{len(lacking)} of {len(members)} validation shards missing"
            if members
            else ("no validation shard" + (" in English" if by == ENGLISH else ""))
        )
        return Candidate(rate, None, {}, what, job_ids)
    numbers = {}
    for test in dict.fromkeys(shard.test for shard in members):
        of_test = [shard for shard in members if shard.test == test]
        # seeds have the same languages: this mean over both is the mean over seeds of the macro means
        numbers[" ".join(test)] = _mean([shard.metrics["nll"] for shard in of_test if shard.metrics])
    return Candidate(rate, _mean(list(numbers.values())), numbers, None, job_ids)


def _trained(rate: float, cells: Sequence[Cell], trainings: Mapping[Cell, JobPaths]) -> Candidate:
    folders = [trainings.get(cell) for cell in cells]
    job_ids = tuple(folder.root.name for folder in folders if folder is not None)
    results = [_last_nll(folder) if folder is not None else "no training in the plan" for folder in folders]
    values = [value for value in results if isinstance(value, float)]
    if len(values) < len(results):
        missing = next(value for value in results if isinstance(value, str))
        return Candidate(rate, None, {}, missing, job_ids)
    numbers = {f"job {job_id}": value for job_id, value in zip(job_ids, values, strict=True)}
    return Candidate(rate, _mean(values), numbers, None, job_ids)


def _trainings(paths: StudyPaths) -> dict[Cell, JobPaths]:
    """The folder of each training by its cell."""
    jobs = [job for job in read_json(paths.plan)["jobs"] if job["kind"] == "train"]
    return {Cell.of(job["cell"]): paths.job(str(job["job_id"])) for job in jobs}


def _last_nll(folder: JobPaths) -> float | str:
    """The mean NLL over the end of a training's log, or why there is none."""
    if not folder.done.is_file():
        return "training not done"
    if not folder.metrics.is_file():
        return "no metrics.jsonl"
    try:
        lines = folder.metrics.read_text(encoding="utf-8").splitlines()
        logged: list[Any] = [json.loads(line)["nll"] for line in lines if line.strip()]
        values = [float(value) for value in logged]
    except (ValueError, KeyError, TypeError) as error:
        return f"metrics.jsonl cannot be read ({error!r})"
    if not values or not all(map(math.isfinite, values)):
        return "metrics.jsonl holds no NLL"
    return _mean(values[-max(1, round(len(values) * LAST_SHARE)) :])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
