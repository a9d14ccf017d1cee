"""Tasks on this machine through submitit's local executor: as many side by side as there are cores."""

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
from launcher.cluster.diagnosis import write_down
from launcher.cluster.execution import decide, write_execution
from launcher.job.causes import Execution
from launcher.job.work import run_job
from launcher.planning.sites import Site
from launcher.planning.tasks import Task
from study.files import read_json
from study.jobs.job import Job
from study.jobs.plan import write_specs
from study.jobs.resources import Resources
from study.paths import StudyPaths

POLL_S = 0.2
# `time_min` is what a cluster is asked for; a laptop takes the time it takes
NO_LIMIT_MIN = 60 * 24 * 365


@dataclass
class Outcome:
    """failed: task and the log to read. skipped: tasks whose needs failed."""

    failed: list[tuple[Task, Path]] = field(default_factory=list)
    skipped: list[Task] = field(default_factory=list)


def run(tasks: Sequence[Task], paths: StudyPaths, site: Site, code: Path, console: Console) -> Outcome:
    """Run tasks in the foreground, each as soon as its needs are complete and cores are free.

    A task that failed in a way which another try may mend is run again, as on a cluster. An interrupt ends
    what runs and is raised again; nothing complete is lost.
    """
    waiting, outcome = list(tasks), Outcome()
    running: list[_Running] = []
    cores = len(os.sched_getaffinity(0))
    _prepare(tasks, paths, site)
    with _view(console, tasks, paths) as show, _in_snapshot(code):
        try:
            while waiting or running:
                for task in [task for task in waiting if _is_blocked(task, waiting, running, paths)]:
                    waiting.remove(task)
                    outcome.skipped.append(task)
                for task in [task for task in waiting if _is_ready(task, waiting, running, paths)]:
                    if _fits(task, running, site.resources, cores):
                        waiting.remove(task)
                        running.append(_start(task, paths, site.resources[task.kind]))
                time.sleep(POLL_S)
                for entry in [entry for entry in running if entry.job.done()]:
                    running.remove(entry)
                    left = _unfinished_jobs(entry.task, paths)
                    if left and (again := _again(entry, left, paths, site)):
                        console.print(f"  once more: {escape(again.name)}", highlight=False)
                        waiting.append(again)
                    elif left:
                        outcome.failed.append((entry.task, Path(entry.job.paths.stderr)))
                show(running, outcome)
        except BaseException:
            for entry in running:
                _kill(entry)
            raise
    return outcome


@dataclass
class _Running:
    task: Task
    job: Any  # submitit.LocalJob


def _prepare(tasks: Sequence[Task], paths: StudyPaths, site: Site) -> None:
    jobs = [job for task in tasks for job in task.jobs]
    write_specs(jobs, paths)
    for job in jobs:
        folder = paths.job(job.job_id)
        decided = decide(job, folder, site, {}, automatic=False)
        # what has no remedy left is run as asked: here a person waits for it, and nothing is queued for
        execution = Execution(site.resources[job.kind]) if isinstance(decided, str) else decided
        write_execution(folder, execution, site)


def _unfinished_jobs(task: Task, paths: StudyPaths) -> list[Job]:
    return [job for job in task.jobs if not paths.job(job.job_id).done.is_file()]


def _again(entry: _Running, left: Sequence[Job], paths: StudyPaths, site: Site) -> Task | None:
    """The task with what is left of it, to be run once more; None when that cannot help."""
    if entry.task.kind == "analyse":
        return None
    name = str(entry.job.job_id)
    decisions = []
    for job in left:
        write_down(paths.job(job.job_id), name, name)
        decisions.append(decide(job, paths.job(job.job_id), site, {}, automatic=True))
    for job, decided in zip(left, decisions, strict=True):
        if isinstance(decided, str):
            return None
        write_execution(paths.job(job.job_id), decided, site)
    return Task(entry.task.kind, tuple(left), entry.task.needs)


