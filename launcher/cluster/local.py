"""Run tasks on this machine through submitit's local executor, as many at a time as the cores allow."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from launcher.cluster import ledger
from launcher.cluster.endings import record_failure
from launcher.cluster.execution import decide, write_execution
from launcher.job.causes import Execution
from launcher.job.work import run_job
from launcher.planning.sites import LocalSite
from launcher.planning.tasks import Task
from study.files import read_json
from study.jobs.job import Job
from study.jobs.plan import write_specs
from study.jobs.resources import Resources
from study.paths import StudyPaths

POLL_S = 0.2
NO_LIMIT_MIN = 60 * 24 * 365
"""submitit wants a limit; `time_min` is a request to a cluster, and does not apply here."""


@dataclass
class LocalResult:
    """failed: tasks, each with the log to read. skipped: tasks whose needs failed."""

    failed: list[tuple[Task, Path]] = field(default_factory=list)
    skipped: list[Task] = field(default_factory=list)


def run(
    tasks: Sequence[Task], paths: StudyPaths, site: LocalSite, code: Path, console: Console
) -> LocalResult:
    """Run tasks in the foreground, each as soon as its needs are complete and cores are free.

    code: the snapshot that they run from. A failed task with a remedy is started again, as on a cluster. An
    interrupt ends the running tasks and is raised again; nothing complete is lost.
    """
    waiting, result = list(tasks), LocalResult()
    running: list[_Running] = []
    cores = len(os.sched_getaffinity(0))
    _prepare(tasks, paths, site)
    # tasks run at the same time, and their threads would share the cores
    with _view(console, tasks, paths) as show, children_import_from(code, OMP_NUM_THREADS="1"):
        try:
            while waiting or running:
                for task in [task for task in waiting if _is_blocked(task, waiting, running, paths)]:
                    waiting.remove(task)
                    result.skipped.append(task)
                for task in [task for task in waiting if _is_ready(task, waiting, running, paths)]:
                    if _fits(task, running, site.resources, cores):
                        waiting.remove(task)
                        running.append(_start(task, paths, site.resources[task.kind]))
                time.sleep(POLL_S)
                for ended in [each for each in running if each.job.done()]:
                    running.remove(ended)
                    unfinished = [j for j in ended.task.jobs if not paths.job(j.job_id).done.is_file()]
                    if unfinished and (retried := _retry_task(ended, unfinished, paths, site)):
                        console.print(f"  retried: {escape(retried.name)}")
                        waiting.append(retried)
                    elif unfinished:
                        result.failed.append((ended.task, Path(ended.job.paths.stderr)))
                show(running)
        except BaseException:
            for each in running:
                _kill(each)
            raise
    return result


@dataclass
class _Running:
    task: Task
    job: Any  # submitit.LocalJob


def _prepare(tasks: Sequence[Task], paths: StudyPaths, site: LocalSite) -> None:
    jobs = [job for task in tasks for job in task.jobs]
    write_specs(jobs, paths)
    for job in jobs:
        folder = paths.job(job.job_id)
        decision = decide(job, folder, site, {}, automatic=False)
        # without a remedy it runs as requested: the user asked for it, and waits for nothing in a queue
        execution = Execution(site.resources[job.kind]) if isinstance(decision, str) else decision
        write_execution(folder, execution, site)


def _retry_task(
    ended: _Running, unfinished: Sequence[Job], paths: StudyPaths, site: LocalSite
) -> Task | None:
    """A task for the unfinished jobs of one that ended; None when another try cannot help."""
    if ended.task.kind == "analyse":
        return None
    name = str(ended.job.job_id)
    decisions = []
    for job in unfinished:
        record_failure(paths.job(job.job_id), name, name)
        decisions.append(decide(job, paths.job(job.job_id), site, {}, automatic=True))
    for job, decision in zip(unfinished, decisions, strict=True):
        if isinstance(decision, str):
            return None
        write_execution(paths.job(job.job_id), decision, site)
    return Task(ended.task.kind, tuple(unfinished), ended.task.needs)


def _start(task: Task, paths: StudyPaths, resources: Resources) -> _Running:
    from submitit import LocalExecutor

    submission = ledger.write_intent(paths.ledger, task.kind, "local", [task.job_ids])
    executor = LocalExecutor(folder=paths.submission(submission.number) / "%j")
    executor.update_parameters(
        timeout_min=NO_LIMIT_MIN,
        tasks_per_node=resources.num_tasks,
        gpus_per_node=resources.gpus_per_node,
    )
    # a terminal interrupts all of its processes: jobs ignore that, and the launcher ends them
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job = executor.submit(run_job, str(paths.root), *task.job_ids)
    finally:
        signal.signal(signal.SIGINT, before)
    ledger.write_array(paths.ledger, submission, str(job.job_id))
    return _Running(task, job)


def _kill(running: _Running) -> None:
    """Kill a task and every process it started; jobs that it has completed stay complete."""
    with contextlib.suppress(psutil.NoSuchProcess):
        controller = psutil.Process(int(running.job.job_id))
        processes = [controller, *controller.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=15)


def _fits(task: Task, running: Sequence[_Running], resources: Mapping[str, Resources], cores: int) -> bool:
    """Whether cores are free, and no other task uses GPUs: submitit gives every task the first ones."""
    used = [resources[each.task.kind] for each in running]
    needed = resources[task.kind]
    if needed.gpus_per_node and any(each.gpus_per_node for each in used):
        return False
    busy = sum(each.num_tasks * each.cpus_per_task for each in used)
    return not running or busy + needed.num_tasks * needed.cpus_per_task <= cores


def _unfinished(waiting: Sequence[Task], running: Sequence[_Running]) -> set[str]:
    return {job_id for task in (*waiting, *(each.task for each in running)) for job_id in task.job_ids}


def _is_ready(task: Task, waiting: Sequence[Task], running: Sequence[_Running], paths: StudyPaths) -> bool:
    if task.kind == "analyse":  # it runs even if some of its needs failed
        return not task.needs & _unfinished(waiting, running)
    return all(paths.job(need).done.is_file() for need in task.needs)


def _is_blocked(task: Task, waiting: Sequence[Task], running: Sequence[_Running], paths: StudyPaths) -> bool:
    """Whether a job that it needs has ended without being complete."""
    ended = task.needs - _unfinished(waiting, running)
    return task.kind != "analyse" and any(not paths.job(need).done.is_file() for need in ended)


@contextlib.contextmanager
def children_import_from(code: Path, **defaults: str) -> Iterator[None]:
    """Make child processes start in `code` and import from it first, whatever the user's directory holds.

    defaults: environment variables for them, where the user has not set these.
    """
    before = {key: os.environ.get(key) for key in ("PYTHONPATH", *defaults)}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), before["PYTHONPATH"]]))
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    with contextlib.chdir(code):
        try:
            yield
        finally:
            for key, old in before.items():
                if old is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = old


Show = Callable[[Sequence[_Running]], None]


@contextlib.contextmanager
def _view(console: Console, tasks: Sequence[Task], paths: StudyPaths) -> Iterator[Show]:
    """Show a bar over all tasks and one for each running task; on anything but a terminal, plain lines."""
    if not console.is_terminal:
        yield _plain_view(console, tasks)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        total = progress.add_task("[bold]tasks", total=len(tasks))
        bars: dict[str, Any] = {}

        def show(running: Sequence[_Running]) -> None:
            alive = {each.job.job_id: each.task for each in running}
            for key in [key for key in bars if key not in alive]:
                progress.remove_task(bars.pop(key))
            for key, task in alive.items():
                done, of = _progress(task, paths)
                if key not in bars:
                    bars[key] = progress.add_task(f"{task.kind:8} {task.name}")
                progress.update(bars[key], completed=done, total=of)
            left = sum(any(not paths.job(j).done.is_file() for j in task.job_ids) for task in tasks)
            progress.update(total, completed=len(tasks) - left)

        yield show


def _plain_view(console: Console, tasks: Sequence[Task]) -> Show:
    shown: set[str] = set()
    begin = time.monotonic()

    def show(running: Sequence[_Running]) -> None:
        for each in running:
            if each.job.job_id not in shown:
                shown.add(each.job.job_id)
                now = time.monotonic() - begin
                line = f"{now:6.0f} s  {len(shown)}/{len(tasks)}  {each.task.kind:8} {each.task.name}"
                console.print(line, soft_wrap=True)

    return show


def _progress(task: Task, paths: StudyPaths) -> tuple[int, int | None]:
    done, of = 0, 0
    for job_id in task.job_ids:
        file = paths.job(job_id).progress
        if file.is_file():
            state = read_json(file)
            done, of = done + state["done"], of + state["total"]
    return done, of or None
