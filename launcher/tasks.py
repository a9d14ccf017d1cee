"""Jobs packed into tasks: a task is what the cluster runs, one process group behind one model load."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from launcher.plan import Plan
from study.job import Job, Kind
from study.paths import StudyPaths
from study.specs import EvalSpec


@dataclass(frozen=True)
class Task:
    """jobs: of one kind; several only for evaluations of one model. needs: unfinished jobs they wait for."""

    kind: Kind
    jobs: tuple[Job, ...]
    needs: frozenset[str]

    @property
    def job_ids(self) -> list[str]:
        return [job.job_id for job in self.jobs]

    @property
    def name(self) -> str:
        if len(self.jobs) == 1:
            return self.jobs[0].name
        codes = " ".join(job.spec.language for job in self.jobs if isinstance(job.spec, EvalSpec))
        return f"{self.jobs[0].cell_name} · {codes}"


def missing_tasks(
    plan: Plan, paths: StudyPaths, languages_per_task: int, busy: Iterable[str] = ()
) -> list[Task]:
    """What is left to run, in plan order: jobs that are neither complete nor `busy` (queued or running)."""
    busy = set(busy)
    incomplete = {job.job_id for job in plan.jobs if not paths.job(job.job_id).done.is_file()}
    todo = [job for job in plan.jobs if job.job_id in incomplete and job.job_id not in busy]
    tasks = []
    for (kind, *_), group in itertools.groupby(todo, key=_model_of):
        jobs = list(group)
        size = languages_per_task if kind == "evaluate" else 1
        for pack in (jobs[i : i + size] for i in range(0, len(jobs), size)):
            needs = frozenset(need for job in pack for need in job.needs) & incomplete
            tasks.append(Task(pack[0].kind, tuple(pack), needs))
    return tasks


def _model_of(job: Job) -> tuple[str, ...]:
    # the plan lists all evaluations of one model together, so that grouping neighbours is enough
    if isinstance(job.spec, EvalSpec):
        return job.kind, job.spec.model.name, job.spec.model.revision
    return job.kind, job.job_id


def by_need(tasks: Iterable[Task], key: Callable[[frozenset[str]], str]) -> list[tuple[str, list[Task]]]:
    """Tasks of one kind grouped by `key(needs)`, order kept: a group becomes one array."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(key(task.needs), []).append(task)
    return list(groups.items())
