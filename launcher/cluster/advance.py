"""The next step of a study on SLURM: everything that can be submitted now, and a job that continues later.

The command that a user types and the job that continues the study take the same step, with one squeue call.
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
from launcher.cluster.endings import ended_states
from launcher.cluster.execution import decide, write_execution
from launcher.cluster.ledger import Submission
from launcher.cluster.sbatch import QueueFullError, TaskArray
from launcher.cluster.scheduler import Queue
from launcher.job.causes import Execution
from launcher.planning.sites import SlurmSite
from launcher.planning.tasks import Task, missing_tasks
from study.errors import CalsweepError
from study.files import write_atomic
from study.jobs.job import KINDS
from study.jobs.plan import Plan, write_specs
from study.jobs.resources import Resources
from study.paths import StudyPaths

logger = logging.getLogger(__name__)
MAX_SUBMISSIONS = 5
RETRY_AT = "now+300"
"""When other studies fill the queue, the continuing job starts this many seconds later."""


@dataclass(frozen=True)
class NextStep:
    """What is to be submitted now.

    arrays: in order; each needs only jobs that are queued or in an earlier array. executions: job id -> how
    it runs, for jobs that have run before. deferred: number of tasks that wait for room in the queue.
    analysis: the job that continues the study and makes the tables; None when one is queued or nothing is
    left to do. replaced: its task in the queue, which waits for too few jobs. refused: job id -> why this
    failed job is not started again. queued: job id -> task.
    """

    arrays: Sequence[TaskArray]
    executions: Mapping[str, Execution]
    deferred: int
    analysis: TaskArray | None
    replaced: str | None
    refused: Mapping[str, str]
    queued: Mapping[str, str]

    @property
    def tasks(self) -> list[Task]:
        arrays = [*self.arrays, *([self.analysis] if self.analysis else [])]
        return [task for array in arrays for task in array.tasks]


@dataclass
class Submitted:
    """jobs: job id -> cluster task. deferred: tasks without room. continues: a later job submits those."""

    jobs: dict[str, str] = field(default_factory=dict)
    deferred: int = 0
    continues: bool = False


def next_step(
    plan: Plan,
    paths: StudyPaths,
    site: SlurmSite,
    queue: Queue,
    *,
    automatic: bool = False,
    chosen: Collection[str] | None = None,
    own: str | None = None,
) -> NextStep:
    """What to submit now; changes nothing.

    automatic: no user asked for it, so failed jobs are started again only if that can help. chosen: submit
    only these of the missing jobs, and an analysis among them even if it is complete. own: the task that
    calls this, which does not count as queued.
    """
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
    missing = missing_tasks(plan, paths, site.languages_per_task, left_out)
    room = None
    if site.profile.max_submitted is not None:  # one place is kept for the job that continues
        room = max(0, site.profile.max_submitted - queue.num_submitted - 1)
    computing = [task for task in missing if task.kind != "analyse"]
    arrays, deferred = _arrays(computing, executions, site, queued, room)
    analysis, replaced = None, None
    for job in plan.of_kind("analyse"):
        more = bool(arrays or deferred) or (chosen is not None and job.job_id in chosen)
        if (job.job_id in queued and not arrays) or (paths.job(job.job_id).done.is_file() and not more):
            continue
        replaced = queued.get(job.job_id)
        task = Task("analyse", (job,), frozenset(job.needs))
        analysis = TaskArray("analyse", [task], site.resources["analyse"], frozenset())
    return NextStep(arrays, executions, deferred, analysis, replaced, refused, queued)


def submit_step(
    step: NextStep, plan: Plan, paths: StudyPaths, site: SlurmSite, code: Path, *, lock: int
) -> Submitted:
    """Submit a step. If this is killed at any moment, ledger and queue together show what was submitted.

    code: the snapshot that the jobs run from. lock: the descriptor of the study's lock.
    Raises UserError when sbatch refuses for another reason than a full queue.
    """
    sbatch.clean_environment()
    result = Submitted(deferred=step.deferred)
    placed = dict(step.queued)
    if step.replaced is not None:
        scheduler.cancel([step.replaced])
        placed = {job_id: task for job_id, task in placed.items() if task != step.replaced}

    def submit(array: TaskArray, dependency: str, begin: str | None = None) -> dict[str, str]:
        """Submit one array; returns job id -> cluster task."""
        _write_jobs(array, step.executions, paths, site)
        submission = sbatch.submit(
            array, dependency, paths, site.profile, code, study=plan.study, lock=lock, begin=begin
        )
        return ledger.task_of([submission])

    for index, array in enumerate(step.arrays):
        tasks = sorted({placed[need] for need in array.needs})
        try:
            new = submit(array, "afterok:" + ":".join(tasks) if tasks else "")
        except QueueFullError as error:  # jobs of another study took the room
            logger.warning("the queue is full: %s", error)
            result.deferred += sum(len(rest.tasks) for rest in step.arrays[index:])
            break
        placed |= new
        result.jobs |= new
    if step.analysis is not None:
        ids = _arrays_to_wait_for(placed, plan, half=result.deferred > 0)
        begin = RETRY_AT if result.deferred and not ids else None
        try:
            with _out_of_date(step.analysis, paths):
                result.jobs |= submit(step.analysis, "afterany:" + ":".join(ids) if ids else "", begin)
            result.continues = True
        except QueueFullError as error:
            logger.warning("the queue is full: %s", error)
    return result


@contextmanager
def _out_of_date(analysis: TaskArray, paths: StudyPaths) -> Iterator[None]:
    """Withdraw the analysis job's DONE marker, or it would do nothing when it starts.

    The marker is put back if the submission in the block fails.
    """
    files = [paths.job(job_id).done for task in analysis.tasks for job_id in task.job_ids]
    kept = {file: file.read_bytes() for file in files if file.is_file()}
    for file in kept:
        file.unlink()
    try:
        yield
    except CalsweepError:
        for file, content in kept.items():
            write_atomic(file, content)
        raise


def _write_jobs(
    array: TaskArray, executions: Mapping[str, Execution], paths: StudyPaths, site: SlurmSite
) -> None:
    """Write the files that the jobs of an array read: their specs, and how they run."""
    jobs = [job for task in array.tasks for job in task.jobs]
    write_specs(jobs, paths)
    for job in jobs:
        execution = executions.get(job.job_id) or Execution(array.resources)
        write_execution(paths.job(job.job_id), execution, site)


def note_found_arrays(paths: StudyPaths, queue: Queue) -> None:
    """Add the ids of arrays whose launcher was killed before it could. Needs the study's lock."""
    before = ledger.read(paths.ledger)
    for submission, known in zip(before, with_arrays(before, queue), strict=True):
        if submission.array is None and known.array is not None:
            ledger.write_array(paths.ledger, submission, known.array)


