"""`calsweep explain`: what became of a job and why, and what to type next."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.cluster import scheduler
from launcher.cluster.execution import decide, read_execution
from launcher.job import attempts, causes
from launcher.job.attempts import Attempt
from launcher.job.causes import tail
from launcher.planning.sites import Site, read_site
from launcher.state.logs import logs_of
from launcher.state.matrix import STYLES
from launcher.state.pace import describe, duration
from launcher.state.status import BAD, JobStatus, Survey, failures
from study.errors import UserError
from study.files import read_json
from study.jobs.specs import EvalSpec, TrainSpec
from study.paths import StudyPaths

TAIL_LINES = 15
MAX_ATTEMPTS = 12
REASONS = {
    "None": "SLURM has not looked at it yet",
    "Priority": "others go first",
    "Resources": "it is next when resources are free",
    "Dependency": "it waits for jobs that it needs",
    "JobArrayTaskLimit": "as many tasks of its array run as array_parallelism in the profile allows",
    "BeginTime": "it waits for its time to begin",
    "JobHeldUser": "somebody holds it; scontrol release lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionTimeLimit": "its time_min is more than the partition allows: it will never start",
    "AssocGrpCPURunMinutesLimit": "the account has used what it may",
}
"""SLURM's words for why a job waits, in others."""


@dataclass(frozen=True)
class Explanation:
    """What is known of one job.

    reason, dependency: SLURM's, while it is queued. tries: its attempts, oldest first. changes: what earlier
    failures have changed about how it runs. log, excerpt: where to read on, and the end of it.
    blocked_by: from what it needs directly to the job that failed. next: the command to type.
    """

    status: JobStatus
    reason: str | None
    dependency: str | None
    tries: Sequence[Attempt]
    changes: Sequence[str]
    log: Path | None
    excerpt: str
    blocked_by: Sequence[JobStatus]
    next: str


def explain(status: JobStatus, found: Survey, paths: StudyPaths, study: str) -> Explanation:
    """Gather what is known of a job. study: as its user types it."""
    folder = paths.job(status.job.job_id)
    execution = read_execution(folder)
    chain = _blocked_by(status, {entry.job.job_id: entry for entry in found.statuses})
    entry = found.look.queue.entries.get(status.task) if status.task and status.state == "queued" else None
    log, excerpt = _excerpt(status, paths) if status.state != "done" else (None, "")
    return Explanation(
        status=status,
        reason=entry.reason if entry is not None else None,
        dependency=_dependency(status.task) if entry is not None and status.task is not None else None,
        tries=attempts.read(folder),
        changes=execution.changes if execution is not None else (),
        log=log,
        excerpt=excerpt,
        blocked_by=chain,
        next=_next_command(status, chain, found, paths, study),
    )


def worst(found: Survey) -> list[tuple[JobStatus, int]]:
    """One job of each distinct failure, and how many it struck."""
    return [(struck[0], len(struck)) for struck in failures(found.statuses).values()]


def _blocked_by(status: JobStatus, by_id: Mapping[str, JobStatus]) -> list[JobStatus]:
    chain: list[JobStatus] = []
    while status.state == "blocked":
        status = next(by_id[need] for need in status.job.needs if by_id[need].state in BAD)
        chain.append(status)
    return chain


def _dependency(task: str) -> str | None:
    """What a queued task waits for, in SLURM's words."""
    try:
        told = scheduler.ask(["squeue", "--noheader", f"--jobs={task}", "--format=%E"], tries=1).strip()
    except UserError:  # it has left the queue, or SLURM is busy
        return None
    return None if told in ("", "(null)") else told


