"""A grid as a DAG of jobs: prepare -> train -> evaluate, one per language -> analyse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study import languages
from study.config import AXES, Grid, GridConfig, checked_section
from study.errors import UserError, nearest
from study.files import digest, read_json, write_atomic, write_json
from study.job import Job, job_from
from study.paths import StudyPaths
from study.sources import benchmark_languages, benchmark_source, dataset_source, model_source
from study.specs import AnalyseSpec, Benchmark, EvalSpec, Hyperparameters, Scratch, Source, TrainSpec

PLAN_VERSION = 1
STUDY_AXES = ("model", "dataset", "learning_rate", "label_smoothing", "seed")
SCRATCH = Source("scratch", "word-level", "0" * 12)


@dataclass(frozen=True)
class Plan:
    """The jobs of a study in an order in which each comes after what it needs."""

    study: str
    description: str | None
    jobs: tuple[Job, ...]

    def of_kind(self, kind: str) -> list[Job]:
        return [job for job in self.jobs if job.kind == kind]


def build_plan(grid: Grid) -> Plan:
    """Resolve a grid into jobs.

    Raises UserError for a value out of range, an unknown model, dataset, benchmark or language, a missing
    file, an `exclude` that matches nothing, and a grid that asks for nothing.
    """
    where = grid.path.name
    prepared = {name: _prepare_job(name, section, grid) for name, section in grid.config.prepare.items()}
    prepared_ids = {name: job.job_id for name, job in prepared.items()}
    sources = {
        name: model_source(name, grid, prepared_ids, f"{where}: grid.model")
        for name in grid.config.grid["model"]
    }
    trains = [_train_job(cell, sources, grid) for cell in cells(grid.config, where)]
    shards = _shards(grid)
    evaluations: list[Job] = []
    if grid.config.evaluate.include_base or not trains:
        used = [name for name in sources if not trains or any(job.cell["model"] == name for job in trains)]
        evaluations += [
            _eval_job(sources[name], {"model": name}, shard, grid) for name in used for shard in shards
        ]
    for job in trains:
        source = Source("job", job.job_id, job.job_id)
        evaluations += [_eval_job(source, job.cell, shard, grid) for shard in shards]
    if not trains and not evaluations:
        raise UserError(
            "asks for no training and no evaluation", where=where, remedy="add evaluate.benchmarks"
        )
    _refuse_doubles(sources, trains, evaluations, where)
    needed = {need for job in (*trains, *evaluations) for need in job.needs}
    used_prepared = {job.job_id: job for job in prepared.values() if job.job_id in needed}
    jobs = [*used_prepared.values(), *trains, *evaluations]
    if evaluations:
        ids = tuple(job.job_id for job in evaluations)
        jobs.append(Job("analyse", AnalyseSpec(ids), needs=ids, cell={}))
    return Plan(grid.config.study, grid.config.description, tuple(jobs))


def cells(config: GridConfig, where: str) -> Iterator[dict[str, Any]]:
    """The training cells: the product of the axes, less what `exclude` matches; none without a dataset."""
    if "dataset" not in config.grid and "dataset" not in config.train:
        if config.exclude:
            raise UserError(
                "excludes training cells, and this grid has none",
                where=f"{where}: exclude",
                remedy="remove it, or leave models out of grid.model",
            )
        extra = [axis for axis in (*config.grid, *config.train) if axis != "model"]
        if extra:
            raise UserError(
                "has training values but no dataset",
                where=f"{where}: {'grid' if extra[0] in config.grid else 'train'}.{extra[0]}",
                remedy="add grid.dataset, or remove them to evaluate base models alone",
            )
        return
    constants = {"dataset": config.train["dataset"]} if "dataset" in config.train else {}
    used = [False] * len(config.exclude)
    for index, rule in enumerate(config.exclude):
        if not isinstance(rule, dict) or not rule:
            raise UserError(
                "not a mapping of axes", where=f"{where}: exclude[{index}]", remedy="e.g. {model: x, seed: 1}"
            )
        for key in rule:
            if key not in config.grid:
                raise UserError(
                    "is no axis of this grid",
                    where=f"{where}: exclude[{index}].{key}",
                    remedy=nearest(str(key), config.grid),
                )
    axes, empty = sorted(config.grid, key=AXES.index), True
    for values in itertools.product(*(config.grid[axis] for axis in axes)):
        cell = {**dict(zip(axes, values, strict=True)), **constants}
        matched = [i for i, rule in enumerate(config.exclude) if _matches(cell, rule)]
        for i in matched:
            used[i] = True
        if not matched:
            empty = False
            yield cell
    if empty:
        raise UserError("leaves no cell", where=f"{where}: exclude", remedy="remove a rule")
    if not all(used):
        raise UserError(
            "matches no cell",
            where=f"{where}: exclude[{used.index(False)}]",
            remedy="correct it or remove it",
        )


def _matches(cell: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    return all(cell[key] in (value if isinstance(value, list) else [value]) for key, value in rule.items())


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


def _train_job(cell: dict[str, Any], sources: Mapping[str, Source], grid: Grid) -> Job:
    where = grid.path.name
    hyper = {**grid.config.train, **cell}
    section = "train" if "dataset" in grid.config.train else "grid"
    dataset = dataset_source(hyper.pop("dataset"), grid, f"{where}: {section}.dataset")
    model = sources[hyper.pop("model")]
    spec = TrainSpec(model, dataset, _hyperparameters(hyper, f"{where}: grid"))
    # the study's own axes are always told, and every value as it will be used: `1` for a rate is 1.0
    axes = dict.fromkeys((*STUDY_AXES, *cell))
    resolved = {axis: getattr(spec.hyper, axis, cell.get(axis)) for axis in axes}
    return Job("train", spec, needs=(model.name,) if model.kind == "job" else (), cell=resolved)


def _shards(grid: Grid) -> list[tuple[Benchmark, str]]:
    result: list[tuple[Benchmark, str]] = []
    for index, config in enumerate(grid.benchmarks):
        where = f"{grid.path.name}: evaluate.benchmarks[{index}]"
        benchmark = benchmark_source(config, grid, where)
        try:
            codes = languages.resolve(config.languages, benchmark_languages(benchmark))
        except UserError as error:
            raise UserError(error.what, where=f"{where}.languages", remedy=error.remedy) from None
        result += [(benchmark, code) for code in codes]
    return result


def _refuse_doubles(
    sources: Mapping[str, Source], trains: Sequence[Job], evaluations: Sequence[Job], where: str
) -> None:
    """Two names of one thing would be one job under two cells, counted twice in every mean."""
    seen: dict[str, str] = {}
    for name, source in sources.items():
        key = digest(source.identity())
        if key in seen:
            raise UserError(f"'{name}' is '{seen[key]}'", where=f"{where}: grid.model", remedy="remove one")
        seen[key] = name
    for section, jobs in (("grid", trains), ("evaluate.benchmarks", evaluations)):
        names: dict[str, str] = {}
        for job in jobs:
            if job.job_id in names:
                raise UserError(
                    f"'{job.name}' is the same job as '{names[job.job_id]}'",
                    where=f"{where}: {section}",
                    remedy="remove one",
                )
            names[job.job_id] = job.name


def _eval_job(model: Source, cell: Mapping[str, Any], shard: tuple[Benchmark, str], grid: Grid) -> Job:
    benchmark, language = shard
    evaluate = grid.config.evaluate
    try:
        spec = EvalSpec(model, benchmark, language, evaluate.protocol, evaluate.dtype)
    except UserError as error:
        raise UserError(
            error.what, where=f"{grid.path.name}: evaluate.{error.where}", remedy=error.remedy
        ) from None
    return Job("evaluate", spec, needs=(model.name,) if model.kind == "job" else (), cell=cell)


def write_plan(plan: Plan, grid: Grid, paths: StudyPaths) -> None:
    """Write plan.json, grid.yaml and each job's spec.json.

    Tables and dashboard belong to one plan: when the plan before this one had another analysis, this one's
    is no longer done, even if it once was.
    """
    from omegaconf import OmegaConf

    try:
        before = {job.job_id for job in read_plan(paths).of_kind("analyse")}
    except UserError:  # there is none, or one of another version: it is replaced
        before = set()
    for job in plan.of_kind("analyse"):
        if job.job_id not in before:
            paths.job(job.job_id).done.unlink(missing_ok=True)
    known = {job.job_id: job.to_dict() for job in plan.jobs}
    for job_id, data in known.items():
        folder = paths.job(job_id)
        # an unfinished job takes what is outside its identity anew, e.g. where a local model lies now
        if not folder.spec.is_file() or (not folder.done.is_file() and read_json(folder.spec) != data):
            write_json(folder.spec, data)
    write_atomic(paths.grid, OmegaConf.to_yaml(OmegaConf.structured(grid.config)))
    content = {
        "schema_version": PLAN_VERSION,
        "study": plan.study,
        "description": plan.description,
        "jobs": list(known.values()),
    }
    write_json(paths.plan, content)


def read_plan(paths: StudyPaths) -> Plan:
    """The plan of the latest sweep; raises UserError when the folder is not a study."""
    if not paths.plan.is_file():
        raise UserError(
            "is not a study (no plan.json)", where=str(paths.root), remedy="give <outputs>/<study>"
        )
    try:
        data = read_json(paths.plan)
        known = data["schema_version"] == PLAN_VERSION
        jobs = tuple(job_from(entry) for entry in data["jobs"]) if known else ()
        known = known and all(job.job_id == e["job_id"] for job, e in zip(jobs, data["jobs"], strict=True))
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise UserError(
            "is not a plan of this version of calsweep", where=str(paths.plan), remedy="sweep the grid again"
        )
    return Plan(data["study"], data["description"], jobs)
