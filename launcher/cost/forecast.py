"""What the jobs that are left will cost: operations, hours, disk, queue slots.

Nothing here opens a job's folder but to see how fast a few finished ones were: jobs are counted in groups of
the same cost, and a group is reckoned once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.cost import sizes
from launcher.cost.sizes import Figure
from launcher.cost.throughput import Throughput, dataset_key, measured
from launcher.planning.sites import Site, SlurmSite
from launcher.planning.tasks import Task
from study.jobs.job import KINDS, Job
from study.jobs.plan import Plan
from study.jobs.resources import Resources
from study.jobs.specs import EvalSpec, TrainSpec
from study.paths import StudyPaths

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
OPTIMIZER_BYTES = 12
"""A parameter's two moments and master copy, all float32 under ZeRO 1 to 3, over all ranks together."""
ITEM_BYTES = {"global_mmlu": 34, "mmlu_prox": 68}
PART_BYTES, PART_ITEMS = 4096, 256
"""Of a prediction part beside its items, and items in one (`evaluation.shard.PART_SIZE`)."""
JOB_BYTES = 64 * 2**10
"""Logs, W&B files and small JSON of one job."""
NO_SPEED = "nothing was measured yet, and the profile names no gpu_tflops"


@dataclass(frozen=True)
class Line:
    """Jobs of one kind, model, and dataset or benchmark; totals over them, None where not known.

    num_tasks: not whole where tasks hold jobs of several lines. parameters, tokens, flops: 6 operations a
    parameter and token for training, 2 for evaluation. task_hours: wall clock of one task, in the mean.
    device_hours: of GPUs, or where the site gives none, of cores; device says which.
    disk_bytes: models, records, and at most so many bytes of checkpoints, which stay until `calsweep gc`.
    speed: where the hours come from. estimates, unknown: what was guessed, and what is not known and why.
    """

    kind: str
    model: str
    data: str
    num_jobs: int
    num_tasks: float
    parameters: float | None
    tokens: float | None
    flops: float | None
    task_hours: float | None
    device_hours: float | None
    device: str
    disk_bytes: float | None
    speed: str
    estimates: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.model} · {self.data}"


@dataclass(frozen=True)
class Forecast:
    """num_tasks: by kind. num_arrays: submissions that they make at most; None on this machine."""

    lines: tuple[Line, ...]
    num_tasks: Mapping[str, int]
    num_arrays: int | None

    def hours(self, device: str) -> float | None:
        """Hours of `GPU`s or `core`s; None when some are not known, 0 where none is asked for."""
        return _sum(line.device_hours for line in self.lines if line.device == device)

    @property
    def disk_bytes(self) -> float | None:
        return _sum(line.disk_bytes for line in self.lines)


@dataclass
class _Group:
    first: Job
    num_jobs: int = 0
    num_tasks: float = 0
    languages: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    site: Site
    models: Mapping[str, Figure]
    speeds: Throughput


def forecast(plan: Plan, tasks: Sequence[Task], paths: StudyPaths, site: Site) -> Forecast:
    """What these tasks of the plan will cost."""
    known = _Known(site, _models(plan), measured(plan, paths, site))
    groups: dict[tuple[Any, ...], _Group] = {}
    for task in tasks:
        share = 1 / len(task.jobs)
        for job in task.jobs:
            spec = job.spec
            if isinstance(spec, EvalSpec):
                name, benchmark, language = job.cell["model"], spec.benchmark, spec.language
                key: tuple[Any, ...] = (name, benchmark.name, benchmark.split, benchmark.num_items)
            elif isinstance(spec, TrainSpec):
                language, key = "", (job.kind, job.cell["model"], *_cost_key(spec))
            else:  # the analysis costs next to nothing
                continue
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(job)
            group.num_jobs += 1
            group.num_tasks += share
            group.languages[language] = group.languages.get(language, 0) + 1
    found = [_line(group, known) for group in groups.values()]
    found.sort(key=lambda line: KINDS.index(line.kind))
    return Forecast(tuple(found), dict(Counter(task.kind for task in tasks)), _num_arrays(tasks, site))


def _cost_key(spec: TrainSpec) -> tuple[Any, ...]:
    hyper = spec.hyper
    length = (hyper.num_examples, hyper.num_epochs, hyper.num_steps, hyper.global_batch_size)
    return spec.dataset.name, hyper.max_length_tokens, hyper.dtype, *length


def _models(plan: Plan) -> dict[str, Figure]:
    """Parameters by the grid's name of a model."""
    found: dict[str, Figure] = {}
    for job in plan.jobs:
        name = job.cell.get("model")
        if name is None or name in found:
            continue
        if isinstance(job.spec, TrainSpec):
            found[name] = sizes.parameters(job.spec.model, job.spec.scratch)
        elif isinstance(job.spec, EvalSpec):
            found[name] = sizes.parameters(job.spec.model)
    return found


def _num_arrays(tasks: Sequence[Task], site: Site) -> int | None:
    if not isinstance(site, SlurmSite):
        return None
    # the needs of an analysis are all evaluations: nothing to hash
    alike = Counter((task.kind, task.kind == "analyse" or task.needs) for task in tasks)
    return sum(math.ceil(count / site.profile.max_array_size) for count in alike.values())


def _line(group: _Group, known: _Known) -> Line:
    spec = group.first.spec
    if isinstance(spec, EvalSpec):
        return _evaluation(group, spec, known)
    assert isinstance(spec, TrainSpec)
    return _training(group, spec, known)


