"""Which learning rate to report, chosen without looking at the test split.

For each combination of the other axes (seeds are averaged) the learning rate with the best criterion is
chosen; of two with the same criterion, the lower one. The criterion is

1. the NLL over the options on the validation splits that the study evaluates: the macro mean over languages,
   or English alone, then the mean over splits. tables/selection.csv also has what accuracy and the Brier
   score would choose;
2. if it evaluates none, the last NLL of the training itself, without smoothing. This is not held out: a
   learning rate that fits its training data better looks better, and the reason says so.

A missing candidate might have been the best: then nothing is chosen.

How sure a choice is comes from the bootstrap over the validation items, paired by example id over candidates
and languages: the share of replicates in which each candidate is the best, and the interval of its difference
to the chosen one. 1,000 replicates give a share to within .03. The trained seeds are taken as they are: with
others, a choice is less sure than that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.reading.shards import Cell, Shard, Study, Test
from study.bins import FloatArray
from study.files import read_json
from study.jobs.specs import VALIDATION_SPLITS
from study.paths import JobPaths, StudyPaths

MACRO, ENGLISH = "macro", "english"
CRITERIA = (MACRO, ENGLISH)
METRICS = {"nll": "NLL over the options", "accuracy": "accuracy", "brier": "Brier score"}
"""What may choose, with its name in a sentence; today's first."""
HIGHEST = ("accuracy",)
"""Metrics of which the highest is the best; of the others the lowest is."""
UNCERTAINTY = ("share_chosen", "difference", "difference_low", "difference_high")
LAST_SHARE = 0.1
"""The last training NLL is the mean over this share of the logged steps: that of one batch is noise."""


@dataclass(frozen=True)
class Candidate:
    """A learning rate, and its criterion."""

    learning_rate: float
    value: float | None
    """The criterion; an NLL in nats."""
    numbers: Mapping[str, float]
    """Those that the criterion is the mean of, by test or training job."""
    missing: str | None
    job_ids: tuple[str, ...]
    """The evaluations or trainings that were read."""
    share_chosen: float | None = None
    """The share of replicates in which it is the best.

    None, as the next three, where nothing is chosen, or without validation items.
    """
    difference: float | None = None
    """The criterion minus that of the chosen one."""
    difference_low: float | None = None
    """95%."""
    difference_high: float | None = None


@dataclass(frozen=True)
class Selection:
    """The choice for one cell without learning rate and seed."""

    cell: Cell
    metric: str
    """One of METRICS."""
    criterion: str
    candidates: tuple[Candidate, ...]
    """By learning rate."""
    chosen: float | None
    reason: str
    """In words, why this one is chosen, or none."""


def select_learning_rates(
    study_dir: Path | None, study: Study, by: str = MACRO, metric: str = "nll"
) -> list[Selection]:
    """One selection for each combination of the other axes, in the order of the plan.

    by: `macro`, the mean over the languages of a validation split, or `english` alone. metric: one of
    METRICS; without validation splits only the NLL chooses, and the list is empty for any other. study_dir:
    only needed without validation splits, for the logs of the trainings. Raises ValueError for anything
    else.
    """
    if by not in CRITERIA:
        raise ValueError(f"by must be one of {', '.join(CRITERIA)}, not {by!r}.")
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}.")
    # nothing below sees a shard of another split
    validation = [shard for shard in study.shards if shard.split in VALIDATION_SPLITS]
    if not validation and metric != "nll":
        return []
    trained = [cell for cell in study.runs() if not cell.is_base and cell.get("learning_rate") is not None]
    trainings = {} if validation or study_dir is None else _trainings(StudyPaths(Path(study_dir)))
    selections = []
    for key in dict.fromkeys(cell.without("learning_rate", "seed") for cell in trained):
        rates: dict[float, list[Cell]] = {}
        for cell in trained:
            if cell.without("learning_rate", "seed") == key:
                rates.setdefault(float(cell.get("learning_rate")), []).append(cell)
        if validation:
            languages = "English" if by == ENGLISH else "macro mean over languages"
            criterion = f"{METRICS[metric]} on the validation splits, {languages}"
            of_rates = {rate: _members(rates[rate], validation, by) for rate in sorted(rates)}
            candidates = [_validated(rate, members, by, metric) for rate, members in of_rates.items()]
        else:
            criterion = f"last training NLL (mean of the last {LAST_SHARE:.0%} of its log), not held out"
            candidates = [_trained(rate, rates[rate], trainings) for rate in sorted(rates)]
        selection = _choose(key, metric, criterion, candidates)
        if validation and selection.chosen is not None:
            draws = np.stack([_draws(members, metric) for members in of_rates.values()])
            selection = replace(selection, candidates=_with_uncertainty(selection, draws))
        selections.append(selection)
    return selections


def _choose(key: Cell, metric: str, criterion: str, candidates: Sequence[Candidate]) -> Selection:
    lacking = [candidate for candidate in candidates if candidate.value is None]
    if len(candidates) == 1:
        reason = f"nothing was selected: {candidates[0].learning_rate:g} is the only learning rate"
        return Selection(key, metric, "none", tuple(candidates), None, reason)
    if lacking:
        which = ", ".join(f"{candidate.learning_rate:g} ({candidate.missing})" for candidate in lacking)
        reason = f"nothing was selected: no {criterion} of {which}"
        return Selection(key, metric, criterion, tuple(candidates), None, reason)
    sign, word = (-1.0, "highest") if metric in HIGHEST else (1.0, "lowest")
    values = {one.learning_rate: one.value for one in candidates if one.value is not None}
    best = min(values, key=lambda rate: (sign * values[rate], rate))
    text = ", ".join(f"{rate:g}: {value:.5g}" for rate, value in values.items())
    return Selection(key, metric, criterion, tuple(candidates), best, f"{word} {criterion} ({text})")


def _with_uncertainty(selection: Selection, draws: FloatArray) -> tuple[Candidate, ...]:
    """The candidates with what their replicates say. draws: (candidates, R), paired, by learning rate."""
    values = np.array([candidate.value for candidate in selection.candidates], dtype=np.float64)
    place = next(k for k, one in enumerate(selection.candidates) if one.learning_rate == selection.chosen)
    best = np.argmin(-draws if selection.metric in HIGHEST else draws, axis=0)  # of equal ones the first
    low, high = np.quantile(draws - draws[place], (0.025, 0.975), axis=1)
    shares = np.bincount(best, minlength=len(draws)) / len(best)
    columns = np.stack([shares, values - values[place], low, high])
    return tuple(
        replace(candidate, **dict(zip(UNCERTAINTY, numbers, strict=True)))
        for candidate, numbers in zip(selection.candidates, columns.T.tolist(), strict=True)
    )


def _draws(members: Sequence[Shard], metric: str) -> FloatArray:
    """(R,) the criterion in each replicate: the mean over languages and seeds, then over splits."""
    by_test: dict[Test, list[FloatArray]] = {}
    for shard in members:
        assert shard.estimates is not None  # none of them is missing
        by_test.setdefault(shard.test, []).append(shard.estimates[metric].draws)
    return np.asarray(np.mean([np.mean(draws, axis=0) for draws in by_test.values()], axis=0))


def _members(cells: Sequence[Cell], validation: Sequence[Shard], by: str) -> list[Shard]:
    """The shards that a candidate is judged by."""
    return [shard for shard in validation if shard.cell in cells and (by == MACRO or shard.language == "en")]


def _validated(rate: float, members: Sequence[Shard], by: str, metric: str) -> Candidate:
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
        numbers[" ".join(test)] = _mean([shard.metrics[metric] for shard in of_test if shard.metrics])
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
