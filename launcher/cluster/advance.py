"""The next step of a study on SLURM: what can be submitted now is, and a job stays behind to go on.

The command that a person types and the job that goes on later take the same step. It asks SLURM once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from launcher.cluster import ledger, sbatch, scheduler
from launcher.cluster.diagnosis import ended_states
from launcher.cluster.execution import decide, write_execution
from launcher.cluster.ledger import Submission
from launcher.cluster.sbatch import Batch, QueueFullError
from launcher.cluster.scheduler import Queue
from launcher.job.causes import Execution
from launcher.planning.sites import Site
from launcher.planning.tasks import Task, missing_tasks
from study.errors import CalsweepError
from study.files import write_atomic
from study.jobs.job import KINDS
from study.jobs.plan import Plan, write_specs
from study.jobs.resources import Resources
from study.paths import StudyPaths

logger = logging.getLogger(__name__)
MAX_SUBMISSIONS = 5
LOOK_AGAIN = "now+300"
"""When other studies fill the queue, the job that goes on looks again so many seconds later."""


@dataclass(frozen=True)
class Step:
    """What is to be submitted now.

    batches: in order; each needs only jobs that are queued or in an earlier batch. executions: of those of
    their jobs that have a past. deferred: tasks that wait for room in the queue. analysis: the job that goes
    on, None when one is queued already or nothing is left to do. replaced: its task in the queue, which
    waits for less. refused: failed jobs that are not run again as they are, and why. queued: job id -> task.
    """

    batches: Sequence[Batch]
    executions: Mapping[str, Execution]
    deferred: int
    analysis: Batch | None
    replaced: str | None
    refused: Mapping[str, str]
    queued: Mapping[str, str]

    @property
    def num_tasks(self) -> int:
        return sum(len(batch.tasks) for batch in self.batches)


@dataclass
class Outcome:
    """submitted: job id -> cluster task. deferred: tasks without room. goes_on: a job will, later."""

    submitted: dict[str, str] = field(default_factory=dict)
    deferred: int = 0
    goes_on: bool = False


def next_step(
    plan: Plan,
    paths: StudyPaths,
    site: Site,
    queue: Queue,
    *,
    automatic: bool = False,
    chosen: Collection[str] | None = None,
    own: str | None = None,
) -> Step:
    """What to submit now; changes nothing.

    automatic: nobody asked, so that failed jobs are run again only where that can help. chosen: of what is
    missing, these jobs alone; and an analysis among them even when it is complete. own: the task that asks,
    which does not count as queued.
    """
    assert site.profile is not None
    submissions = with_arrays(ledger.read(paths.ledger), queue)
    tasks_of = ledger.task_of(submissions)
    queued = {
        job_id: task
        for job_id, task in tasks_of.items()
        if task != own and task in queue.entries and queue.entries[task].alive
    }
    executions, refused = _executions(plan, paths, site, queue, tasks_of, queued, automatic)
    if automatic:
        refused |= _never_begun(submissions, paths, queued)
    left_out = {*queued, *refused}
    if chosen is not None:
        left_out |= {job.job_id for job in plan.jobs if job.job_id not in chosen}
    work = [
        task
        for task in missing_tasks(plan, paths, site.languages_per_task, left_out)
        if task.kind != "analyse"
    ]
    room = None
    if site.profile.max_submitted is not None:  # less one, for the job that goes on
        room = max(0, site.profile.max_submitted - queue.num_submitted - 1)
    batches, deferred = _batches(work, executions, site, queued, room)
    analysis, replaced = None, None
    for job in plan.of_kind("analyse"):
        more = bool(batches or deferred) or (chosen is not None and job.job_id in chosen)
        if (job.job_id in queued and not batches) or (paths.job(job.job_id).done.is_file() and not more):
            continue
        replaced = queued.get(job.job_id)
        task = Task("analyse", (job,), frozenset(job.needs))
        analysis = Batch("analyse", [task], site.resources["analyse"], frozenset())
    return Step(batches, executions, deferred, analysis, replaced, refused, queued)


def take(step: Step, plan: Plan, paths: StudyPaths, site: Site, code: Path, *, lock: int | None) -> Outcome:
    """Submit a step. Whenever this is killed, ledger and queue together know what was submitted.

    Raises UserError when sbatch refuses for another reason than a full queue.
    """
    sbatch.clean_environment()
    outcome = Outcome(deferred=step.deferred)
    placed = dict(step.queued)
    if step.replaced is not None:
        scheduler.cancel([step.replaced])
        placed = {job_id: task for job_id, task in placed.items() if task != step.replaced}

    def hand_over(batch: Batch, dependency: str, begin: str | None = None) -> dict[str, str]:
        """Submit one array; returns job id -> cluster task."""
        assert site.profile is not None
        _write_jobs(batch, step.executions, paths, site)
        entry = sbatch.submit(
            batch, dependency, paths, site.profile, code, study=plan.study, lock=lock, begin=begin
        )
        return {job_id: task for task, pack in entry.tasks.items() for job_id in pack}

    for index, batch in enumerate(step.batches):
        waits = sorted({placed[need] for need in batch.needs})
        condition = "afterok:" + ":".join(waits) if waits else ""
        try:
            new = hand_over(batch, condition)
        except QueueFullError as error:  # jobs of another study came in between
            logger.warning("the queue is full: %s", error)
            outcome.deferred += sum(len(rest.tasks) for rest in step.batches[index:])
            break
        placed |= new
        outcome.submitted |= new
    if step.analysis is not None:
        waits = _arrays_to_wait_for(placed, plan, some=outcome.deferred > 0)
        condition = "afterany:" + ":".join(waits) if waits else ""
        begin = LOOK_AGAIN if outcome.deferred and not waits else None
        try:
            with _out_of_date(step.analysis, paths):
                outcome.submitted |= hand_over(step.analysis, condition, begin)
            outcome.goes_on = True
        except QueueFullError as error:
            logger.warning("the queue is full: %s", error)
    return outcome


@contextmanager
def _out_of_date(analysis: Batch, paths: StudyPaths) -> Iterator[None]:
    """Its tables are about to be out of date: complete, it would neither make them nor go on. Where it is not
    submitted after all, it stays complete.
    """
    files = [paths.job(job.job_id).done for task in analysis.tasks for job in task.jobs]
    kept = {file: file.read_bytes() for file in files if file.is_file()}
    for file in kept:
        file.unlink()
    try:
        yield
    except CalsweepError:
        for file, content in kept.items():
            write_atomic(file, content)
        raise


def _write_jobs(batch: Batch, executions: Mapping[str, Execution], paths: StudyPaths, site: Site) -> None:
    """What the jobs of an array read: their specs, and how they are to run."""
    jobs = [job for task in batch.tasks for job in task.jobs]
    write_specs(jobs, paths)
    for job in jobs:
        execution = executions.get(job.job_id) or Execution(batch.resources)
        write_execution(paths.job(job.job_id), execution, site)


def note_found_arrays(paths: StudyPaths, queue: Queue) -> None:
    """Write down arrays whose launcher was killed before it could. Needs the study's lock."""
    before = ledger.read(paths.ledger)
    for entry, found in zip(before, with_arrays(before, queue), strict=True):
        if entry.array is None and found.array is not None:
            ledger.write_array(paths.ledger, entry, found.array)


