"""What became of each job: from its own markers, and from what SLURM said last."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.cluster import queue_cache
from launcher.cluster.diagnosis import diagnose
from launcher.cluster.ledger import Submission
from launcher.cluster.queue_cache import Look
from launcher.cluster.scheduler import Entry
from launcher.job import attempts, causes
from launcher.job.attempts import Attempt
from launcher.planning.sites import read_site
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
"""SLURM's reason for a job whose need failed, in the moment before it takes it out of the queue."""


@dataclass(frozen=True)
class JobStatus:
    """What became of one job.

    state: one of STATES. `blocked` needs a job that failed; `missing` was never submitted, or was taken out
        of the queue; `stale` began and vanished without a word, or is an analysis older than what it covers.
    task: its cluster task while that is queued or runs. message: a sentence. cause: one of `causes`.
    attempts: how often it began; None where nobody looked. progress: what its progress.json says.
    pace: of what is at work, of each running task one job; None for the others.
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
    look: Look

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(status.state for status in self.statuses)
        return {state: found.get(state, 0) for state in STATES}

    @property
    def num_benchmarks(self) -> int:
        specs = [status.job.spec for status in self.statuses]
        return len({spec.benchmark.label for spec in specs if isinstance(spec, EvalSpec)})

    @property
    def exit_code(self) -> int:
        return 1 if any(self.counts[state] for state in BAD) else 0


def survey(
    plan: Plan,
    paths: StudyPaths,
    *,
    fresh: bool = False,
    before: Look | None = None,
    all_attempts: bool = False,
) -> Survey:
    """Look at a study; SLURM is asked as often as its profile says, or now when `fresh`.

    before: what SLURM said last, for who looks again and again. all_attempts: count those of complete jobs,
    too, which costs a file each.
    """
    interval_s = _interval_s(paths)
    found, submissions = queue_cache.look(paths, interval_s, fresh=fresh, before=before)
    placed = {
        job_id: (task, entry)
        for entry in submissions
        for task, pack in entry.tasks.items()
        for job_id in pack
    }
    statuses = job_statuses(plan, paths, found, placed, all_attempts=all_attempts)
    lost = {
        placed[status.job.job_id][0]
        for status in statuses
        if status.state in ("stale", "missing", "blocked") and _has_left(status.job, placed, found)
    }
    told = queue_cache.ask_ended(paths, found, lost, 0 if fresh else interval_s)
    if told.ended != found.ended:
        statuses = job_statuses(plan, paths, told, placed, all_attempts=all_attempts)
    return Survey(plan, statuses, told)


Placed = Mapping[str, tuple[str, Submission]]
"""job id -> the task of its latest submission, and that."""


def _has_left(job: Job, placed: Placed, look: Look) -> bool:
    """Whether its task was in the queue once, and nobody has told how it ended."""
    if job.job_id not in placed:
        return False
    task, entry = placed[job.job_id]
    return entry.cluster == "slurm" and entry.number <= look.number and task not in look.queue.entries


def _interval_s(paths: StudyPaths) -> float:
    profile = read_site(paths.site).profile if paths.site.is_file() else None
    return profile.query_interval_s if profile is not None else 30


def job_statuses(
    plan: Plan,
    paths: StudyPaths,
    look: Look,
    placed: Placed,
    *,
    all_attempts: bool = False,
) -> list[JobStatus]:
    """The state of every job of the plan, in plan order."""
    jobs = paths.root / "jobs"
    folders = {entry.name for entry in os.scandir(jobs)} if jobs.is_dir() else set()
    ended = look.states
    result: list[JobStatus] = []
    states: dict[str, str] = {}
    done_at: dict[str, float] = {}
    for job in plan.jobs:
        folder, at = paths.job(job.job_id), None
        task, entry = placed.get(job.job_id, (None, None))
        if job.job_id in folders:
            at = done_at_s(folder)
        if at is not None:
            done_at[job.job_id] = at
            status = JobStatus(job, "done")
            if job.kind == "analyse" and any(done_at.get(need, 0) > at for need in job.needs):
                status = JobStatus(job, "stale", message="older than some of the evaluations it covers")
            if all_attempts or status.state == "stale":
                status = _with(status, attempts=len(attempts.read(folder)))
        elif job.job_id in folders or task is not None:
            status = _unfinished(job, folder, task, entry, look, ended)
        else:
            status = JobStatus(job, "missing", attempts=0)
        needs_bad = job.kind != "analyse" and any(states[need] in BAD for need in job.needs)
        if status.state == "missing" and needs_bad:
            status = _with(status, state="blocked")
        states[job.job_id] = status.state
        result.append(status)
    return _one_at_work(result)


def done_at_s(folder: JobPaths) -> float | None:
    """When a job was complete; None when it is not."""
    try:
        return os.stat(folder.done).st_mtime
    except FileNotFoundError:
        return None


def _unfinished(
    job: Job,
    folder: JobPaths,
    task: str | None,
    entry: Submission | None,
    look: Look,
    ended: Mapping[str, str],
) -> JobStatus:
    """The state of a job that is not done: SLURM's word first, unless the job has told more since."""
    tries = attempts.read(folder)
    last = tries[-1] if tries else None
    status = JobStatus(job, "missing", task, attempts=len(tries), progress=_progress(folder, tries))
    in_queue = None
    if task is not None and entry is not None and entry.cluster == "slurm":
        in_queue = look.queue.entries.get(task)
        alive = in_queue.alive if in_queue is not None and in_queue.reason != NEVER else None
        if in_queue is None and entry.number > look.number:  # submitted since SLURM was asked
            alive = "queued"
        told_s = look.told if alive == "queued" else 0  # who has failed and is not requeued is only ending
        if alive is not None and not _has_failed_since(tries, task, told_s, status.progress):
            began = last is not None and last.task == task and last.ended is None and last.began > look.told
            state = "running" if began else alive
            return _running(status, folder, last) if state == "running" else _with(status, state=state)
    if is_held(folder.lock):
        return _running(status, folder, last)
    found = diagnose(folder, ended)
    told = _with(status, task=None, cause=found.cause, message=found.message)
    if found.cause is None:
        return _never_began(told, task if last is None or last.task != task else None, in_queue, ended)
    if found.cause == causes.CANCELLED:  # on purpose: no failure
        return told
    silent = last is not None and last.outcome is None and not folder.failed.is_file()
    if silent and last is not None and found.cause == causes.KILLED and last.task not in ended:
        return _with(told, state="stale", message="began and vanished: nobody says how it ended")
    return _with(told, state="failed")


