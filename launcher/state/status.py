"""The state of each job of a study: from its own markers, and from SLURM's last answer."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.cluster import queue_cache
from launcher.cluster.endings import ending_of
from launcher.cluster.ledger import Submission
from launcher.cluster.queue_cache import QueueView
from launcher.cluster.scheduler import QueueEntry
from launcher.job import attempts, causes
from launcher.job.attempts import Attempt
from launcher.planning.sites import SlurmSite, read_site
from launcher.state.pace import Pace, pace_of
from study.files import read_json
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.jobs.specs import EvalSpec
from study.paths import JobPaths, StudyPaths

STATES = ("done", "running", "queued", "failed", "blocked", "missing", "stale")
ACTIVE = ("running", "queued")
BAD = ("failed", "blocked")
NEVER = "DependencyNeverSatisfied"
"""SLURM's reason for a job whose need failed, shortly before it removes it from the queue."""


@dataclass(frozen=True)
class JobStatus:
    """The state of one job.

    state: one of STATES. `blocked` needs a job that failed; `missing` was never submitted, or was removed
        from the queue; `stale` began and ended without a report, or is an analysis older than its records.
    task: its cluster task while that is queued or runs. message: a sentence. cause: one of `causes`.
    attempts: how many there were; None if not counted. progress: the content of its progress.json.
    pace: of the job that each running task works on; None for all other jobs.
    """

    job: Job
    state: str
    task: str | None = None
    message: str | None = None
    cause: str | None = None
    attempts: int | None = None
    progress: Mapping[str, Any] | None = None
    pace: Pace | None = None


@dataclass(frozen=True)
class Survey:
    """All jobs of a study in plan order, and what is known of its queue."""

    plan: Plan
    statuses: Sequence[JobStatus]
    view: QueueView

    @property
    def counts(self) -> dict[str, int]:
        counts = Counter(status.state for status in self.statuses)
        return {state: counts.get(state, 0) for state in STATES}

    @property
    def num_benchmarks(self) -> int:
        specs = [status.job.spec for status in self.statuses]
        return len({spec.benchmark.label for spec in specs if isinstance(spec, EvalSpec)})

    @property
    def exit_code(self) -> int:
        return 1 if any(self.counts[state] for state in BAD) else 0


def survey_of(
    plan: Plan,
    paths: StudyPaths,
    *,
    fresh: bool = False,
    before: QueueView | None = None,
    all_attempts: bool = False,
) -> Survey:
    """The state of a study; SLURM is queried as often as its profile allows, or now if `fresh`.

    before: SLURM's last answer, for repeated calls. all_attempts: count the attempts of complete jobs too,
    which reads one file for each.
    """
    interval_s = _interval_s(paths)
    view, submissions = queue_cache.look(paths, interval_s, fresh=fresh, before=before)
    placed = {
        job_id: (task, submission)
        for submission in submissions
        for task, pack in submission.tasks.items()
        for job_id in pack
    }
    statuses = job_statuses(plan, paths, view, placed, all_attempts=all_attempts)
    lost = {
        placed[status.job.job_id][0]
        for status in statuses
        if status.state in ("stale", "missing", "blocked") and _has_left(status.job, placed, view)
    }
    complete = queue_cache.ask_ended(paths, view, lost, 0 if fresh else interval_s)
    if complete.ended != view.ended:
        statuses = job_statuses(plan, paths, complete, placed, all_attempts=all_attempts)
    return Survey(plan, statuses, complete)


Placed = Mapping[str, tuple[str, Submission]]
"""job id -> its latest submission, and its task in it."""


def _has_left(job: Job, placed: Placed, view: QueueView) -> bool:
    """Whether its task has left the queue, and squeue no longer lists how it ended."""
    if job.job_id not in placed:
        return False
    task, submission = placed[job.job_id]
    known = submission.cluster == "slurm" and submission.number <= view.number
    return known and task not in view.queue.entries


def _interval_s(paths: StudyPaths) -> float:
    site = read_site(paths.site) if paths.site.is_file() else None
    return site.profile.query_interval_s if isinstance(site, SlurmSite) else 30