def with_arrays(submissions: Sequence[Submission], queue: Queue) -> list[Submission]:
    """Submissions with the ids that only the queue knows."""
    return [
        dataclasses.replace(entry, array=queue.array_of(entry.token))
        if entry.array is None and entry.cluster == "slurm"
        else entry
        for entry in submissions
    ]


def _executions(
    plan: Plan,
    paths: StudyPaths,
    site: Site,
    queue: Queue,
    tasks_of: Mapping[str, str],
    queued: Mapping[str, str],
    automatic: bool,
) -> tuple[dict[str, Execution], dict[str, str]]:
    """How unfinished jobs with a past are run, and those that are not run again, with the reason."""
    started = [
        job
        for job in plan.jobs
        if job.job_id in tasks_of
        and job.job_id not in queued
        and job.kind != "analyse"
        and not paths.job(job.job_id).done.is_file()
    ]
    states = ended_states(queue, (tasks_of[job.job_id] for job in started))
    executions: dict[str, Execution] = {}
    refused: dict[str, str] = {}
    for job in started:
        entry = queue.entries.get(tasks_of[job.job_id])
        # a task whose need failed ends so, too: it is not meant by whoever cancels
        cancelled = entry is not None and entry.state == "CANCELLED" and "Dependency" not in entry.reason
        decided = decide(job, paths.job(job.job_id), site, states, automatic=automatic, cancelled=cancelled)
        if isinstance(decided, str):
            refused[job.job_id] = decided
        else:
            executions[job.job_id] = decided
    return executions, refused


def _never_begun(
    submissions: Sequence[Submission], paths: StudyPaths, queued: Mapping[str, str]
) -> dict[str, str]:
    """Jobs that were submitted again and again and never began: a set-up line that fails, say."""
    times = Counter(job_id for entry in submissions for pack in entry.tasks.values() for job_id in pack)
    return {
        job_id: f"it was submitted {count} times and never began"
        for job_id, count in times.items()
        if count >= MAX_SUBMISSIONS and job_id not in queued and not paths.job(job_id).attempts.is_file()
    }


def _batches(
    tasks: Sequence[Task],
    executions: Mapping[str, Execution],
    site: Site,
    queued: Mapping[str, str],
    room: int | None,
) -> tuple[list[Batch], int]:
    """Arrays by kind, resources and needs, cut to size, as far as there is room; and the tasks without.

    Tasks that need a job which is neither queued nor to be submitted are blocked: left out, not deferred.
    """
    assert site.profile is not None
    batches: list[Batch] = []
    deferred = 0
    placed: set[str] = set(queued)
    waiting: set[str] = set()
    for kind in KINDS:
        groups: dict[tuple[Resources, frozenset[str]], list[Task]] = {}
        for task in tasks:
            if task.kind == kind:
                first = executions.get(task.job_ids[0])
                resources = first.resources if first else site.resources[kind]
                groups.setdefault((resources, task.needs), []).append(task)
        for (resources, needs), group in groups.items():
            if not needs <= placed | waiting:
                continue
            fits = len(group) if room is None else min(room, len(group))
            if not needs <= placed:
                fits = 0
            size = site.profile.max_array_size
            for start in range(0, fits, size):
                batches.append(Batch(kind, group[start : min(start + size, fits)], resources, needs))
            placed |= {job_id for task in group[:fits] for job_id in task.job_ids}
            waiting |= {job_id for task in group[fits:] for job_id in task.job_ids}
            deferred += len(group) - fits
            room = None if room is None else room - fits
    return batches, deferred


def _arrays_to_wait_for(placed: Mapping[str, str], plan: Plan, *, some: bool) -> list[str]:
    """The arrays behind which the study goes on: all, or while tasks wait for room, the first half."""
    analyses = {job.job_id for job in plan.of_kind("analyse")}
    tasks = {task for job_id, task in placed.items() if job_id not in analyses}
    sizes = Counter(task.split("_")[0] for task in tasks)
    arrays = sorted(sizes, key=int)
    if not some:
        return arrays
    first, half = [], 0
    for array in arrays:
        if half >= len(tasks) / 2:
            break
        first.append(array)
        half += sizes[array]
    return first