def _excerpt(status: JobStatus, paths: StudyPaths) -> tuple[Path | None, str]:
    """The log to read, and the lines that tell most: a traceback that the job kept, else the log's end.

    No lines where the job's own sentence says it all: a log's end may be another language's of its task.
    """
    folder = paths.job(status.job.job_id)
    logs = [log for log in logs_of(status.job, paths) if log.stat().st_size]
    report = read_json(folder.failed) if folder.failed.is_file() else {}
    # the rank that failed may be another than the first, whose logs those are
    told = [Path(name) for name in report.get("logs", ()) if name.endswith(("err", ".err"))]
    errors = [log for log in told if log.is_file() and log.stat().st_size]
    # standard error first: there is what SLURM and Python say last
    errors = errors or [log for log in logs[-2:] if log.suffix == ".err"] or logs[-1:]
    log = errors[-1] if errors else None
    if status.cause == causes.USER_ERROR:
        return log, ""
    text = report.get("traceback") or (tail(log) if log is not None else "")
    lines = [line for line in text.rstrip().splitlines() if line.strip(" ^~")]  # carets tell nothing
    return log, "\n".join(lines[-TAIL_LINES:])


def _next_command(
    status: JobStatus, chain: Sequence[JobStatus], found: Survey, paths: StudyPaths, study: str
) -> str:
    """What to type now."""
    job = status.job
    sweep = f"calsweep sweep {study if Path(study).is_file() else 'GRID.yaml'}"
    if chain:
        return _next_command(chain[-1], (), found, paths, study)
    match status.state:
        case "done":
            return f"calsweep analyse tables {paths.root}" if job.kind == "analyse" else "nothing: it is done"
        case "running":
            return f"calsweep logs {study} {job.job_id} --follow"
        case "queued":
            return f"calsweep watch {study}"
        case "missing":
            return sweep
        case "stale":
            return f"calsweep retry {study} {job.job_id}"
    if job.kind == "analyse":
        return f"calsweep explain {study}" if _others_failed(found) else f"calsweep retry {study}"
    retry = f"calsweep retry {study} {job.job_id}"
    if status.cause == causes.USER_ERROR and _names_local_content(status):
        return f"mend what the message names, then: {sweep}    # put back as it was: {retry}"
    if status.cause == causes.USER_ERROR:
        return f"mend what the message names, then: {retry}    # if it is in the grid: {sweep}"
    if status.cause == causes.ERROR:
        return f"mend what the message names, then: {retry}"
    if not status.attempts and status.cause == causes.KILLED:  # the profile's lines came to no good
        return f"mend what its log says, in the profile perhaps, then: {sweep}"
    site = read_site(paths.site) if paths.site.is_file() else None
    if status.cause == causes.TIME_LIMIT:
        return f"raise resources.{job.kind}.time_min in the grid, then: {sweep}"
    again = None if site is None else decide(job, paths.job(job.job_id), site, {}, automatic=False)
    if isinstance(again, str):
        return f"{_more(status, site)} in the grid, then: {sweep}"
    before = read_execution(paths.job(job.job_id))
    if again is not None and len(again.changes) > len(before.changes if before is not None else ()):
        return f"{retry}    # with {again.changes[-1].split(': ')[-1]}"
    return retry


def _names_local_content(status: JobStatus) -> bool:
    """Whether it is about a model or data of the user's own: mended, that is other content, and what is made
    of it another job.
    """
    spec = status.job.spec
    sources = [spec.model] if isinstance(spec, TrainSpec | EvalSpec) else []
    sources += [spec.dataset] if isinstance(spec, TrainSpec) else []
    sources += [spec.benchmark.source] if isinstance(spec, EvalSpec) else []
    return any(source.kind == "local" and source.name in (status.message or "") for source in sources)


def _others_failed(found: Survey) -> bool:
    return any(entry.state in BAD and entry.job.kind != "analyse" for entry in found.statuses)


