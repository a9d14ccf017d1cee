"""What the jobs that are left to run will cost: operations, hours, disk, queue slots.

Jobs of the same cost form a group, which is computed once. No job's folder is opened, except to read how fast
a few finished jobs were.
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
from study.benchmarks.definition import columns_of
from study.jobs.job import KINDS, Job
from study.jobs.plan import Plan
from study.jobs.resources import Resources
from study.jobs.specs import EvalSpec, TrainSpec
from study.paths import StudyPaths

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
OPTIMIZER_BYTES = 12
"""Per parameter: two moments and a master copy, float32 under ZeRO 1 to 3, over all ranks together."""
PART_BYTES, PART_ITEMS = 4096, 256
"""The size of a prediction part without its items, and the items in one (`evaluation.shard.PART_SIZE`)."""
JOB_BYTES = 64 * 2**10
"""Logs, W&B files and small JSON of one job."""
NO_SPEED = "nothing was measured yet, and the profile names no gpu_tflops"


@dataclass(frozen=True)
class Line:
    """Jobs of one kind, model, and dataset or benchmark: totals over them; None where a number is not known.

    num_tasks: not a whole number where a task holds jobs of several lines.
    flops: operations, 6 per parameter and token for training, 2 for evaluation.
    task_hours: mean wall-clock time per task.
    device_hours: of GPUs, or of cores where the site gives no GPUs; `device` says which.
    disk_bytes: models, records, and checkpoints at their most, which stay until `calsweep gc`.
    speed: where the hours come from. estimates: what was guessed. unknown: what is not known, and why.
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
    """num_tasks: by kind. num_arrays: the most arrays they are submitted in; None on this machine."""

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
    """models: parameters, by the grid's name of a model."""

    site: Site
    models: Mapping[str, Figure]
    speeds: Throughput


@dataclass(frozen=True)
class _Cost:
    """What all jobs of a group take together. figures: the sizes that it was computed from."""

    data: str
    figures: Sequence[Figure]
    tokens: float | None
    flops: float | None
    seconds: float | None
    speed: str
    disk_bytes: float | None


def forecast(plan: Plan, tasks: Sequence[Task], paths: StudyPaths, site: Site) -> Forecast:
    """What these tasks of the plan will cost."""
    known = _Known(site, _models(plan), measured(plan, paths, site))
    groups: dict[tuple[Any, ...], _Group] = {}
    for task in tasks:
        for job in task.jobs:
            spec, model = job.spec, job.cell.get("model")
            if isinstance(spec, EvalSpec):
                benchmark, language = spec.benchmark, spec.language
                key: tuple[Any, ...] = (model, benchmark.name, benchmark.split, benchmark.num_items)
            elif isinstance(spec, TrainSpec):
                language, key = "", (model, job.kind, *_cost_key(spec))
            else:  # the analysis costs next to nothing
                continue
            group = groups.setdefault(key, _Group(job))
            group.num_jobs += 1
            group.num_tasks += 1 / len(task.jobs)
            group.languages[language] = group.languages.get(language, 0) + 1
    lines = sorted((_line(group, known) for group in groups.values()), key=lambda x: KINDS.index(x.kind))
    return Forecast(tuple(lines), dict(Counter(task.kind for task in tasks)), _num_arrays(tasks, site))


def _cost_key(spec: TrainSpec) -> tuple[Any, ...]:
    hyper = spec.hyper
    length = (hyper.num_examples, hyper.num_epochs, hyper.num_steps, hyper.global_batch_size)
    return spec.dataset.name, hyper.max_length_tokens, hyper.dtype, *length


def _models(plan: Plan) -> dict[str, Figure]:
    models: dict[str, Figure] = {}
    for job in plan.jobs:
        name = job.cell.get("model")
        if name is not None and name not in models and isinstance(job.spec, TrainSpec | EvalSpec):
            models[name] = sizes.parameters(job.spec.model, getattr(job.spec, "scratch", None))
    return models


def _num_arrays(tasks: Sequence[Task], site: Site) -> int | None:
    if not isinstance(site, SlurmSite):
        return None
    # an analysis needs all evaluations: too many names to hash, and there is only one analysis
    alike = Counter((task.kind, task.kind == "analyse" or task.needs) for task in tasks)
    return sum(math.ceil(count / site.profile.max_array_size) for count in alike.values())


