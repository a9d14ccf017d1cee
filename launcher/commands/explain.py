"""`calsweep explain`: why a job failed or waits, and what to type next."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from launcher.planning.sites import Site, SlurmSite, read_site
from launcher.state.logs import logs_of
from launcher.state.lookup import add_study_arguments, find_job, open_study
from launcher.state.matrix import STYLES
from launcher.state.pace import describe, duration
from launcher.state.status import BAD, JobStatus, Survey, failures, job_json, survey_of
from study.errors import UserError
from study.files import read_json
from study.jobs.specs import EvalSpec, TrainSpec
from study.paths import StudyPaths
from study.terminal import make_console, print_json

TAIL_LINES = 15
MAX_ATTEMPTS = 12
REASONS = {
    "None": "SLURM has not considered it yet",
    "Priority": "other jobs come first",
    "Resources": "it is next when resources are free",
    "Dependency": "it waits for jobs that it needs",
    "JobArrayTaskLimit": "array_parallelism of the profile limits how many tasks of an array run at a time",
    "BeginTime": "it waits for its begin time",
    "JobHeldUser": "a user holds it; scontrol release frees it",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionTimeLimit": "its time_min is more than the partition allows: it will never start",
    "AssocGrpCPURunMinutesLimit": "the account has used its share",
}
"""Why a job waits: SLURM's word, and what it means."""