def with_arrays(submissions: Sequence[Submission], queue: Queue) -> list[Submission]:
    """Submissions with the ids that only the queue knows."""
    return [
        dataclasses.replace(submission, array=queue.array_of(submission.token))
        if submission.array is None and submission.cluster == "slurm"
        else submission
        for submission in submissions
    ]


def _executions(
    plan: Plan,
    paths: StudyPaths,
    site: SlurmSite,
    queue: Queue,
    tasks_of: Mapping[str, str],
    queued: Mapping[str, str],
    automatic: bool,
) -> tuple[dict[str, Execution], dict[str, str]]:
    """How unfinished jobs that were submitted before run now, and which are not started again, and why."""
    jobs = [
        job
        for job in plan.jobs
        if job.job_id in tasks_of
        and job.job_id not in queued
        and job.kind != "analyse"
        and not paths.job(job.job_id).done.is_file()
    ]
    states = ended_states(queue, (tasks_of[job.job_id] for job in jobs))
    executions: dict[str, Execution] = {}
    refused: dict[str, str] = {}
    for job in jobs:
        entry = queue.entries.get(tasks_of[job.job_id])
        # a task whose need failed ends as CANCELLED too, without anybody having cancelled it
        cancelled = entry is not None and entry.state == "CANCELLED" and "Dependency" not in entry.reason
        decision = decide(job, paths.job(job.job_id), site, states, automatic=automatic, cancelled=cancelled)
        if isinstance(decision, str):
            refused[job.job_id] = decision
        else:
            executions[job.job_id] = decision
    return executions, refused


def _never_begun(
    submissions: Sequence[Submission], paths: StudyPaths, queued: Mapping[str, str]
) -> dict[str, str]:
    """Jobs that were submitted several times and never began, e.g. because a set-up line fails."""
    times = Counter(job_id for each in submissions for pack in each.tasks.values() for job_id in pack)
    return {
        job_id: f"it was submitted {count} times and never began"
        for job_id, count in times.items()
        if count >= MAX_SUBMISSIONS and job_id not in queued and not paths.job(job_id).attempts.is_file()
    }


def _arrays(
    tasks: Sequence[Task],
    executions: Mapping[str, Execution],
    site: SlurmSite,
    queued: Mapping[str, str],
    room: int | None,
) -> tuple[list[TaskArray], int]:
    """Arrays by kind, resources and needs, cut to size, and the number of tasks that have no room.

    Tasks that need a job which is neither queued nor about to be submitted are blocked: left out, and not
    counted as deferred.
    """
    arrays: list[TaskArray] = []
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
                arrays.append(TaskArray(kind, group[start : min(start + size, fits)], resources, needs))
            placed |= {job_id for task in group[:fits] for job_id in task.job_ids}
            waiting |= {job_id for task in group[fits:] for job_id in task.job_ids}
            deferred += len(group) - fits
            room = None if room is None else room - fits
    return arrays, deferred


def _arrays_to_wait_for(placed: Mapping[str, str], plan: Plan, *, half: bool) -> list[str]:
    """The arrays whose end the continuing job waits for: all, or the first that hold half of the tasks."""
    analyses = {job.job_id for job in plan.of_kind("analyse")}
    tasks = {task for job_id, task in placed.items() if job_id not in analyses}
    sizes = Counter(task.split("_")[0] for task in tasks)
    arrays = sorted(sizes, key=int)
    if not half:
        return arrays
    first, count = [], 0
    for array in arrays:
        if count >= len(tasks) / 2:
            break
        first.append(array)
        count += sizes[array]
    return first
