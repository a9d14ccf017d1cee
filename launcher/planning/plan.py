"""A grid as a DAG of jobs: prepare -> train -> evaluate, one per language -> analyse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluation import prompts
from launcher.planning.cells import cells
from study.benchmarks.definition import columns_of, definition_of
from study.benchmarks.sources import benchmark_source, chosen_languages
from study.errors import UserError, nearest
from study.files import canonical, digest
from study.grid.config import EvaluateConfig, Grid, checked_section
from study.grid.sources import dataset_source, model_source
from study.jobs.contrasts import CHOSEN, DeclaredContrast, check_contrasts, declared_contrasts
from study.jobs.job import Job
from study.jobs.plan import ANY_MODEL, Evaluations, Plan, analysis_of, many_objects, needs_of
from study.jobs.specs import (
    VALIDATION_SPLITS,
    Benchmark,
    EvalSpec,
    Hyperparameters,
    Prompting,
    Scratch,
    Source,
    TrainSpec,
)

STUDY_AXES = ("model", "dataset", "learning_rate", "label_smoothing", "seed")
SCRATCH = Source("scratch", "word-level", "0" * 12)
MAX_JOBS = 2_000_000


def build_plan(grid: Grid) -> Plan:
    """Resolve a grid into jobs.

    Raises UserError for a value out of range, an unknown model, dataset, benchmark or language, a missing
    file, an `exclude` that matches nothing, and a grid without jobs.
    """
    where = grid.path.name
    prepared = {name: _prepare_job(name, section, grid) for name, section in grid.config.prepare.items()}
    prepared_ids = {name: job.job_id for name, job in prepared.items()}
    models = {
        name: model_source(name, grid, prepared_ids, f"{where}: grid.model")
        for name in grid.config.grid["model"]
    }
    trains = list(_train_jobs(grid, models))
    shards = _shards(grid)
    _refuse_too_many(len(trains), len(models), len(shards), where)
    evaluated: list[tuple[Source, Mapping[str, Any]]] = []
    if grid.config.evaluate.include_base or not trains:
        used = {job.cell["model"] for job in trains} or models.keys()
        evaluated += [(models[name], {"model": name}) for name in models if name in used]
    evaluated += [(Source("job", job.job_id, job.job_id), job.cell) for job in trains]
    made = Evaluations(shards)
    with many_objects():
        evaluations = [job for model, cell in evaluated for job in made.of(model, cell)]
    if not trains and not evaluations:
        raise UserError("has no training and no evaluation", where=where, remedy="add evaluate.benchmarks")
    _refuse_doubles(models, trains, where)
    needed = {need for job in trains for need in job.needs}
    needed |= {need for model, _ in evaluated for need in needs_of(model)}
    used_prepared = {job.job_id: job for job in prepared.values() if job.job_id in needed}
    jobs = [*used_prepared.values(), *trains, *evaluations]
    if evaluations:
        jobs.append(analysis_of(evaluations))
    return Plan(
        grid.config.study,
        grid.config.description,
        tuple(jobs),
        _contrasts(grid, evaluations),
        grid.config.equivalence_margin,
    )


def _contrasts(grid: Grid, evaluations: Sequence[Job]) -> tuple[DeclaredContrast, ...]:
    where = f"{grid.path.name}: contrasts"
    contrasts = declared_contrasts(grid.config.contrasts, where)
    if not contrasts:
        return ()
    distinct: dict[str, Mapping[str, Any]] = {}
    # the jobs of a model share one cell: there may be hundreds of thousands
    for planned in {id(job.cell): job.cell for job in evaluations}.values():
        cell = {axis: value for axis, value in planned.items() if axis != "seed" and value is not None}
        distinct.setdefault(canonical(cell), cell)
    cells = list(distinct.values())
    check_contrasts(contrasts, cells, dict.fromkeys(axis for cell in cells for axis in cell), where)
    sides = [side or {} for contrast in contrasts for side in (contrast.a, contrast.b)]
    chooses = any(CHOSEN in side.values() for side in sides)
    if chooses and not any(benchmark.split in VALIDATION_SPLITS for benchmark in grid.benchmarks):
        raise UserError(
            "no validation split is evaluated that could choose a learning rate",
            where=where,
            remedy=f"add a benchmark with split: {' or '.join(VALIDATION_SPLITS)}, or give learning rates",
        )
    return contrasts


def resolved(grid: Grid) -> str:
    """The grid as YAML, with defaults and overrides."""
    from omegaconf import OmegaConf

    return str(OmegaConf.to_yaml(OmegaConf.structured(grid.config)))


def _hyperparameters(values: Mapping[str, Any], where: str) -> Hyperparameters:
    result = checked_section(Hyperparameters, dict(values), where)
    assert isinstance(result, Hyperparameters)
    return result


def _prepare_job(name: str, section: Any, grid: Grid) -> Job:
    where = f"{grid.path.name}: prepare.{name}"
    if not isinstance(section, dict):
        raise UserError("not a mapping", where=where, remedy="give its architecture and dataset")
    shape = set(Scratch.__dataclass_fields__)
    known = (*shape, "dataset", *Hyperparameters.__dataclass_fields__)
    for key in section:
        if key not in known:
            raise UserError("unknown key", where=f"{where}.{key}", remedy=nearest(str(key), known))
    if "dataset" not in section:
        raise UserError("is missing", where=f"{where}.dataset", remedy="e.g. cldr-pretrain")
    if section["dataset"] != "cldr-pretrain":
        raise UserError(
            "only cldr-pretrain trains a model from scratch yet",
            where=f"{where}.dataset",
            remedy="write cldr-pretrain",
        )
    scratch = checked_section(Scratch, {k: v for k, v in section.items() if k in shape}, where)
    rest = {k: v for k, v in section.items() if k not in shape and k != "dataset"}
    dataset = dataset_source(section["dataset"], grid, f"{where}.dataset")
    spec = TrainSpec(SCRATCH, dataset, _hyperparameters(rest, where), scratch)
    return Job("prepare", spec, needs=(), cell={"model": name})


def _train_jobs(grid: Grid, models: Mapping[str, Source]) -> Iterator[Job]:
    where = grid.path.name
    section = "train" if "dataset" in grid.config.train else "grid"
    datasets: dict[str, Source] = {}
    constants = {key: value for key, value in grid.config.train.items() if key != "dataset"}
    base = _hyperparameters(constants, f"{where}: train")
    for cell in cells(grid.config, where):
        model = models[cell["model"]]
        name = cell["dataset"]
        if name not in datasets:
            datasets[name] = dataset_source(name, grid, f"{where}: {section}.dataset")
        own = {axis: value for axis, value in cell.items() if axis not in ("model", "dataset")}
        try:
            hyper = replace(base, **own)
        except UserError as error:
            raise UserError(error.what, where=f"{where}: grid.{error.where}", remedy=error.remedy) from None
        spec = TrainSpec(model, datasets[name], hyper)
        # the study's main axes are always named, with values as they are used: `1` for a rate is 1.0
        axes = dict.fromkeys((*STUDY_AXES, *cell))
        values = {axis: getattr(hyper, axis, cell.get(axis)) for axis in axes}
        yield Job("train", spec, needs_of(model), values)


def _shards(grid: Grid) -> list[EvalSpec]:
    result: list[EvalSpec] = []
    listed: dict[tuple[str, str, str], int] = {}
    evaluate = grid.config.evaluate
    for index, config in enumerate(grid.benchmarks):
        where = f"{grid.path.name}: evaluate.benchmarks[{index}]"
        benchmark = benchmark_source(config, grid, where)
        codes = chosen_languages(config, benchmark, where)
        if evaluate.num_shots:
            _refuse_shots(grid, benchmark, where)
        # how many items there are, or where they lie, makes no other test: tables would average both
        again = [code for code in codes if (benchmark.name, benchmark.split, code) in listed]
        if again:
            first = listed[benchmark.name, benchmark.split, again[0]]
            raise UserError(
                f"{benchmark.split} of {benchmark.name} is in evaluate.benchmarks[{first}] already, "
                f"for {', '.join(again)}",
                where=where,
                remedy="remove one, or give it a study of its own",
            )
        listed |= {(benchmark.name, benchmark.split, code): index for code in codes}
        try:
            result += [_shard(evaluate, benchmark, code) for code in codes]
        except UserError as error:
            raise UserError(
                error.what, where=f"{grid.path.name}: evaluate.{error.where}", remedy=error.remedy
            ) from None
    return result


def _refuse_shots(grid: Grid, benchmark: Benchmark, where: str) -> None:
    """Raise UserError where shots cannot come from another split than the one evaluated.

    With local files only the job can see that.
    """
    if benchmark.source.kind == "local":
        return
    split = definition_of(benchmark.name).shot_split
    if split is None:
        place = f"{grid.path.name}: evaluate.num_shots"
        raise UserError(f"{benchmark.name} has no split for shots", where=place, remedy="write 0")
    if split == benchmark.split:
        raise UserError(
            f"is '{split}', from which the shots of {benchmark.name} come",
            where=f"{where}.split",
            remedy="leave it out, or write evaluate.num_shots: 0",
        )


def _shard(evaluate: EvaluateConfig, benchmark: Benchmark, language: str) -> EvalSpec:
    """One language of a benchmark, for any model. Raises UserError for a value out of range."""
    prompting = Prompting(
        evaluate.scaffold,
        evaluate.num_shots,
        evaluate.option_order,
        evaluate.too_long,
        prompts.version(
            evaluate.protocol,
            evaluate.scaffold,
            language,
            with_passage=columns_of(benchmark.schema).passage is not None,
        ),
    )
    return EvalSpec(ANY_MODEL, benchmark, language, evaluate.protocol, evaluate.dtype, prompting)


def _refuse_too_many(trains: int, models: int, shards: int, where: str) -> None:
    count = trains + (trains + models) * shards
    if count > MAX_JOBS:
        raise UserError(
            f"has {count:,} jobs, and a study may have {MAX_JOBS:,} at most",
            where=f"{where}: grid",
            remedy="split it into several studies",
        )


def _refuse_doubles(sources: Mapping[str, Source], trains: Sequence[Job], where: str) -> None:
    """Raise UserError for two names of one model: its jobs would be counted twice in every mean."""
    seen: dict[str, str] = {}
    for name, source in sources.items():
        key = digest(source.identity())
        if key in seen:
            problem = f"'{seen[key]}' and '{name}' are the same model"
            raise UserError(problem, where=f"{where}: grid.model", remedy="remove one")
        seen[key] = name
    names: dict[str, str] = {}
    for job in trains:
        if job.job_id in names:
            raise UserError(
                f"'{names[job.job_id]}' and '{job.name}' are the same job",
                where=f"{where}: grid",
                remedy="remove one",
            )
        names[job.job_id] = job.name
