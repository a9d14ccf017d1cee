"""The plan of a study: its jobs, and their form in plan.json."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from operator import attrgetter
from typing import Any

from study.errors import UserError
from study.files import canonical, read_json, write_atomic, write_json
from study.jobs.contrasts import EQUIVALENCE_MARGIN, DeclaredContrast, declared_contrasts
from study.jobs.job import Job, evaluation_ids, job_from
from study.jobs.specs import AnalyseSpec, EvalSpec, Source, eval_spec_from, to_dict
from study.paths import StudyPaths

PLAN_VERSION = 2


@dataclass(frozen=True)
class Plan:
    """The jobs of a study in an order in which each comes after what it needs."""

    study: str
    description: str | None
    jobs: tuple[Job, ...]
    contrasts: tuple[DeclaredContrast, ...] = ()
    """Declared by the grid; outside the identity of jobs, as is the margin."""
    equivalence_margin: float = EQUIVALENCE_MARGIN

    def of_kind(self, kind: str) -> list[Job]:
        return [job for job in self.jobs if job.kind == kind]


ANY_MODEL = Source("scratch", "any", "0" * 12)
"""The placeholder in a shard whose model is not known yet."""


class Evaluations:
    """Makes the evaluate jobs of shards and models quickly: a study may have hundreds of thousands.

    Jobs of one shard share the parts of its spec, and jobs of one model its needs and cell.
    """

    def __init__(self, shards: Sequence[EvalSpec]) -> None:
        names = [field.name for field in fields(EvalSpec) if field.name != "model"]
        self._shards = [
            ({name: getattr(shard, name) for name in names}, evaluation_ids(shard)) for shard in shards
        ]

    def of(
        self, model: Source, cell: Mapping[str, Any], places: Iterable[int] | None = None
    ) -> Iterator[Job]:
        """A model's jobs: one for each shard, or for those at `places`."""
        needs, identity = needs_of(model), canonical(model.identity())
        for place in range(len(self._shards)) if places is None else places:
            shard, job_id = self._shards[place]
            yield Job.with_id("evaluate", EvalSpec(model, **shard), needs, cell, job_id(identity))