def _running(status: JobStatus, folder: JobPaths, last: Attempt | None) -> JobStatus:
    """A job that runs; its pace, if it has said that it began and is not ending."""
    status = _with(status, state="running")
    if last is None or last.ended is not None or (status.task is not None and last.task != status.task):
        return status
    heard = folder.progress.stat().st_mtime if status.progress is not None else None
    return _with(status, pace=pace_of(status.progress, last.began, heard, time.time()))


def _one_at_work(statuses: Sequence[JobStatus]) -> list[JobStatus]:
    """The jobs of a task take turns: the one heard of last is at work, else the first; the others wait."""
    tasks: dict[str, list[JobStatus]] = {}
    for status in statuses:
        if status.pace is not None:
            tasks.setdefault(status.task or status.job.job_id, []).append(status)
    paces: dict[str, Pace] = {}
    for members in tasks.values():
        told = [(one.job.job_id, one.pace) for one in members if one.pace and one.pace.total is not None]
        first = (members[0].job.job_id, members[0].pace)
        job_id, pace = min(told, key=lambda entry: entry[1].silent_s) if told else first
        assert pace is not None
        waiting = len(members) - max(1, len(told))
        paces[job_id] = dataclasses.replace(pace, num_waiting=waiting)
    return [
        _with(status, pace=paces.get(status.job.job_id)) if status.pace is not None else status
        for status in statuses
    ]


def _never_began(
    status: JobStatus, task: str | None, in_queue: Entry | None, ended: Mapping[str, str]
) -> JobStatus:
    """A job that has told nothing. task: its latest, when that began nothing."""
    word = ended.get(task) if task is not None else None
    if word == "CANCELLED":
        # a task whose need failed ends so, too
        by_hand = in_queue is not None and "Dependency" not in in_queue.reason
        return _with(status, message="taken out of the queue before it began") if by_hand else status
    if word in (None, "COMPLETED"):
        return status
    message = f"its task {task} ended before the job could begin (SLURM says {word})"
    return _with(status, state="failed", cause=causes.of_silence(word, ()), message=message)


def _has_failed_since(
    tries: Sequence[Attempt], task: str, told: float, progress: Mapping[str, Any] | None
) -> bool:
    """Whether the job says that it failed since SLURM was asked, and is not tried again by itself."""
    if not tries or tries[-1].task != task or tries[-1].outcome != "failed":
        return False
    last, done = tries[-1], progress["done"] if progress is not None else 0
    left = causes.tries_left(last.cause or causes.KILLED, tries, done)
    return left <= 0 and last.ended is not None and last.ended > told


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock. Shared, so that two who look do not take each other for it."""
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
    found: Mapping[str, Any] = read_json(folder.progress)
    return found


def _with(status: JobStatus, **changes: Any) -> JobStatus:
    return dataclasses.replace(status, **changes)


def failures(statuses: Iterable[JobStatus]) -> dict[tuple[str, str | None, str], list[JobStatus]]:
    """Failed and stale jobs by (state, cause, message): the same trouble once, however many it struck.

    An analysis that failed because others did is none of its own.
    """
    found: dict[tuple[str, str | None, str], list[JobStatus]] = {}
    for status in statuses:
        if status.state in ("failed", "stale") and (status.job.kind != "analyse" or not found):
            key = (status.state, status.cause, status.message or "no message")
            found.setdefault(key, []).append(status)
    return found


def running_json(found: Survey) -> list[dict[str, Any]]:
    """What is at work, and how fast."""
    return [
        {"job_id": status.job.job_id, "name": status.job.name, **dataclasses.asdict(status.pace)}
        for status in found.statuses
        if status.pace is not None
    ]


def status_json(found: Survey) -> dict[str, Any]:
    return {
        "study": found.plan.study,
        "counts": found.counts,
        "note": found.look.trouble,
        "jobs": [
            {
                "job_id": status.job.job_id,
                "kind": status.job.kind,
                "name": status.job.name,
                "cell": dict(status.job.cell),
                "state": status.state,
                "task": status.task,
                "message": status.message,
                "cause": status.cause,
                "attempts": status.attempts,
                "progress": status.progress,
                "pace": dataclasses.asdict(status.pace) if status.pace is not None else None,
            }
            for status in found.statuses
        ],
    }
