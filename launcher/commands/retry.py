"""`calsweep retry`: re-run failed jobs, once the user has fixed the cause, and the jobs they block."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from launcher.cluster import ledger
from launcher.cluster.advance import next_step, with_arrays
from launcher.commands.sweep import Context, print_refused, queue_of, run_here, submit
from launcher.planning.sites import LocalSite, read_site
from launcher.planning.tasks import missing_tasks
from launcher.state.lookup import add_study_arguments, find_jobs, open_study
from launcher.state.status import ACTIVE, JobStatus, Survey, survey_of
from study.errors import UserError
from study.jobs.job import KINDS
from study.paths import StudyPaths
from study.terminal import make_console, print_json

RETRIED = ("failed", "blocked", "stale")
ENDING_TRIES, ENDING_POLL_S = 20, 2.0
"""A failed task stays in the queue for a moment."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help="ids of jobs; without any, all failed and blocked ones"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before submitting to a cluster")


def run(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    console = make_console(stderr=options.json)
    context = Context(plan, paths, console, as_json=options.json, yes=options.yes)
    return retry(context, find_jobs(plan, options.jobs))


def retry(context: Context, named: Sequence[str]) -> int:
    """Re-run failed, blocked and stale jobs, or the named ones; returns the exit code.

    The jobs run from the code as it is now, in which the cause may have been fixed. On this machine they run
    in the foreground. Raises UserError when another launcher works on the study.
    """
    plan, paths, console = context.plan, context.paths, context.console
    site = read_site(paths.site)
    with ledger.held(paths) as lock:
        survey = survey_of(plan, paths, fresh=True)
        if not isinstance(site, LocalSite):
            if survey.view.trouble is not None:
                # the queue is unknown, not empty: this tries longer, and raises with the reason
                queue_of(paths)
            survey = _settled(survey, paths)
        chosen = choose(survey, named)
        _print_choice(survey, chosen, named, console)
        if not chosen:
            if context.as_json:
                print_json({"study": paths.root.name, "folder": str(paths.root), "submitted": {}})
            return 0
        analyses = {job.job_id for job in plan.of_kind("analyse")}
        if isinstance(site, LocalSite):
            # its tables are about to be out of date; if it were complete, it would not run
            for job_id in analyses:
                paths.job(job_id).done.unlink(missing_ok=True)
            left_out = {job.job_id for job in plan.jobs} - chosen - analyses
            tasks = missing_tasks(plan, paths, site.languages_per_task, left_out)
            return run_here(context, site, tasks)
        step = next_step(plan, paths, site, queue_of(paths), chosen=chosen)
        if not step.arrays and not step.deferred and not analyses & chosen:
            step = dataclasses.replace(step, analysis=None, replaced=None)
        refused = {job_id: why for job_id, why in step.refused.items() if job_id in chosen}
        print_refused(refused, console)
        return submit(context, site, step, lock) or int(bool(refused))


def _settled(survey: Survey, paths: StudyPaths) -> Survey:
    """The study once no failed task is ending any more: before that its jobs cannot be submitted again."""
    for _ in range(ENDING_TRIES):
        entries = survey.view.queue.entries
        tasks = ledger.task_of(with_arrays(ledger.read(paths.ledger), survey.view.queue))
        ending = [
            status.job.name
            for status in survey.statuses
            if status.state in RETRIED
            and (entry := entries.get(tasks.get(status.job.job_id, ""))) is not None
            and entry.alive == "running"
        ]
        if not ending and survey.view.trouble is None:
            return survey
        time.sleep(ENDING_POLL_S)
        survey = survey_of(survey.plan, paths, fresh=True)
    if survey.view.trouble is not None:
        raise UserError(survey.view.trouble, where="cluster", remedy="try again when it does")
    raise UserError("SLURM is still ending its task", where=ending[0], remedy="try again in a minute")


def choose(survey: Survey, named: Iterable[str]) -> set[str]:
    """The jobs to run: with each, the incomplete jobs it needs, and the jobs that wait for it.

    named: job ids; if empty, all failed, blocked and stale jobs. Named jobs that are complete or in the queue
    are left out.
    """
    by_id = {status.job.job_id: status for status in survey.statuses}
    wanted = set(named) or {job_id for job_id, status in by_id.items() if status.state in RETRIED}
    analyses = {job_id for job_id in wanted if by_id[job_id].job.kind == "analyse"}
    chosen = {job_id for job_id in wanted if _is_startable(by_id[job_id])}
    for status in reversed(survey.statuses):  # in reverse plan order: its needs, and their needs
        if status.job.job_id in chosen - analyses:
            chosen |= {need for need in status.job.needs if _is_startable(by_id[need])}
    makers = {job_id for job_id in chosen & wanted if by_id[job_id].job.kind in ("prepare", "train")}
    for status in survey.statuses:  # in plan order: with a training, its evaluations
        job = status.job
        if job.kind != "analyse" and _is_startable(status) and makers & set(job.needs):
            chosen.add(job.job_id)
            makers.add(job.job_id)
    return chosen


def _is_startable(status: JobStatus) -> bool:
    return status.state != "done" and status.state not in ACTIVE


def _print_choice(survey: Survey, chosen: set[str], named: Sequence[str], console: Console) -> None:
    by_id: Mapping[str, JobStatus] = {status.job.job_id: status for status in survey.statuses}
    for job_id in named:
        if job_id not in chosen:
            status = by_id[job_id]
            line = f"{status.job.kind} {status.job.name} ({job_id}) is {status.state}, so it is not retried"
            console.print(escape(line), soft_wrap=True)
    if not chosen:
        console.print("nothing to retry")
        return
    of_kind = Counter(by_id[job_id].job.kind for job_id in chosen)
    parts = ", ".join(f"{of_kind[kind]} {kind}" for kind in KINDS if of_kind[kind])
    console.print(f"[bold]retry[/] {len(chosen)} jobs ({parts})")
