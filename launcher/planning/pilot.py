"""`sweep --pilot`: one cell of a study with few steps, as a separate study that measures the cost."""

from __future__ import annotations

import dataclasses
from typing import Any

from study.errors import UserError
from study.grid.config import BenchmarkConfig, BudgetConfig, EvaluateConfig, Grid, GridConfig, TrackingConfig
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.jobs.specs import EvalSpec
from study.paths import StudyPaths

NUM_STEPS = 10
"""Metrics are written at the first and the tenth step, so nine steps are measured."""
NUM_ITEMS = 128


def pilot_grid(grid: Grid, plan: Plan) -> Grid:
    """The grid of a study's pilot: the first cell of its plan, with few steps, and few items of one language.

    It is a study in `<outputs>/<study>/pilot`, whose jobs never count as the study's. Its data are the
    study's, so that their lengths are measured too.
    """
    first, folder = _first_cell(plan), StudyPaths(grid.study_dir).pilot
    config = grid.config
    axes = {axis: [first.cell[axis]] for axis in config.grid if axis in first.cell}
    train = dict(config.train)
    if "num_steps" in axes:
        axes["num_steps"] = [NUM_STEPS]
    elif first.kind == "train":
        train["num_steps"] = NUM_STEPS
    benchmarks = _benchmarks(grid, plan, first)
    small: GridConfig = dataclasses.replace(
        config,
        study=folder.name,
        outputs=str(folder.parent),
        prepare={
            name: {**section, "num_steps": NUM_STEPS}
            for name, section in config.prepare.items()
            if name == first.cell["model"]
        },
        grid=axes,
        zip=[],
        exclude=[],
        train=train,
        evaluate=_evaluate(config.evaluate, benchmarks, include_base=first.kind != "train"),
        tracking=TrackingConfig(mode="disabled"),
        budget=BudgetConfig(),
    )
    return dataclasses.replace(grid, config=small, benchmarks=tuple(benchmarks))


def _first_cell(plan: Plan) -> Job:
    for kind in ("train", "evaluate"):
        for job in plan.jobs:
            if job.kind == kind:
                return job
    raise UserError("has nothing to measure", where=plan.study, remedy="add a dataset or a benchmark")


def _benchmarks(grid: Grid, plan: Plan, first: Job) -> list[BenchmarkConfig]:
    """Each split of a benchmark, in the first of its languages in the plan."""
    languages: dict[tuple[str, str], str] = {}
    for job in plan.jobs:
        if isinstance(job.spec, EvalSpec):
            languages.setdefault((job.spec.benchmark.name, job.spec.benchmark.split), job.spec.language)
            if len(languages) == len(grid.benchmarks):
                break
    splits: dict[tuple[str, str], BenchmarkConfig] = {}
    for config in grid.benchmarks:
        name = config.name if config.path else config.name.partition("@")[0]
        splits.setdefault((name, config.split), config)  # a second entry has other languages
    return [
        dataclasses.replace(
            config, languages=[languages[split]], num_items=min(config.num_items or NUM_ITEMS, NUM_ITEMS)
        )
        for split, config in splits.items()
    ]


def _evaluate(
    config: EvaluateConfig, benchmarks: list[BenchmarkConfig], *, include_base: bool
) -> EvaluateConfig:
    sections: list[Any] = [dataclasses.asdict(benchmark) for benchmark in benchmarks]
    return dataclasses.replace(config, benchmarks=sections, include_base=include_base)