@dataclass(frozen=True)
class Explanation:
    """What is known about one job.

    reason, dependency: SLURM's, while it is queued. tries: its attempts, oldest first. changes: how earlier
    failures changed the way it runs. log, excerpt: a log to read, and its end.
    blocked_by: from a job that it needs directly to the job that failed. next: the command to type.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("job", nargs="?", metavar="JOB", help="a job's id; without one, all failed jobs")
    parser.add_argument("--fresh", action="store_true", help="query SLURM now, not only every 30 s or so")


def run(options: argparse.Namespace) -> int:
    """Explain a job and the job that blocks it; without a job, each distinct failure once."""
    plan, paths = open_study(options.study)
    study, console = str(options.study), make_console()
    job = find_job(plan, options.job) if options.job is not None else None
    survey = survey_of(plan, paths, fresh=options.fresh)
    if job is not None:
        (status,) = [status for status in survey.statuses if status.job.job_id == job.job_id]
        explained = [(explain(status, survey, paths, study), 1)]
        explained += [(explain(need, survey, paths, study), 1) for need in explained[0][0].blocked_by[-1:]]
    else:
        explained = [(explain(status, survey, paths, study), count) for status, count in worst(survey)]
    if options.json:
        data = [{**explanation_json(explanation), "num_struck": count} for explanation, count in explained]
        print_json(data if job is None else {**data[0], "root": data[-1] if len(data) > 1 else None})
        return 0
    if survey.view.trouble is not None:
        console.print(f"{survey.view.trouble}; the following may be out of date", style="yellow")
    if not explained:
        console.print("nothing failed")
    for index, (explanation, count) in enumerate(explained):
        if index:
            console.print()
        print_explanation(explanation, console, num_affected=count)
    return 0


def explain(status: JobStatus, survey: Survey, paths: StudyPaths, study: str) -> Explanation:
    """Collect what is known about a job. study: as the user typed it."""
    folder = paths.job(status.job.job_id)
    execution = read_execution(folder)
    chain = _blocked_by(status, {each.job.job_id: each for each in survey.statuses})
    entry = survey.view.queue.entries.get(status.task) if status.task and status.state == "queued" else None
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
        next=_next_command(status, chain, survey, paths, study),
    )


def worst(survey: Survey) -> list[tuple[JobStatus, int]]:
    """One job of each distinct failure, and the number of jobs that have it."""
    return [(members[0], len(members)) for members in failures(survey.statuses).values()]


def _blocked_by(status: JobStatus, by_id: Mapping[str, JobStatus]) -> list[JobStatus]:
    chain: list[JobStatus] = []
    while status.state == "blocked":
        status = next(by_id[need] for need in status.job.needs if by_id[need].state in BAD)
        chain.append(status)
    return chain


def _dependency(task: str) -> str | None:
    """The dependency of a queued task, as SLURM writes it."""
    try:
        answer = scheduler.ask(["squeue", "--noheader", f"--jobs={task}", "--format=%E"], tries=1).strip()
    except UserError:  # it has left the queue, or SLURM is busy
        return None
    return None if answer in ("", "(null)") else answer


def _excerpt(status: JobStatus, paths: StudyPaths) -> tuple[Path | None, str]:
    """The log to read, and its most informative lines: a traceback that the job kept, else the log's end.

    No lines after a user's error, which the job's message states in full; the log's end may even belong to
    another language of the task.
    """
    folder = paths.job(status.job.job_id)
    logs = [log for log in logs_of(status.job, paths) if log.stat().st_size]
    report = read_json(folder.failed) if folder.failed.is_file() else {}
    # `logs` are those of the first rank; the report names the logs of the rank that failed
    reported = [Path(name) for name in report.get("logs", ()) if name.endswith(("err", ".err"))]
    errors = [log for log in reported if log.is_file() and log.stat().st_size]
    # standard error first: SLURM and Python write there last
    errors = errors or [log for log in logs[-2:] if log.suffix == ".err"] or logs[-1:]
    log = errors[-1] if errors else None
    if status.cause == causes.USER_ERROR:
        return log, ""
    text = report.get("traceback") or (tail(log) if log is not None else "")
    lines = [line for line in text.rstrip().splitlines() if line.strip(" ^~")]  # not the carets under code
    return log, "\n".join(lines[-TAIL_LINES:])


def _next_command(
    status: JobStatus, chain: Sequence[JobStatus], survey: Survey, paths: StudyPaths, study: str
) -> str:
    """What to type now."""
    job = status.job
    sweep = f"calsweep sweep {study if Path(study).is_file() else 'GRID.yaml'}"
    retry = f"calsweep retry {study} {job.job_id}"
    if chain:
        return _next_command(chain[-1], (), survey, paths, study)
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
            return retry
    if job.kind == "analyse":
        return f"calsweep explain {study}" if _others_failed(survey) else f"calsweep retry {study}"
    if status.cause == causes.USER_ERROR and _names_local_content(status):
        return f"fix what the message names, then: {sweep}    # if you restored it: {retry}"
    if status.cause == causes.USER_ERROR:
        return f"fix what the message names, then: {retry}    # if it is in the grid: {sweep}"
    if status.cause == causes.ERROR:
        return f"fix what the message names, then: {retry}"
    if not status.attempts and status.cause == causes.KILLED:  # e.g. a set-up line of the profile fails
        return f"fix what the log shows, perhaps in the profile, then: {sweep}"
    site = read_site(paths.site) if paths.site.is_file() else None
    if status.cause == causes.TIME_LIMIT:
        return f"raise resources.{job.kind}.time_min in the grid, then: {sweep}"
    decision = None if site is None else decide(job, paths.job(job.job_id), site, {}, automatic=False)
    if isinstance(decision, str):
        return f"{_more(status, site)} in the grid, then: {sweep}"
    before = read_execution(paths.job(job.job_id))
    if decision is not None and len(decision.changes) > len(before.changes if before is not None else ()):
        return f"{retry}    # with {decision.changes[-1].split(': ')[-1]}"
    return retry


def _names_local_content(status: JobStatus) -> bool:
    """Whether the message names a local model or data: fixed, it has other content, and makes another job."""
    spec = status.job.spec
    sources = [spec.model] if isinstance(spec, TrainSpec | EvalSpec) else []
    sources += [spec.dataset] if isinstance(spec, TrainSpec) else []
    sources += [spec.benchmark.source] if isinstance(spec, EvalSpec) else []
    return any(source.kind == "local" and source.name in (status.message or "") for source in sources)


def _others_failed(survey: Survey) -> bool:
    return any(status.state in BAD and status.job.kind != "analyse" for status in survey.statuses)


def _more(status: JobStatus, site: Site | None) -> str:
    """What to raise in the grid for a job without a remedy left."""
    kind = status.job.kind
    if status.cause == causes.HOST_MEMORY:
        limit = site.profile.max_mem_gib if isinstance(site, SlurmSite) else None
        most = f" (the profile's max_mem_gib is {limit:g})" if limit is not None else ""
        return f"raise resources.{kind}.mem_gib{most}"
    return f"give more GPUs or a higher zero_stage to resources.{kind}"


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    return {
        **job_json(explanation.status),
        "reason": explanation.reason,
        "dependency": explanation.dependency,
        "attempts": [asdict(attempt) for attempt in explanation.tries],
        "changes": list(explanation.changes),
        "blocked_by": [status.job.job_id for status in explanation.blocked_by],
        "log": None if explanation.log is None else str(explanation.log),
        "excerpt": explanation.excerpt,
        "next": explanation.next,
    }


def print_explanation(explanation: Explanation, console: Console, *, num_affected: int = 1) -> None:
    """num_affected: jobs with the same failure, including this one."""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    status, job = explanation.status, explanation.status.job
    say(f"[bold]{job.kind} {escape(job.name)}[/] ({job.job_id})")
    more = f", and {num_affected - 1} more jobs with the same failure" if num_affected > 1 else ""
    say(f"  [{STYLES[status.state]}]{status.state}[/]{escape(_why(status))}{more}")
    if status.state == "queued":
        reason = explanation.reason or "submitted a moment ago"
        meaning = f": {REASONS[reason]}" if reason in REASONS else ""
        say(f"  task {status.task} waits ({escape(reason)}{meaning})")
        if explanation.dependency is not None:
            say(f"  until {escape(explanation.dependency)}")
    for need in explanation.blocked_by:
        why = f": {need.message}" if need.message else ""
        say(
            f"  it needs {need.job.kind} {escape(need.job.name)} ({need.job.job_id}), which is "
            f"[{STYLES[need.state]}]{need.state}[/]{escape(why)}"
        )
    if explanation.tries:
        console.print(_table(explanation.tries))
    for change in explanation.changes:
        say(f"  changed after {escape(change)}")
    if explanation.excerpt:
        where = f" of {escape(str(explanation.log))}" if explanation.log is not None else ""
        say(f"  last lines{where}")
        for line in explanation.excerpt.splitlines():
            console.print(f"    {line}", style="dim", markup=False, soft_wrap=True)
    elif explanation.log is not None and status.state == "failed":
        say(f"  log: {escape(str(explanation.log))}")
    say(f"  [bold]next[/]  {escape(explanation.next)}")


def _why(status: JobStatus) -> str:
    if status.message is not None:
        known = status.cause is None or status.cause in status.message
        return f": {status.message}" if known else f", {status.cause}: {status.message}"
    if status.pace is not None:
        return f", {describe(status.pace)}"
    done = status.progress
    return f", {done['done']} of {done['total']} {done['unit']}" if done is not None else ""


def _table(tries: Sequence[Attempt]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in ("  began", "attempt", "host", "for", "from", "ended"):
        table.add_column(head, no_wrap=head != "ended")
    if len(tries) > MAX_ATTEMPTS:
        table.add_row("  ...", f"{len(tries) - MAX_ATTEMPTS} earlier ones")
    for attempt in tries[-MAX_ATTEMPTS:]:
        began = time.strftime("%m-%d %H:%M:%S", time.localtime(attempt.began))
        lasted = duration(attempt.ended - attempt.began) if attempt.ended is not None else ""
        how = attempt.outcome or "still running, or without a report"
        cause = f", {attempt.cause}" if attempt.cause is not None else ""
        table.add_row(
            f"  {began}",
            attempt.name,
            escape(attempt.host),
            lasted,
            str(attempt.progress),
            escape(how + cause),
        )
    return table
