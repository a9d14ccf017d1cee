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

from launcher import local, slurm
from launcher.cluster import Site, load_site
from launcher.plan import Plan, build_plan, write_plan
from launcher.snapshot import take_snapshot
from launcher.tasks import Task, by_need, missing_tasks
from launcher.terminal import make_console, print_json, shown
from study.config import Grid, load_grid
from study.errors import UserError
from study.files import locked, read_json, write_json
from study.job import KINDS
from study.paths import StudyPaths
from study.specs import TrainSpec, accumulation_steps


def sweep(options: argparse.Namespace) -> int:
    """Submit what is missing of a grid, and only that; on this machine, run it and print the tables."""
    grid = load_grid(options.grid, options.overrides)
    plan, site, paths = build_plan(grid), load_site(grid), StudyPaths(grid.study_dir)
    _check_batches(plan, site)
    console = make_console(stderr=options.json)
    with nullcontext(True) if options.dry_run else locked(paths.lock, wait=False) as free:
        if not free:
            raise UserError(
                "another launcher is at work on this study", where=str(paths.root), remedy="wait for it"
            )
        if not options.dry_run:
            write_plan(plan, grid, paths)
        busy = slurm.queued_tasks(paths)
        pack = grid.config.evaluate.languages_per_task
        tasks = missing_tasks(plan, paths, pack, busy)
        stale = {job.job_id for job in plan.of_kind("analyse")} & busy.keys() if tasks else set()
        if stale:  # the analysis in the queue waits for less than there is to do now
            if not options.dry_run:
                slurm.cancel([busy[job_id] for job_id in stale])
            tasks = missing_tasks(plan, paths, pack, busy.keys() - stale)
        _print_plan(plan, tasks, paths, console)
        if options.dry_run:
            _dry_run(tasks, paths, site, console)
            if options.json:
                print_json({"study": plan.study, "tasks": [_task_json(task) for task in tasks]})
            return 0
        _write_executions(tasks, grid, site, paths)
        if site.profile is None:
            return _run_here(plan, tasks, paths, site, options, console)
        return _submit(tasks, paths, site, options, console)


def _check_batches(plan: Plan, site: Site) -> None:
    """Raise UserError now for a batch that the ranks could not share out, instead of hours later."""
    for job in plan.jobs:
        if isinstance(job.spec, TrainSpec):
            mine = site.resources[job.kind]
            try:
                accumulation_steps(job.spec.hyper.global_batch_size, mine.micro_batch_size, mine.num_tasks)
            except UserError as error:
                raise UserError(
                    error.what, where=f"resources.{job.kind}.{error.where}", remedy=error.remedy
                ) from None


def _print_plan(plan: Plan, tasks: Sequence[Task], paths: StudyPaths, console: Console) -> None:
    of_kind = Counter(job.kind for job in plan.jobs)
    left = Counter(job.kind for task in tasks for job in task.jobs)
    done = sum(paths.job(job.job_id).done.is_file() for job in plan.jobs)
    busy = len(plan.jobs) - sum(left.values()) - done
    parts = ", ".join(f"{of_kind[kind]} {kind}" for kind in KINDS if of_kind[kind])
    console.print(f"[bold]{escape(plan.study)}[/]: {len(plan.jobs)} jobs ({parts})", highlight=False)
    console.print(
        f"complete {done}, queued or running {busy}, to do {sum(left.values())} in {len(tasks)} tasks",
        highlight=False,
    )


def _dry_run(tasks: Sequence[Task], paths: StudyPaths, site: Site, console: Console) -> None:
    for task in tasks:
        console.print(f"  {task.kind:8} {escape(task.name)}", highlight=False)
    if site.profile is None:
        return
    from submitit.slurm.slurm import _make_sbatch_string

    code = paths.code / "<code hash>"
    for kind in KINDS:
        arrays = by_need([task for task in tasks if task.kind == kind], lambda needs: " ".join(sorted(needs)))
        # one script of those that wait and one of those that do not stand for all
        for waits, group in {bool(needs): group for needs, group in reversed(arrays)}.items():
            condition = "afterany:<evaluations>" if kind == "analyse" else "afterok:<task>"
            dependency = condition if waits else ""
            values = slurm.parameters(
                kind, group[0], dependency, paths, site.profile, site.resources[kind], code
            )
            text = _make_sbatch_string(
                command="python -u -m submitit.core._submit ...",
                folder=paths.submissions / "<number>" / "%j",
                map_count=len(group) if len(group) > 1 else None,
                **values,
            )
            alike = sum(bool(needs) == waits for needs, _ in arrays)
            console.print(f"\n# {kind}: {alike} submissions like this one", highlight=False)
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _task_json(task: Task) -> dict[str, object]:
    return {"kind": task.kind, "name": task.name, "jobs": task.job_ids, "needs": sorted(task.needs)}


def _write_executions(tasks: Sequence[Task], grid: Grid, site: Site, paths: StudyPaths) -> None:
    tracking = dataclasses.asdict(grid.config.tracking)
    for task in tasks:
        resources = dataclasses.asdict(site.resources[task.kind])
        for job_id in task.job_ids:
            write_json(paths.job(job_id).execution, {"resources": resources, "tracking": tracking})


def _run_here(
    plan: Plan,
    tasks: Sequence[Task],
    paths: StudyPaths,
    site: Site,
    options: argparse.Namespace,
    console: Console,
) -> int:
    outcome = local.Outcome()
    if tasks:
        outcome = local.run(tasks, paths, site.resources, take_snapshot(paths.code), console)
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


def _why(task: Task, paths: StudyPaths) -> str:
    """What the task's jobs say of their failure, each sentence once."""
    reports = [paths.job(job_id).failed for job_id in task.job_ids]
    messages = dict.fromkeys(read_json(report)["message"] for report in reports if report.is_file())
    return "; ".join(messages) or "it ended without a word"


def _print_results(plan: Plan, paths: StudyPaths, console: Console) -> None:
    from analysis.tables import print_summary

    print_summary(paths.root, console)
    if plan.description:
        console.print("\n" + escape(plan.description), highlight=False)
    console.print(f"\ntables     {shown(paths.tables / 'calibration.csv')}", highlight=False, soft_wrap=True)
    console.print(f"dashboard  {shown(paths.dashboard)}", highlight=False, soft_wrap=True)


def _submit(
    tasks: Sequence[Task], paths: StudyPaths, site: Site, options: argparse.Namespace, console: Console
) -> int:
    asks = tasks and not options.yes and sys.stdin.isatty() and console.is_terminal
    if asks and not Confirm.ask(f"Submit {len(tasks)} tasks?", console=console, default=True):
        return 130
    placed: dict[str, str] = {}
    if tasks:
        slurm.clean_environment()
        placed = slurm.submit(tasks, paths, site, take_snapshot(paths.code))
        console.print(
            f"submitted {len(tasks)} tasks; this command may end now, the jobs go on", highlight=False
        )
    else:
        console.print("nothing to submit", highlight=False)
    console.print(f"  watch: calsweep status {shown(paths.root)}", highlight=False, soft_wrap=True)
    if options.json:
        print_json({"study": paths.root.name, "folder": str(paths.root), "submitted": placed})
    return 0
