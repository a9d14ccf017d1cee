"""`calsweep sweep`: plan a grid, find its missing jobs, run or submit them, and show the results."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm

from launcher.cluster import ledger, local, scheduler
from launcher.cluster.advance import NextStep, next_step, note_found_arrays, submit_step
from launcher.cluster.scheduler import Queue
from launcher.cluster.snapshot import take_snapshot
from launcher.commands.preparation.dry_run import print_matrix, print_open_revisions, print_scripts, scripts
from launcher.cost.budget import check_budget, print_forecast, to_json
from launcher.cost.forecast import forecast
from launcher.planning.pilot import pilot_grid
from launcher.planning.plan import build_plan, resolved
from launcher.planning.sites import LocalSite, Site, SlurmSite, load_site, write_site
from launcher.planning.tasks import Task, complete_jobs, missing_tasks
from study.errors import UserError
from study.files import read_json
from study.grid.config import Grid, load_grid
from study.grid.yaml_files import errors_with_lines
from study.jobs.job import KINDS
from study.jobs.plan import Plan, write_plan
from study.jobs.specs import TrainSpec
from study.paths import StudyPaths
from study.terminal import make_console, print_json, shown


@dataclass(frozen=True)
class Context:
    """What a command that starts jobs needs: the study, where it prints, and how.

    as_json: print one JSON value on standard output, and everything else on standard error. yes: do not ask.
    """

    plan: Plan
    paths: StudyPaths
    console: Console
    as_json: bool
    yes: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", type=Path, metavar="GRID.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # or argparse calls them required when the grid is missing
        metavar="key=value",
        help="e.g. train.num_steps=10 cluster=local",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be submitted, and submit nothing"
    )
    parser.add_argument(
        "--pilot", action="store_true", help="run one cell with few steps, to measure the cost of the grid"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--yes", action="store_true", help="do not ask before submitting to a cluster")


def run(options: argparse.Namespace) -> int:
    with errors_with_lines(options.grid, options.overrides):
        grid = dataclasses.replace(load_grid(options.grid, options.overrides), only_looked_at=options.dry_run)
        plan, site = build_plan(grid), load_site(grid)
        if options.pilot:
            grid = pilot_grid(grid, plan)
            plan, site = build_plan(grid), load_site(grid)
        _check_ranks(plan, site)
    paths, console = StudyPaths(grid.study_dir), make_console(stderr=options.json)
    context = Context(plan, paths, console, as_json=options.json, yes=options.yes)
    if options.dry_run:
        return _dry_run(context, site, grid, of_pilot=options.pilot)
    with ledger.held(paths) as lock:
        write_plan(plan, resolved(grid), paths)
        write_site(site, paths.site)
        if isinstance(site, LocalSite):
            tasks = missing_tasks(plan, paths, site.languages_per_task)
            _print_plan(context, tasks)
            check_budget(forecast(plan, tasks, paths, site), grid.config.budget)
            return run_here(context, site, tasks)
        step = next_step(plan, paths, site, queue_of(paths))
        _print_plan(context, step.tasks, step)
        check_budget(forecast(plan, _left(context, site, step), paths, site), grid.config.budget)
        return submit(context, site, step, lock)


def _dry_run(context: Context, site: Site, grid: Grid, *, of_pilot: bool) -> int:
    """Show what a sweep would do; changes nothing."""
    plan, paths, console = context.plan, context.paths, context.console
    print_open_revisions(plan)
    calls: list[dict[str, str]] = []
    if isinstance(site, LocalSite):
        tasks = left = missing_tasks(plan, paths, site.languages_per_task)
        _print_plan(context, tasks)
    else:
        step = next_step(plan, paths, site, _queue_if_known())
        tasks, left = step.tasks, _left(context, site, step)
        calls = list(scripts(step, plan, paths, site, take_snapshot(paths.code).folder))
        _print_plan(context, tasks, step)
    cost = forecast(plan, left, paths, site)
    print_matrix(tasks, console)
    print_forecast(cost, console, of_pilot=of_pilot)
    print_scripts(calls, console)
    if context.as_json:
        print_json(
            {
                "study": plan.study,
                "tasks": [_task_json(task) for task in tasks],
                "sbatch": calls,
                "forecast": to_json(cost),
            }
        )
    check_budget(cost, grid.config.budget)
    return 0


def queue_of(paths: StudyPaths) -> Queue:
    """The queue, by one squeue call; notes arrays whose launcher was killed. Needs the study's lock.

    Raises UserError where SLURM is missing or does not answer.
    """
    if not scheduler.is_installed():
        raise UserError(
            "SLURM is not on the PATH",
            where="cluster",
            remedy="run this on a login node, or use cluster=local",
        )
    queue = scheduler.ask_queue()
    note_found_arrays(paths, queue)
    return queue


def _queue_if_known() -> Queue:
    """The queue, for a dry run; an empty one where SLURM is missing or does not answer."""
    if scheduler.is_installed():
        try:
            return scheduler.ask_queue()
        except UserError as error:
            print(f"calsweep: {error}; shown as if nothing were queued", file=sys.stderr)
    return Queue()


def _left(context: Context, site: SlurmSite, step: NextStep) -> list[Task]:
    """All tasks that are left to run, including those without room in the queue now."""
    not_counted = {*step.queued, *step.refused}
    return missing_tasks(context.plan, context.paths, site.languages_per_task, not_counted)


def submit(context: Context, site: SlurmSite, step: NextStep, lock: int) -> int:
    """Submit a step, after asking a user at a terminal; returns the exit code.

    lock: the descriptor of the study's lock.
    """
    paths, console = context.paths, context.console
    count = len(step.tasks)
    asks = count and not context.yes and sys.stdin.isatty() and console.is_terminal
    if asks and not Confirm.ask(f"Submit {count} tasks?", console=console, default=True):
        return 130
    jobs: dict[str, str] = {}
    if count:
        code = take_snapshot(paths.code).write()
        submitted = submit_step(step, context.plan, paths, site, code, lock=lock)
        jobs = submitted.jobs
        console.print(f"submitted {len(set(jobs.values()))} tasks; they run without this command")
        if submitted.deferred:
            later = "the last job submits them" if submitted.continues else "run this command again for them"
            console.print(f"{submitted.deferred} tasks wait for room in the queue; {later}")
    else:
        console.print("nothing to submit")
    console.print(f"  watch: calsweep watch {shown(paths.root)}", soft_wrap=True)
    if context.as_json:
        print_json({"study": paths.root.name, "folder": str(paths.root), "submitted": jobs})
    return 0


def run_here(context: Context, site: LocalSite, tasks: Sequence[Task]) -> int:
    """Run tasks on this machine and print the results; returns the exit code."""
    paths, console = context.paths, context.console
    result = local.LocalResult()
    if tasks:
        result = local.run(tasks, paths, site, take_snapshot(paths.code).write(), console)
    if paths.tables.is_dir() and not context.as_json:
        _print_results(context)
    for task, log in result.failed:
        if task.kind != "analyse" or len(result.failed) == 1:
            why = escape(f"{task.kind} {task.name}: {_why(task, paths)}")
            console.print(f"[red]failed[/] {why}", soft_wrap=True)
            console.print(f"  log: {log}", soft_wrap=True)
    if result.skipped:
        console.print(f"[red]{len(result.skipped)} tasks not run[/]: jobs that they need failed")
    if context.as_json:
        failed = [{**_task_json(task), "log": str(log)} for task, log in result.failed]
        skipped = [_task_json(task) for task in result.skipped]
        print_json(
            {"study": paths.root.name, "folder": str(paths.root), "failed": failed, "skipped": skipped}
        )
    return 1 if result.failed or result.skipped else 0


def _check_ranks(plan: Plan, site: Site) -> None:
    """Raise UserError now for what the ranks of a training cannot do, instead of hours later."""
    for kind in ("prepare", "train"):
        resources, specs = site.resources[kind], [job.spec for job in plan.of_kind(kind)]
        hypers = [spec.hyper for spec in specs if isinstance(spec, TrainSpec)]
        if not hypers:
            continue
        if 0 < resources.gpus_per_node < resources.tasks_per_node:
            raise UserError(
                f"{resources.tasks_per_node} ranks per node cannot share {resources.gpus_per_node} GPUs",
                where=f"resources.{kind}.gpus_per_node",
                remedy="request as many GPUs as tasks_per_node, or fewer tasks",
            )
        if resources.attention.startswith("flash") and any(hyper.dtype != "bf16" for hyper in hypers):
            raise UserError(
                f"{resources.attention} does not support fp32",
                where=f"resources.{kind}.attention",
                remedy="write dtype: bf16, or attention: sdpa",
            )
        smallest = min(hyper.global_batch_size for hyper in hypers)
        if smallest < resources.num_tasks:
            raise UserError(
                f"{resources.num_tasks} ranks cannot share a global batch of {smallest} examples",
                where=f"resources.{kind}",
                remedy="request fewer tasks, or raise global_batch_size",
            )


def _print_plan(context: Context, tasks: Sequence[Task], step: NextStep | None = None) -> None:
    """Counts of jobs by kind and by state, and the failed jobs that are not started again."""
    plan, console = context.plan, context.console
    of_kind = Counter(job.kind for job in plan.jobs)
    parts = ", ".join(f"{of_kind[kind]} {kind}" for kind in KINDS if of_kind[kind])
    console.print(f"[bold]{escape(plan.study)}[/]: {len(plan.jobs)} jobs ({parts})")
    left = sum(len(task.jobs) for task in tasks)
    # the queue may hold jobs of another grid of this study, and jobs that are done already
    complete = complete_jobs(context.paths)
    done = _count(plan, complete)
    busy = _count(plan, step.queued.keys() - complete if step is not None else ())
    text = f"complete {done}, queued or running {busy}, to do {left} in {len(tasks)} tasks"
    if step is not None and step.deferred:
        text += f"; {step.deferred} tasks wait for room in the queue"
    console.print(text)
    print_refused(step.refused if step is not None else {}, console)


def _count(plan: Plan, job_ids: Collection[str]) -> int:
    return sum(job.job_id in job_ids for job in plan.jobs) if job_ids else 0


def print_refused(refused: Mapping[str, str], console: Console) -> None:
    """Each reason why failed jobs are not started again, once."""
    for reason, count in Counter(refused.values()).items():
        jobs = "1 job is" if count == 1 else f"{count} jobs are"
        line = f"[red]{jobs} not started again[/]: {escape(reason)}"
        console.print(line, soft_wrap=True)


def _task_json(task: Task) -> dict[str, object]:
    return {"kind": task.kind, "name": task.name, "jobs": task.job_ids, "needs": sorted(task.needs)}


def _why(task: Task, paths: StudyPaths) -> str:
    """The failure messages of a task's jobs, each once."""
    reports = [paths.job(job_id).failed for job_id in task.job_ids]
    messages = dict.fromkeys(read_json(report)["message"] for report in reports if report.is_file())
    return "; ".join(messages) or "it ended without a report"


def _print_results(context: Context) -> None:
    from analysis.terminal.summary import print_summary

    paths, console = context.paths, context.console
    print_summary(paths.root, console)
    if context.plan.description:
        console.print("\n" + escape(context.plan.description))
    console.print(f"\ntables     {shown(paths.tables / 'calibration.csv')}", soft_wrap=True)
    console.print(f"dashboard  {shown(paths.dashboard)}", soft_wrap=True)
