"""What became of each job, from its own markers and one squeue call."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher import slurm
from launcher.plan import Plan
from study.files import locked, read_json
from study.job import Job
from study.paths import StudyPaths
from study.specs import EvalSpec

STATES = ("done", "running", "queued", "failed", "blocked", "missing")
STYLE = {
    "done": "green",
    "running": "cyan",
    "queued": "yellow",
    "failed": "bold red",
    "blocked": "red",
    "missing": "dim",
}


@dataclass(frozen=True)
class JobStatus:
    """state: one of STATES; `blocked` waits for a failed job, `missing` was never submitted or got lost."""

    job: Job
    state: str
    task: str | None
    message: str | None


def job_statuses(plan: Plan, paths: StudyPaths) -> list[JobStatus]:
    """The state of every job of the plan, in plan order."""
    queued = slurm.queued_tasks(paths)
    states = slurm.task_states(sorted({task.split("_")[0] for task in queued.values()})) if queued else {}
    result: list[JobStatus] = []
    known: dict[str, str] = {}
    for job in plan.jobs:
        folder, task = paths.job(job.job_id), queued.get(job.job_id)
        message = None
        if folder.done.is_file():
            state = "done"
        elif task is not None:
            state = states.get(task, "queued")
        elif _is_held(paths, job.job_id):
            state = "running"
        elif folder.failed.is_file():
            state, message = "failed", read_json(folder.failed)["message"]
        elif job.kind != "analyse" and any(known[need] in ("failed", "blocked") for need in job.needs):
            state = "blocked"
        else:
            state = "missing"
        known[job.job_id] = state
        result.append(JobStatus(job, state, task, message))
    return result


def _is_held(paths: StudyPaths, job_id: str) -> bool:
    lock = paths.job(job_id).lock
    if not lock.is_file():
        return False
    with locked(lock, wait=False) as free:
        return not free


def status_json(plan: Plan, statuses: list[JobStatus]) -> dict[str, Any]:
    counts = Counter(status.state for status in statuses)
    return {
        "study": plan.study,
        "counts": {state: counts.get(state, 0) for state in STATES},
        "jobs": [
            {
                "job_id": status.job.job_id,
                "kind": status.job.kind,
                "name": status.job.name,
                "cell": dict(status.job.cell),
                "state": status.state,
                "task": status.task,
                "message": status.message,
            }
            for status in statuses
        ],
    }


def print_status(plan: Plan, statuses: list[JobStatus], console: Console) -> None:
    """One line per model: its own job, then the states of its languages."""
    table = Table(title=f"study {escape(plan.study)}", title_justify="left")
    table.add_column("job")
    table.add_column("kind")
    table.add_column("state")
    groups: dict[str, list[JobStatus]] = {}
    for status in statuses:
        spec = status.job.spec
        if isinstance(spec, EvalSpec):
            groups.setdefault(f"{status.job.cell_name} · {spec.benchmark.name}", []).append(status)
        else:
            table.add_row(escape(status.job.name), status.job.kind, f"[{STYLE[status.state]}]{status.state}")
    for name, members in groups.items():
        counts = Counter(member.state for member in members)
        cell = "  ".join(f"[{STYLE[state]}]{counts[state]} {state}[/]" for state in STATES if counts[state])
        table.add_row(escape(name), "evaluate", cell)
    console.print(table)
    total = Counter(status.state for status in statuses)
    console.print(
        "  ".join(f"[{STYLE[s]}]{total[s]} {s}[/]" for s in STATES if total[s]) + f"  of {len(statuses)} jobs"
    )
    failed: dict[str, list[Job]] = {}
    for status in statuses:
        if status.state == "failed":
            failed.setdefault(status.message or "no message", []).append(status.job)
    for message, jobs in failed.items():  # the same sentence once, however many jobs it struck
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        told = escape(f"{jobs[0].kind} {jobs[0].name} ({jobs[0].job_id}){more}: {message}")
        console.print(f"[red]failed[/] {told}", highlight=False, soft_wrap=True)