def _start(task: Task, paths: StudyPaths, resources: Resources) -> _Running:
    from submitit import LocalExecutor

    number = ledger.next_number(ledger.read(paths.ledger))
    executor = LocalExecutor(folder=paths.submission(number) / "%j")
    executor.update_parameters(
        timeout_min=NO_LIMIT_MIN,
        tasks_per_node=resources.num_tasks,
        gpus_per_node=resources.gpus_per_node,
    )
    entry = ledger.new_intent(number, task.kind, "local", [task.job_ids])
    ledger.write_intent(paths.ledger, entry)
    # the terminal sends an interrupt to every process in it: jobs leave it to the launcher, which ends them
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job = executor.submit(run_job, str(paths.root), *task.job_ids)
    finally:
        signal.signal(signal.SIGINT, before)
    ledger.write_array(paths.ledger, entry, str(job.job_id))
    return _Running(task, job)


def _kill(entry: _Running) -> None:
    """End a task and everything it started; what it has finished stays."""
    with contextlib.suppress(psutil.NoSuchProcess):
        controller = psutil.Process(int(entry.job.job_id))
        processes = [controller, *controller.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=15)


def _fits(task: Task, running: Sequence[_Running], resources: Mapping[str, Resources], cores: int) -> bool:
    """Whether cores are free; and GPUs, which tasks take in turn: submitit gives each the first ones."""
    asks = [resources[entry.task.kind] for entry in running]
    mine = resources[task.kind]
    if mine.gpus_per_node and any(other.gpus_per_node for other in asks):
        return False
    used = sum(other.num_tasks * other.cpus_per_task for other in asks)
    return not running or used + mine.num_tasks * mine.cpus_per_task <= cores


def _unfinished(waiting: Sequence[Task], running: Sequence[_Running]) -> set[str]:
    return {job_id for task in (*waiting, *(entry.task for entry in running)) for job_id in task.job_ids}


def _is_ready(task: Task, waiting: Sequence[Task], running: Sequence[_Running], paths: StudyPaths) -> bool:
    if task.kind == "analyse":  # runs over whatever the others left
        return not task.needs & _unfinished(waiting, running)
    return all(paths.job(need).done.is_file() for need in task.needs)


def _is_blocked(task: Task, waiting: Sequence[Task], running: Sequence[_Running], paths: StudyPaths) -> bool:
    """Whether something it needs has ended without being complete."""
    ended = task.needs - _unfinished(waiting, running)
    return task.kind != "analyse" and any(not paths.job(need).done.is_file() for need in ended)


@contextlib.contextmanager
def _in_snapshot(code: Path) -> Iterator[None]:
    """Start processes in the snapshot: `python -m` puts the working directory first on their path."""
    before = {key: os.environ.get(key) for key in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), before["PYTHONPATH"]]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tasks run side by side: their threads would only fight
    with contextlib.chdir(code):
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


Show = Callable[[Sequence[_Running], Outcome], None]


@contextlib.contextmanager
def _view(console: Console, tasks: Sequence[Task], paths: StudyPaths) -> Iterator[Show]:
    """A bar over all tasks and one for each running task; plain lines when this is not a terminal."""
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

        def show(running: Sequence[_Running], outcome: Outcome) -> None:
            alive = {entry.job.job_id: entry.task for entry in running}
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
    told: set[str] = set()
    begin = time.monotonic()

    def show(running: Sequence[_Running], outcome: Outcome) -> None:
        for entry in running:
            if entry.job.job_id not in told:
                told.add(entry.job.job_id)
                now = time.monotonic() - begin
                console.print(
                    f"{now:6.0f} s  {len(told)}/{len(tasks)}  {entry.task.kind:8} {entry.task.name}",
                    highlight=False,
                    soft_wrap=True,
                )

    return show


def _progress(task: Task, paths: StudyPaths) -> tuple[int, int | None]:
    done, of = 0, 0
    for job_id in task.job_ids:
        file = paths.job(job_id).progress
        if file.is_file():
            state = read_json(file)
            done, of = done + state["done"], of + state["total"]
    return done, of or None