@contextmanager
def many_objects() -> Iterator[None]:
    """Turn garbage collection off, which would examine all these objects many times and find no garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def needs_of(model: Source) -> tuple[str, ...]:
    """The id of the job that makes a model, if there is one."""
    return (model.name,) if model.kind == "job" else ()


def analysis_of(evaluations: Sequence[Job]) -> Job:
    """The job that makes tables from evaluate jobs."""
    ids = tuple(job.job_id for job in evaluations)
    return Job("analyse", AnalyseSpec(ids), needs=ids, cell={})


def write_plan(plan: Plan, resolved: str, paths: StudyPaths) -> None:
    """Write plan.json, and grid.yaml with the resolved grid.

    Tables and dashboard belong to one plan: if the previous plan had another analysis, description,
    contrasts or margin, the analysis of this one loses its DONE marker.
    """
    try:
        old = read_plan(paths)
        same = replace(old, jobs=()) == replace(plan, jobs=())
        before = {job.job_id for job in old.of_kind("analyse")} if same else set()
    except UserError:  # there is none, or one of another version
        before = set()
    for job in plan.of_kind("analyse"):
        if job.job_id not in before:
            paths.job(job.job_id).done.unlink(missing_ok=True)
    write_atomic(paths.grid, resolved)
    write_atomic(paths.plan, json.dumps(plan_to_dict(plan), ensure_ascii=False, allow_nan=False) + "\n")


def write_specs(jobs: Iterable[Job], paths: StudyPaths) -> None:
    """Write the spec.json of jobs that are about to run.

    For unfinished jobs, values outside their identity are updated, e.g. the path of a local model.
    """
    for job in jobs:
        folder, data = paths.job(job.job_id), job.to_dict()
        if not folder.spec.is_file() or (not folder.done.is_file() and read_json(folder.spec) != data):
            write_json(folder.spec, data)


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values. Evaluate jobs refer by index to `models` and `shards`, which they share."""
    shard_values = attrgetter(*(field.name for field in fields(EvalSpec) if field.name != "model"))
    models: dict[tuple[int, int], int] = {}
    shards: dict[tuple[int, ...], int] = {}
    model_entries: list[dict[str, Any]] = []
    shard_entries: list[dict[str, Any]] = []
    jobs: list[dict[str, Any]] = []
    for job in plan.jobs:
        if job.kind == "analyse":
            jobs.append({"job_id": job.job_id, "kind": "analyse"})
        elif not isinstance(job.spec, EvalSpec):
            jobs.append(job.to_dict())
        else:
            spec = job.spec
            # by the ids of objects, which jobs of one model or shard share: comparing them takes seconds
            of_model = (id(spec.model), id(job.cell))
            of_shard = tuple(map(id, shard_values(spec)))
            if of_model not in models:
                models[of_model] = len(models)
                model_entries.append({"model": to_dict(spec)["model"], "cell": dict(job.cell)})
            if of_shard not in shards:
                shards[of_shard] = len(shards)
                values = to_dict(spec)
                del values["model"]
                shard_entries.append(values)
            jobs.append(
                {
                    "job_id": job.job_id,
                    "kind": "evaluate",
                    "model": models[of_model],
                    "shard": shards[of_shard],
                }
            )
    return {
        "schema_version": PLAN_VERSION,
        "study": plan.study,
        "description": plan.description,
        # only where there are some: plans of other grids are as they were
        **({"contrasts": [contrast.to_dict() for contrast in plan.contrasts]} if plan.contrasts else {}),
        **(
            {"equivalence_margin": plan.equivalence_margin}
            if plan.equivalence_margin != EQUIVALENCE_MARGIN
            else {}
        ),
        "models": model_entries,
        "shards": shard_entries,
        "jobs": jobs,
    }


def read_plan(paths: StudyPaths) -> Plan:
    """The plan of the latest sweep; raises UserError when the folder is not a study."""
    if not paths.plan.is_file():
        raise UserError(
            "is not a study (no plan.json)", where=str(paths.root), remedy="give <outputs>/<study>"
        )
    try:
        with many_objects():
            data = read_json(paths.plan)
            jobs = _jobs_from(data) if data["schema_version"] == PLAN_VERSION else None
        known = jobs is not None and all(
            job.job_id == entry["job_id"] for job, entry in zip(jobs, data["jobs"], strict=True)
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        known = False
    if not known:
        raise UserError(
            "is not a plan of this version of calsweep", where=str(paths.plan), remedy="sweep the grid again"
        )
    assert jobs is not None
    contrasts = declared_contrasts(data.get("contrasts", []), str(paths.plan))
    margin = float(data.get("equivalence_margin", EQUIVALENCE_MARGIN))
    return Plan(data["study"], data["description"], tuple(jobs), contrasts, margin)


def _jobs_from(data: Mapping[str, Any]) -> list[Job]:
    models = [(Source(**entry["model"]), entry["cell"]) for entry in data["models"]]
    evaluations = Evaluations([_shard_from(entry) for entry in data["shards"]])
    jobs: list[Job] = []
    # consecutive jobs of one model are made together
    for (kind, place), entries in itertools.groupby(data["jobs"], lambda e: (e["kind"], e.get("model"))):
        if kind == "analyse":
            jobs.append(analysis_of([job for job in jobs if job.kind == "evaluate"]))
        elif kind == "evaluate":
            model, cell = models[place]
            jobs += evaluations.of(model, cell, [entry["shard"] for entry in entries])
        else:
            jobs += [job_from(entry) for entry in entries]
    return jobs


def _shard_from(entry: Mapping[str, Any]) -> EvalSpec:
    return eval_spec_from({**entry, "model": asdict(ANY_MODEL)})
