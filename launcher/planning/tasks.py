"""Jobs packed into tasks. A task is one process group on the cluster, which loads one model."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from study.jobs.job import Job, Kind
from study.jobs.plan import Plan, many_objects
from study.jobs.specs import EvalSpec
from study.paths import StudyPaths


@dataclass(frozen=True, slots=True)
class Task:
    """jobs: of one kind; several only if they evaluate one model. needs: ids of jobs they wait for."""

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
    """Tasks for the jobs that are neither complete nor `busy` (queued or running), in plan order."""
    busy = set(busy)
    complete = complete_jobs(paths)
    todo = [job for job in plan.jobs if job.job_id not in complete and job.job_id not in busy]
    with many_objects():
        return list(_tasks(todo, complete, languages_per_task))


def _tasks(todo: Iterable[Job], complete: set[str], languages_per_task: int) -> Iterator[Task]:
    unmet: dict[tuple[str, ...], frozenset[str]] = {}  # found once for all jobs of a model
    for (kind, *_), group in itertools.groupby(todo, key=_model_of):
        jobs = list(group)
        needs = jobs[0].needs
        if needs not in unmet:
            unmet[needs] = frozenset(needs) - complete
        size = languages_per_task if kind == "evaluate" else 1
        for start in range(0, len(jobs), size):
            yield Task(jobs[0].kind, tuple(jobs[start : start + size]), unmet[needs])


def complete_jobs(paths: StudyPaths) -> set[str]:
    """The jobs with a DONE marker, by one listing of the folder of jobs."""
    jobs = paths.root / "jobs"
    if not jobs.is_dir():
        return set()
    with os.scandir(jobs) as entries:
        return {entry.name for entry in entries if paths.job(entry.name).done.is_file()}


def _model_of(job: Job) -> tuple[str, ...]:
    # the plan lists all evaluations of one model together, so that grouping neighbours is enough
    if isinstance(job.spec, EvalSpec):
        return job.kind, job.spec.model.name, job.spec.model.revision
    return job.kind, job.job_id