def _training(group: _Group, spec: TrainSpec, known: _Known) -> Line:
    model, hyper = group.first.cell["model"], spec.hyper
    size, resources = known.models[model], known.site.resources[group.first.kind]
    if (length := known.speeds.lengths.get(dataset_key(spec))) is not None:
        rows, per_row = Figure(length[0], "measured"), Figure(length[1], "measured")
    else:
        rows, per_row = sizes.training_rows(spec)
    steps: float | None = hyper.num_steps
    if steps is None and rows.value is not None:
        steps = max(1, hyper.num_epochs * rows.value // hyper.global_batch_size)
    tokens = _product(steps, hyper.global_batch_size, per_row.value)
    seconds, speed = _training_seconds(tokens, model, resources, known)
    per_parameter = WEIGHT_BYTES[hyper.dtype] + resources.keep_checkpoints * checkpoint_bytes(
        hyper.dtype, resources.zero_stage
    )
    return _made(
        group, size, [per_row] if hyper.num_steps else [rows, per_row], resources, speed,
        data=spec.dataset.name.rstrip("/").rpartition("/")[2],
        tokens=_product(tokens, group.num_jobs),
        flops=_product(6, size.value, tokens, group.num_jobs),
        hours=_product(seconds, group.num_jobs, 1 / 3600),
        disk_bytes=_product(size.value, per_parameter, group.num_jobs),
    )  # fmt: skip


def checkpoint_bytes(dtype: str, zero_stage: int) -> int:
    """Of one checkpoint, a parameter: at stage 3 the weights are in it as the optimizer's copy alone."""
    return OPTIMIZER_BYTES + (WEIGHT_BYTES[dtype] if zero_stage < 3 else 0)


def _evaluation(group: _Group, spec: EvalSpec, known: _Known) -> Line:
    model, benchmark = group.first.cell["model"], spec.benchmark
    size, resources = known.models[model], known.site.resources["evaluate"]
    counted = [(sizes.items(benchmark, code), times) for code, times in group.languages.items()]
    items = _sum(_product(count.value, times) for (count, _), times in counted)
    tokens = _sum(_product(count.value, length.value, times) for (count, length), times in counted)
    parts = _sum(
        None if count.value is None else math.ceil(count.value / PART_ITEMS) * times
        for (count, _), times in counted
    )
    seconds, speed = _evaluation_seconds(items, tokens, model, benchmark.name, resources, known)
    records = _sum([_product(items, ITEM_BYTES[benchmark.schema]), _product(parts, PART_BYTES)])
    figures = [figure for pair, _ in counted for figure in pair]
    return _made(
        group, size, figures, resources, speed,
        data=benchmark.label,
        tokens=tokens,
        flops=_product(2, size.value, tokens),
        hours=_product(seconds, 1 / 3600),
        disk_bytes=records,
    )  # fmt: skip


def _training_seconds(
    tokens: float | None, model: str, resources: Resources, known: _Known
) -> tuple[float | None, str]:
    """Wall clock of one training run, and where its speed comes from."""
    measured, size = known.speeds.training, known.models[model].value
    if tokens is None:
        return None, "unknown"
    if model in measured:
        return tokens / (measured[model] * resources.num_tasks), "measured"
    for other, rate in measured.items():
        if size and (others := known.models.get(other)) and others.value:
            return tokens * size / others.value / (rate * resources.num_tasks), f"measured on {other}"
    return _profile_seconds(_product(6, size, tokens), resources, known)


def _evaluation_seconds(
    items: float | None,
    tokens: float | None,
    model: str,
    benchmark: str,
    resources: Resources,
    known: _Known,
) -> tuple[float | None, str]:
    """Wall clock of scoring so many items, without loading models, and where its speed comes from."""
    measured, size = known.speeds.evaluation, known.models[model].value
    if items is not None and (model, benchmark) in measured:
        return items / measured[model, benchmark], "measured"
    for (other, name), rate in measured.items():
        others = known.models.get(other)
        if items is not None and name == benchmark and size and others and others.value:
            return items * size / others.value / rate, f"measured on {other}"
    return _profile_seconds(_product(2, size, tokens), resources, known)


def _profile_seconds(flops: float | None, resources: Resources, known: _Known) -> tuple[float | None, str]:
    tflops = known.site.profile.gpu_tflops if isinstance(known.site, SlurmSite) else None
    gpus = resources.nodes * min(resources.tasks_per_node, resources.gpus_per_node)  # a rank uses one
    if flops is None or not tflops or not gpus:
        return None, "unknown"
    return flops / (tflops * 1e12 * gpus), "profile"


def _made(
    group: _Group,
    size: Figure,
    figures: Sequence[Figure],
    resources: Resources,
    speed: str,
    *,
    data: str,
    tokens: float | None,
    flops: float | None,
    hours: float | None,
    disk_bytes: float | None,
) -> Line:
    gpus = resources.nodes * resources.gpus_per_node
    cores = resources.num_tasks * resources.cpus_per_task
    bases = [size, *figures]
    unknown = [figure.basis for figure in bases if figure.value is None]
    if hours is None and not unknown:
        unknown.append(NO_SPEED)
    return Line(
        kind=group.first.kind,
        model=group.first.cell["model"],
        data=data,
        num_jobs=group.num_jobs,
        num_tasks=group.num_tasks,
        parameters=size.value,
        tokens=tokens,
        flops=flops,
        task_hours=_product(hours, 1 / group.num_tasks),
        device_hours=_product(hours, gpus or cores),
        device="GPU" if gpus else "core",
        disk_bytes=_sum([disk_bytes, JOB_BYTES * group.num_jobs]),
        speed=speed,
        estimates=tuple(dict.fromkeys(figure.basis for figure in bases if figure.estimate)),
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _product(*factors: float | None) -> float | None:
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


def _sum(terms: Iterable[float | None]) -> float | None:
    found = list(terms)
    known = [term for term in found if term is not None]
    return math.fsum(known) if len(known) == len(found) else None