def _line(group: _Group, known: _Known) -> Line:
    job, spec = group.first, group.first.spec
    resources, size = known.site.resources[job.kind], known.models[job.cell["model"]]
    if isinstance(spec, EvalSpec):
        cost = _evaluation(group, spec, resources, known)
    else:
        assert isinstance(spec, TrainSpec)
        cost = _training(group, spec, resources, known)
    gpus = resources.nodes * resources.gpus_per_node
    hours = _product(cost.seconds, 1 / 3600)
    bases = [size, *cost.figures]
    unknown = [figure.basis for figure in bases if figure.value is None]
    if hours is None and not unknown:
        unknown.append(NO_SPEED)
    return Line(
        kind=job.kind,
        model=job.cell["model"],
        data=cost.data,
        num_jobs=group.num_jobs,
        num_tasks=group.num_tasks,
        parameters=size.value,
        tokens=cost.tokens,
        flops=cost.flops,
        task_hours=_product(hours, 1 / group.num_tasks),
        device_hours=_product(hours, gpus or resources.num_tasks * resources.cpus_per_task),
        device="GPU" if gpus else "core",
        disk_bytes=_sum([cost.disk_bytes, JOB_BYTES * group.num_jobs]),
        speed=cost.speed,
        estimates=tuple(dict.fromkeys(figure.basis for figure in bases if figure.estimate)),
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _training(group: _Group, spec: TrainSpec, resources: Resources, known: _Known) -> _Cost:
    model, hyper = group.first.cell["model"], spec.hyper
    size = known.models[model].value
    if (length := known.speeds.lengths.get(dataset_key(spec))) is not None:
        rows, per_row = Figure(length[0], "measured"), Figure(length[1], "measured")
    else:
        rows, per_row = sizes.training_rows(spec)
    steps: float | None = hyper.num_steps
    if steps is None and rows.value is not None:
        steps = max(1, hyper.num_epochs * rows.value // hyper.global_batch_size)
    tokens = _product(steps, hyper.global_batch_size, per_row.value)
    rates = {name: rate * resources.num_tasks for name, rate in known.speeds.training.items()}
    seconds, speed = _seconds(tokens, rates, _product(6, size, tokens), model, resources, known)
    checkpoints = resources.keep_checkpoints * checkpoint_bytes(hyper.dtype, resources.zero_stage)
    return _Cost(
        data=spec.dataset.name.rstrip("/").rpartition("/")[2],
        figures=[per_row] if hyper.num_steps else [rows, per_row],
        tokens=_product(tokens, group.num_jobs),
        flops=_product(6, size, tokens, group.num_jobs),
        seconds=_product(seconds, group.num_jobs),
        speed=speed,
        disk_bytes=_product(size, WEIGHT_BYTES[hyper.dtype] + checkpoints, group.num_jobs),
    )


def checkpoint_bytes(dtype: str, zero_stage: int) -> int:
    """Per parameter, in one checkpoint: at stage 3 its only copy of the weights is the optimizer's."""
    return OPTIMIZER_BYTES + (WEIGHT_BYTES[dtype] if zero_stage < 3 else 0)


def _evaluation(group: _Group, spec: EvalSpec, resources: Resources, known: _Known) -> _Cost:
    model, benchmark = group.first.cell["model"], spec.benchmark
    counted = [(sizes.items(benchmark, code), times) for code, times in group.languages.items()]
    items = _sum(_product(count.value, times) for (count, _), times in counted)
    tokens = _sum(_product(count.value, length.value, times) for (count, length), times in counted)
    parts = _sum(
        None if count.value is None else math.ceil(count.value / PART_ITEMS) * times
        for (count, _), times in counted
    )
    flops = _product(2, known.models[model].value, tokens)
    rates = {name: rate for (name, test), rate in known.speeds.evaluation.items() if test == benchmark.name}
    seconds, speed = _seconds(items, rates, flops, model, resources, known)
    per_item = item_bytes(columns_of(benchmark.schema).max_options)
    return _Cost(
        data=benchmark.label,
        figures=[figure for pair, _ in counted for figure in pair],
        tokens=tokens,
        flops=flops,
        seconds=seconds,
        speed=speed,
        disk_bytes=_sum([_product(items, per_item), _product(parts, PART_BYTES)]),
    )


def item_bytes(num_options: int) -> float:
    """The size of an item in a prediction part, as measured: 34 bytes with 4 options, 68 with 10."""
    return (34 + 17 * num_options) / 3


def _seconds(
    amount: float | None,
    rates: Mapping[str, float],
    flops: float | None,
    model: str,
    resources: Resources,
    known: _Known,
) -> tuple[float | None, str]:
    """Wall-clock time for so many tokens or items, without loading models; where the speed comes from.

    rates: amount per second that was measured, by model.
    """
    size = known.models[model].value
    tflops = known.site.profile.gpu_tflops if isinstance(known.site, SlurmSite) else None
    if amount is not None:
        if model in rates:
            return amount / rates[model], "measured"
        for other, rate in rates.items():
            if size and (figure := known.models.get(other)) and figure.value:
                return amount * size / figure.value / rate, f"measured on {other}"
    gpus = resources.nodes * min(resources.tasks_per_node, resources.gpus_per_node)  # a rank uses one
    if flops is None or not tflops or not gpus:
        return None, "unknown"
    return flops / (tflops * 1e12 * gpus), "profile"


def _product(*factors: float | None) -> float | None:
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


def _sum(terms: Iterable[float | None]) -> float | None:
    values = list(terms)
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None