def job_statuses(
    plan: Plan,
    paths: StudyPaths,
    view: QueueView,
    placed: Placed,
    *,
    all_attempts: bool = False,
) -> list[JobStatus]:
    """The state of every job of the plan, in plan order."""
    jobs = paths.root / "jobs"
    folders = {entry.name for entry in os.scandir(jobs)} if jobs.is_dir() else set()
    ended = view.states
    result: list[JobStatus] = []
    states: dict[str, str] = {}
    done_at: dict[str, float] = {}
    for job in plan.jobs:
        folder, at = paths.job(job.job_id), None
        task, submission = placed.get(job.job_id, (None, None))
        if job.job_id in folders:
            at = done_at_s(folder)
        if at is not None:
            done_at[job.job_id] = at
            status = JobStatus(job, "done")
            if job.kind == "analyse" and any(done_at.get(need, 0) > at for need in job.needs):
                status = JobStatus(job, "stale", message="older than some of the evaluations it covers")
            if all_attempts or status.state == "stale":
                status = replace(status, attempts=len(attempts.read(folder)))
        elif job.job_id in folders or task is not None:
            status = _unfinished(job, folder, task, submission, view, ended)
        else:
            status = JobStatus(job, "missing", attempts=0)
        needs_bad = job.kind != "analyse" and any(states[need] in BAD for need in job.needs)
        if status.state == "missing" and needs_bad:
            status = replace(status, state="blocked")
        states[job.job_id] = status.state
        result.append(status)
    return _one_pace_per_task(result)


def done_at_s(folder: JobPaths) -> float | None:
    """When a job was completed, in seconds since the epoch; None if it is not complete."""
    try:
        return os.stat(folder.done).st_mtime
    except FileNotFoundError:
        return None


def _unfinished(
    job: Job,
    folder: JobPaths,
    task: str | None,
    submission: Submission | None,
    view: QueueView,
    ended: Mapping[str, str],
) -> JobStatus:
    """The state of a job that is not done: as SLURM says, unless the job has reported something since."""
    tries = attempts.read(folder)
    last = tries[-1] if tries else None
    status = JobStatus(job, "missing", task, attempts=len(tries), progress=_progress(folder, tries))
    entry = None
    if task is not None and submission is not None and submission.cluster == "slurm":
        entry = view.queue.entries.get(task)
        alive = entry.alive if entry is not None and entry.reason != NEVER else None
        if entry is None and submission.number > view.number:  # submitted since SLURM was asked
            alive = "queued"
        # a failed attempt in a running task is about to leave the queue; in a queued one it was requeued
        since = view.answered if alive == "queued" else 0
        if alive is not None and not _has_failed_since(tries, task, since, status.progress):
            began = last is not None and last.task == task and last.ended is None
            if alive == "running" or (began and last is not None and last.began > view.answered):
                return _running(status, folder, last)
            return replace(status, state=alive)
    if is_held(folder.lock):
        return _running(status, folder, last)
    ending = ending_of(folder, ended)
    status = replace(status, task=None, cause=ending.cause, message=ending.message)
    if ending.cause is None:
        return _never_began(status, task if last is None or last.task != task else None, entry, ended)
    if ending.cause == causes.CANCELLED:  # on purpose, so not a failure
        return status
    silent = last is not None and last.outcome is None and not folder.failed.is_file()
    if silent and last is not None and ending.cause == causes.KILLED and last.task not in ended:
        return replace(status, state="stale", message="it began and disappeared; how it ended is unknown")
    return replace(status, state="failed")


def _running(status: JobStatus, folder: JobPaths, last: Attempt | None) -> JobStatus:
    """A running job, with its pace if its attempt has begun and not ended."""
    status = replace(status, state="running")
    if last is None or last.ended is not None or (status.task is not None and last.task != status.task):
        return status
    reported = folder.progress.stat().st_mtime if status.progress is not None else None
    return replace(status, pace=pace_of(status.progress, last.began, reported, time.time()))