def _more(status: JobStatus, site: Site | None) -> str:
    """What the grid must give for a job that has had all there is."""
    kind = status.job.kind
    if status.cause == causes.HOST_MEMORY:
        limit = site.profile.max_mem_gib if site is not None and site.profile is not None else None
        most = f" (the profile's max_mem_gib is {limit:g})" if limit is not None else ""
        return f"raise resources.{kind}.mem_gib{most}"
    return f"give more GPUs or a higher zero_stage to resources.{kind}"


def explanation_json(told: Explanation) -> dict[str, Any]:
    job = told.status.job
    return {
        "job_id": job.job_id,
        "kind": job.kind,
        "name": job.name,
        "cell": dict(job.cell),
        "state": told.status.state,
        "cause": told.status.cause,
        "message": told.status.message,
        "task": told.status.task,
        "progress": told.status.progress,
        "pace": dataclasses.asdict(told.status.pace) if told.status.pace is not None else None,
        "reason": told.reason,
        "dependency": told.dependency,
        "attempts": [dataclasses.asdict(entry) for entry in told.tries],
        "changes": list(told.changes),
        "blocked_by": [entry.job.job_id for entry in told.blocked_by],
        "log": None if told.log is None else str(told.log),
        "excerpt": told.excerpt,
        "next": told.next,
    }


def print_explanation(told: Explanation, console: Console, *, num_struck: int = 1) -> None:
    """For people. num_struck: jobs with the same trouble, this one included."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    status, job = told.status, told.status.job
    say(f"[bold]{job.kind} {escape(job.name)}[/] ({job.job_id})")
    more = f", and {num_struck - 1} more jobs with the same trouble" if num_struck > 1 else ""
    say(f"  [{STYLES[status.state]}]{status.state}[/]{escape(_why(told))}{more}")
    if status.state == "queued":
        reason = told.reason or "submitted a moment ago"
        meaning = f": {REASONS[reason]}" if reason in REASONS else ""
        say(f"  task {status.task} waits ({escape(reason)}{meaning})")
        if told.dependency is not None:
            say(f"  until {escape(told.dependency)}")
    for entry in told.blocked_by:
        why = f": {entry.message}" if entry.message else ""
        say(
            f"  it needs {entry.job.kind} {escape(entry.job.name)} ({entry.job.job_id}), which is "
            f"[{STYLES[entry.state]}]{entry.state}[/]{escape(why)}"
        )
    if told.tries:
        console.print(_table(told.tries))
    for change in told.changes:
        say(f"  changed after {escape(change)}")
    if told.excerpt:
        where = f" (all of it: {escape(str(told.log))})" if told.log is not None else ""
        say(f"  its last words{where}")
        for line in told.excerpt.splitlines():
            console.print(f"    {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
    elif told.log is not None and status.state == "failed":
        say(f"  log: {escape(str(told.log))}")
    say(f"  [bold]next[/]  {escape(told.next)}")


def _why(told: Explanation) -> str:
    cause, message = told.status.cause, told.status.message
    if message is None and told.status.pace is not None:
        return f", {describe(told.status.pace)}"
    if message is None:
        done = told.status.progress
        return f", {done['done']} of {done['total']} {done['unit']}" if done is not None else ""
    return f": {message}" if cause is None or cause in message else f", {cause}: {message}"


def _table(tries: Sequence[Attempt]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in ("  began", "task", "host", "for", "from", "ended"):
        table.add_column(head, no_wrap=head != "ended")
    if len(tries) > MAX_ATTEMPTS:
        table.add_row("  ...", f"{len(tries) - MAX_ATTEMPTS} more before")
    for entry in tries[-MAX_ATTEMPTS:]:
        began = time.strftime("%m-%d %H:%M:%S", time.localtime(entry.began))
        lasted = duration(entry.ended - entry.began) if entry.ended is not None else ""
        how = entry.outcome or "not yet, or without a word"
        cause = f", {entry.cause}" if entry.cause is not None else ""
        table.add_row(
            f"  {began}", entry.name, escape(entry.host), lasted, str(entry.progress), escape(how + cause)
        )
    return table
