"""`calsweep sweep`: plan, find what is missing, run or submit it, show what came out."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm

from launcher.cluster import ledger, local, scheduler
from launcher.cluster.advance import Step, next_step, note_found_arrays, take
from launcher.cluster.snapshot import take_snapshot
from launcher.commands.dry_run import print_matrix, print_scripts, scripts, tell_open_revisions
from launcher.cost.budget import check_budget, print_forecast, to_json
from launcher.cost.forecast import Forecast, forecast
from launcher.planning.pilot import pilot_grid
from launcher.planning.plan import build_plan, resolved
from launcher.planning.sites import Site, load_site, write_site
from launcher.planning.tasks import Task, complete_jobs, missing_tasks
from study.errors import UserError
from study.files import read_json
from study.grid.config import Grid, load_grid
from study.grid.yaml_files import telling_lines
from study.jobs.job import KINDS
from study.jobs.plan import Plan, write_plan
from study.jobs.specs import TrainSpec
from study.paths import StudyPaths
from study.terminal import make_console, print_json, shown


def sweep(options: argparse.Namespace) -> int:
    """Submit what is missing of a grid, and only that; on this machine, run it and print the tables."""
    with telling_lines(options.grid, options.overrides):
        grid = dataclasses.replace(load_grid(options.grid, options.overrides), only_looked_at=options.dry_run)
        plan, site = build_plan(grid), load_site(grid)
        if options.pilot:
            grid = pilot_grid(grid, plan)
            plan, site = build_plan(grid), load_site(grid)
        _check_ranks(plan, site)
    paths = StudyPaths(grid.study_dir)
    console = make_console(stderr=options.json)
    if options.dry_run:
        tell_open_revisions(plan)
    with nullcontext() if options.dry_run else ledger.held(paths) as lock:
        if lock is not None:
            write_plan(plan, resolved(grid), paths)
            write_site(site, paths.site)
        if site.profile is None:
            tasks = missing_tasks(plan, paths, site.languages_per_task)
            _print_plan(plan, tasks, None, paths, console)
            result = forecast(plan, tasks, paths, site)
            if lock is None:
                return _show(grid, plan, tasks, None, result, paths, site, options, console)
            check_budget(result, grid.config.budget)
            return run_here(plan, tasks, paths, site, options, console)
        step = find_step(plan, paths, site, lock)
        tasks = tasks_of(step)
        _print_plan(plan, tasks, step, paths, console)
        _print_refused(step, console)
        # of all that is left, not of what has room in the queue now
        left = missing_tasks(plan, paths, site.languages_per_task, {*step.queued, *step.refused})
        result = forecast(plan, left, paths, site)
        if lock is None:
            return _show(grid, plan, tasks, step, result, paths, site, options, console)
        check_budget(result, grid.config.budget)
        return submit(step, plan, paths, site, lock, options, console)


def find_step(plan: Plan, paths: StudyPaths, site: Site, lock: int | None, **choice: object) -> Step:
    """The study's next step on SLURM, by one look at the queue.

    lock: the study's, None to change nothing. Raises UserError where SLURM cannot be asked.
    """
    if lock is not None and not scheduler.is_there():
        raise UserError(
            "SLURM is not on the PATH", where="cluster", remedy="run this on a login node, or cluster=local"
        )
    queue = scheduler.Queue()
    if lock is not None:
        queue = scheduler.ask_queue()
        note_found_arrays(paths, queue)
    elif scheduler.is_there():
        try:
            queue = scheduler.ask_queue()
        except UserError as error:
            print(f"calsweep: {error}; shown as if nothing were queued", file=sys.stderr)
    return next_step(plan, paths, site, queue, **choice)  # type: ignore[arg-type]


def tasks_of(step: Step) -> list[Task]:
    batches = [*step.batches, *([step.analysis] if step.analysis else [])]
    return [task for batch in batches for task in batch.tasks]


def submit(
    step: Step,
    plan: Plan,
    paths: StudyPaths,
    site: Site,
    lock: int,
    options: argparse.Namespace,
    console: Console,
) -> int:
    """Submit a step, after asking a person at a terminal; returns the exit code."""
    count = len(tasks_of(step))
    asks = count and not options.yes and sys.stdin.isatty() and console.is_terminal
    if asks and not Confirm.ask(f"Submit {count} tasks?", console=console, default=True):
        return 130
    submitted: dict[str, str] = {}
    if count:
        outcome = take(step, plan, paths, site, take_snapshot(paths.code).write(), lock=lock)
        submitted = outcome.submitted
        num_tasks = len(set(submitted.values()))
        console.print(
            f"submitted {num_tasks} tasks; this command may end now, the jobs go on", highlight=False
        )
        if outcome.deferred:
            later = "the last job submits them" if outcome.goes_on else "run this command again for them"
            console.print(f"{outcome.deferred} tasks wait for room in the queue; {later}", highlight=False)
    else:
        console.print("nothing to submit", highlight=False)
    console.print(f"  watch: calsweep watch {shown(paths.root)}", highlight=False, soft_wrap=True)
    if options.json:
        print_json({"study": paths.root.name, "folder": str(paths.root), "submitted": submitted})
    return 0


def run_here(
    plan: Plan,
    tasks: Sequence[Task],
    paths: StudyPaths,
    site: Site,
    options: argparse.Namespace,
    console: Console,
) -> int:
    """Run tasks on this machine and print what came out; returns the exit code."""
    outcome = local.Outcome()
    if tasks:
        outcome = local.run(tasks, paths, site, take_snapshot(paths.code).write(), console)
    if paths.tables.is_dir() and not options.json:
        _print_results(plan, paths, console)
    for task, log in outcome.failed:
        if task.kind != "analyse" or len(outcome.failed) == 1:
            why = escape(f"{task.kind} {task.name}: {_why(task, paths)}")
            console.print(f"[red]failed[/] {why}", highlight=False, soft_wrap=True)
            console.print(f"  log: {log}", highlight=False, soft_wrap=True)
    if outcome.skipped:
        console.print(f"[red]{len(outcome.skipped)} tasks not run[/]: what they need failed", highlight=False)
    if options.json:
        failed = [{**_task_json(task), "log": str(log)} for task, log in outcome.failed]
        skipped = [_task_json(task) for task in outcome.skipped]
        print_json(
            {"study": paths.root.name, "folder": str(paths.root), "failed": failed, "skipped": skipped}
        )
    return 1 if outcome.failed or outcome.skipped else 0


def _show(
    grid: Grid,
    plan: Plan,
    tasks: Sequence[Task],
    step: Step | None,
    result: Forecast,
    paths: StudyPaths,
    site: Site,
    options: argparse.Namespace,
    console: Console,
) -> int:
    """The dry run."""
    print_matrix(tasks, console)
    print_forecast(result, console, of_pilot=options.pilot)
    calls = [] if step is None else list(scripts(step, plan, paths, site, take_snapshot(paths.code).folder))
    print_scripts(calls, console)
    if options.json:
        told = [_task_json(task) for task in tasks]
        print_json(
            {
                "study": plan.study,
                "tasks": told,
                "sbatch": [dataclasses.asdict(call) for call in calls],
                "forecast": to_json(result),
            }
        )
    check_budget(result, grid.config.budget)
    return 0


def _check_ranks(plan: Plan, site: Site) -> None:
    """Raise UserError now for what the ranks of a training could not do, instead of hours later."""
    for kind in ("prepare", "train"):
        mine, specs = site.resources[kind], [job.spec for job in plan.of_kind(kind)]
        hypers = [spec.hyper for spec in specs if isinstance(spec, TrainSpec)]
        if not hypers:
            continue
        if 0 < mine.gpus_per_node < mine.tasks_per_node:
            raise UserError(
                f"{mine.tasks_per_node} ranks a node cannot share {mine.gpus_per_node} GPUs",
                where=f"resources.{kind}.gpus_per_node",
                remedy="ask for as many GPUs as tasks_per_node, or for fewer tasks",
            )
        if mine.attention.startswith("flash") and any(hyper.dtype != "bf16" for hyper in hypers):
            raise UserError(
                f"{mine.attention} has no fp32",
                where=f"resources.{kind}.attention",
                remedy="write dtype: bf16, or attention: sdpa",
            )
        smallest = min(hyper.global_batch_size for hyper in hypers)
        if smallest < mine.num_tasks:
            raise UserError(
                f"{mine.num_tasks} ranks cannot share a global batch of {smallest} examples",
                where=f"resources.{kind}",
                remedy="ask for fewer tasks, or raise global_batch_size",
            )


def _print_plan(
    plan: Plan, tasks: Sequence[Task], step: Step | None, paths: StudyPaths, console: Console
) -> None:
    of_kind = Counter(job.kind for job in plan.jobs)
    parts = ", ".join(f"{of_kind[kind]} {kind}" for kind in KINDS if of_kind[kind])
    console.print(f"[bold]{escape(plan.study)}[/]: {len(plan.jobs)} jobs ({parts})", highlight=False)
    left = sum(len(task.jobs) for task in tasks)
    # from markers, not by subtraction: the queue may hold jobs of another grid, and some that are done
    complete = complete_jobs(paths)
    done = sum(job.job_id in complete for job in plan.jobs) if complete else 0
    queued = step.queued.keys() - complete if step is not None else set()
    busy = sum(job.job_id in queued for job in plan.jobs) if queued else 0
    text = f"complete {done}, queued or running {busy}, to do {left} in {len(tasks)} tasks"
    if step is not None and step.deferred:
        text += f"; {step.deferred} tasks wait for room in the queue"
    console.print(text, highlight=False)


def _print_refused(step: Step, console: Console) -> None:
    reasons = Counter(step.refused.values())
    for reason, count in reasons.items():
        console.print(f"[red]{count} jobs are not run again[/]: {escape(reason)}", highlight=False)


def _task_json(task: Task) -> dict[str, object]:
    return {"kind": task.kind, "name": task.name, "jobs": task.job_ids, "needs": sorted(task.needs)}


def _why(task: Task, paths: StudyPaths) -> str:
    """What the task's jobs say of their failure, each sentence once."""
    reports = [paths.job(job_id).failed for job_id in task.job_ids]
    messages = dict.fromkeys(read_json(report)["message"] for report in reports if report.is_file())
    return "; ".join(messages) or "it ended without a word"


def _print_results(plan: Plan, paths: StudyPaths, console: Console) -> None:
    from analysis.terminal.summary import print_summary

    print_summary(paths.root, console)
    if plan.description:
        console.print("\n" + escape(plan.description), highlight=False)
    console.print(f"\ntables     {shown(paths.tables / 'calibration.csv')}", highlight=False, soft_wrap=True)
    console.print(f"dashboard  {shown(paths.dashboard)}", highlight=False, soft_wrap=True)