def _one_pace_per_task(statuses: Sequence[JobStatus]) -> list[JobStatus]:
    """Keep one pace for each task, whose jobs take turns: that of the job with the latest report, or of the
    first if none has reported; the others wait.
    """
    tasks: dict[str, list[tuple[str, Pace]]] = {}
    for status in statuses:
        if status.pace is not None:
            tasks.setdefault(status.task or status.job.job_id, []).append((status.job.job_id, status.pace))
    paces: dict[str, Pace] = {}
    for members in tasks.values():
        reported = [(job_id, pace) for job_id, pace in members if pace.total is not None]
        job_id, pace = min(reported, key=lambda member: member[1].silent_s, default=members[0])
        paces[job_id] = replace(pace, num_waiting=len(members) - max(1, len(reported)))
    return [
        replace(status, pace=paces.get(status.job.job_id)) if status.pace is not None else status
        for status in statuses
    ]


def _never_began(
    status: JobStatus, task: str | None, entry: QueueEntry | None, ended: Mapping[str, str]
) -> JobStatus:
    """A job without a report. task: its latest, if that did not begin the job."""
    state = ended.get(task) if task is not None else None
    if state == "CANCELLED":
        # a task whose need failed ends as CANCELLED too
        by_hand = entry is not None and "Dependency" not in entry.reason
        return replace(status, message="removed from the queue before it began") if by_hand else status
    if state in (None, "COMPLETED"):
        return status
    message = f"its task {task} ended before the job could begin (SLURM's state: {state})"
    return replace(status, state="failed", cause=causes.of_silence(state, ()), message=message)


def _has_failed_since(
    tries: Sequence[Attempt], task: str, since: float, progress: Mapping[str, Any] | None
) -> bool:
    """Whether the latest attempt failed after `since` (s), and the job is not started again automatically."""
    if not tries or tries[-1].task != task or tries[-1].outcome != "failed":
        return False
    last, done = tries[-1], progress["done"] if progress is not None else 0
    left = causes.tries_left(last.cause or causes.KILLED, tries, done)
    return left <= 0 and last.ended is not None and last.ended > since


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock. The probe is a shared lock, so that probes do not see each other."""
    try:
        stream = lock.open(encoding="utf-8")
    except FileNotFoundError:
        return False
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _progress(folder: JobPaths, tries: Sequence[Attempt]) -> Mapping[str, Any] | None:
    if not tries or not folder.progress.is_file():
        return None
    progress: Mapping[str, Any] = read_json(folder.progress)
    return progress


def failures(statuses: Iterable[JobStatus]) -> dict[tuple[str, str | None, str], list[JobStatus]]:
    """Failed and stale jobs by (state, cause, message), so that one trouble is shown once.

    An analysis that failed because other jobs did is left out.
    """
    troubles: dict[tuple[str, str | None, str], list[JobStatus]] = {}
    for status in statuses:
        if status.state in ("failed", "stale") and (status.job.kind != "analyse" or not troubles):
            key = (status.state, status.cause, status.message or "no message")
            troubles.setdefault(key, []).append(status)
    return troubles


def running_json(survey: Survey) -> list[dict[str, Any]]:
    """The jobs that running tasks work on, and their pace."""
    return [
        {"job_id": status.job.job_id, "name": status.job.name, **dataclasses.asdict(status.pace)}
        for status in survey.statuses
        if status.pace is not None
    ]


def job_json(status: JobStatus) -> dict[str, Any]:
    return {
        "job_id": status.job.job_id,
        "kind": status.job.kind,
        "name": status.job.name,
        "cell": dict(status.job.cell),
        "state": status.state,
        "task": status.task,
        "message": status.message,
        "cause": status.cause,
        "progress": status.progress,
        "pace": dataclasses.asdict(status.pace) if status.pace is not None else None,
    }


def status_json(survey: Survey) -> dict[str, Any]:
    return {
        "study": survey.plan.study,
        "counts": survey.counts,
        "note": survey.view.trouble,
        "jobs": [{**job_json(status), "attempts": status.attempts} for status in survey.statuses],
    }
