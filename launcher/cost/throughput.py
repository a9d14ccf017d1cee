"""How fast the finished jobs of a study, or of its pilot, were."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.planning.sites import Site
from study import journal
from study.files import read_json
from study.jobs.job import Job
from study.jobs.plan import Plan, read_plan
from study.jobs.resources import Resources
from study.jobs.specs import EvalSpec, TrainSpec
from study.paths import JobPaths, StudyPaths

SAMPLES, LOOKS = 3, 20
"""For one model (and benchmark): jobs whose speed counts, and jobs that are looked at to find them."""


@dataclass
class Throughput:
    """Measured speeds and lengths. Models are named as in the grid.

    training: model -> tokens per second and rank. evaluation: (model, benchmark) -> items per second.
    lengths: `dataset_key` -> (rows, tokens per row).
    """

    training: dict[str, float] = field(default_factory=dict)
    evaluation: dict[tuple[str, str], float] = field(default_factory=dict)
    lengths: dict[tuple[Any, ...], tuple[int, float]] = field(default_factory=dict)


def dataset_key(spec: TrainSpec) -> tuple[Any, ...]:
    """Everything that the length of a tokenised dataset depends on, except the tokenizer."""
    hyper = spec.hyper
    return (
        spec.dataset.revision,
        hyper.num_examples,
        hyper.exclude_sources,
        hyper.max_length_tokens,
        hyper.template,
    )


def measured(plan: Plan, paths: StudyPaths, site: Site) -> Throughput:
    """The study's measurements, and its pilot's where the study has none.

    Only jobs count that ran on the kind of device that the site has now: with GPUs, or without.
    """
    result = Throughput()
    pilot = StudyPaths(paths.pilot)
    if pilot.plan.is_file():
        _read(read_plan(pilot).jobs, pilot, site, result)
    if (paths.root / "jobs").is_dir():
        _read(plan.jobs, paths, site, result)
    return result


def _read(jobs: Iterable[Job], paths: StudyPaths, site: Site, result: Throughput) -> None:
    """Add what these jobs measured; it replaces what `result` has for the same key."""
    training: dict[str, list[float]] = {}
    evaluation: dict[tuple[str, str], list[float]] = {}
    looks: dict[tuple[str, str], int] = {}
    for job in jobs:
        spec, model = job.spec, job.cell.get("model")
        if model is None:
            continue
        key = (model, spec.benchmark.name) if isinstance(spec, EvalSpec) else (model, job.kind)
        if looks.get(key, 0) >= LOOKS:
            continue
        looks[key] = looks.get(key, 0) + 1
        folder = paths.job(job.job_id)
        if not folder.done.is_file():
            continue
        if isinstance(spec, TrainSpec):
            _note_length(spec, folder, result)
        if not (resources := _resources(folder, job, site)):
            continue
        if isinstance(spec, EvalSpec):
            speed = read_json(folder.progress).get("items_per_s") if folder.progress.is_file() else None
            samples = evaluation.setdefault(key, [])
        else:
            total = steady_tokens_per_s(journal.read(folder.metrics))
            speed = None if total is None else total / resources.num_tasks
            samples = training.setdefault(model, [])
        if speed:
            samples.append(speed)
            if len(samples) >= SAMPLES:
                looks[key] = LOOKS
    result.training.update({key: statistics.median(values) for key, values in training.items() if values})
    result.evaluation.update({key: statistics.median(values) for key, values in evaluation.items() if values})


def _note_length(spec: TrainSpec, folder: JobPaths, result: Throughput) -> None:
    done = read_json(folder.done)
    if done.get("tokens"):  # an earlier version of this program did not write it
        result.lengths[dataset_key(spec)] = (done["examples"], done["tokens"] / done["examples"])


def _resources(folder: JobPaths, job: Job, site: Site) -> Resources | None:
    """The resources that the job ran with; None where they are of another kind than the site's."""
    if not folder.execution.is_file():
        return None
    used = Resources(**read_json(folder.execution)["resources"])
    return used if (used.gpus_per_node > 0) == (site.resources[job.kind].gpus_per_node > 0) else None


def steady_tokens_per_s(lines: list[Mapping[str, Any]] | list[dict[str, Any]]) -> float | None:
    """Tokens per second over all ranks, without the time before the first line of metrics (the first step).

    A line's `tokens_per_s` is the mean since the start, so step / tokens_per_s is proportional to the time
    since the start; the tokens per step cancel.
    """
    if len(lines) < 2:
        return None
    first, last = lines[0], lines[-1]
    begin, end = (line["step"] / line["tokens_per_s"] for line in (first, last))
    if end <= begin:  # the last attempt resumed just before the end and started slowly
        return float(last["tokens_per_s"])
    return float((last["step"] - first["step"]) / (end - begin))
