"""`calsweep sync`: what jobs logged without a network, uploaded to W&B by the SDK's own `wandb sync`.

That command says that it is done whatever the server took, and appends every row again when it is repeated.
So here the server is asked before and after:

- before, which rows of a run it has, by the time each was logged: only the others are sent, from a copy of
  the run's log in a temporary folder;
- after, whether all rows and files are there and the run has ended: only then the folder is noted in the
  study's `synced.jsonl`, and never looked at again unless it grows.

A job has a folder for each attempt. They go up in their order, the next one when the one before it is there.
Online attempts go with them where the server knows their run: what they could not send in time is sent now.
Whatever is cut off half-way is done by the next sync. Runs of jobs that are queued or running are left for
it, too. Nothing is deleted.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from launcher.commands.upload import Attempt, Remote, Server, lacking, run_sdk, stage
from launcher.state.status import ACTIVE, survey
from study import journal, records
from study.errors import UserError
from study.files import locked
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.paths import JobPaths, StudyPaths
from study.tracking.run_files import RunLog, read_log
from study.tracking.runs import end_service

BATCH_RUNS = 16
LOCK_WAIT_S = 2
"""For the end of what was killed just now."""
SETTLE_S = 5
"""For what a sync that was killed had in the air: the SDK's service outlives it by about 2 s."""
LOOKS, LOOK_AGAIN_S = 4, 2.0
"""A server may take a moment to show what it took."""


@dataclass
class JobRun:
    """One job's run. attempts: those that are not known to be uploaded, oldest first.

    sent: whether anything was sent. num_rows: how many rows the server got. elsewhere: tracked online, but
    not on this server.
    """

    job: Job
    attempts: Sequence[Attempt]
    sent: bool = False
    num_rows: int = 0
    elsewhere: bool = False
    problem: str | None = None

    @property
    def run_id(self) -> str:
        return self.attempts[0].log.run_id


@dataclass
class Outcome:
    """runs: those that were looked at. num_before: how many were uploaded already. waiting: jobs that are
    queued or running. empty: jobs whose logs hold nothing. note: why that is not sure.
    """

    runs: list[JobRun] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    empty: list[Job] = field(default_factory=list)
    num_before: int = 0
    note: str | None = None

    @property
    def uploaded(self) -> list[JobRun]:
        return [run for run in self.runs if run.sent and run.problem is None]

    @property
    def failed(self) -> list[JobRun]:
        return [run for run in self.runs if run.problem is not None]

    @property
    def exit_code(self) -> int:
        return 1 if self.failed else 0


def sync(plan: Plan, paths: StudyPaths, console: Console) -> Outcome:
    """Upload what the study's jobs logged and the server has not.

    Raises UserError when nobody is logged in, the server does not answer, or another sync is at work.
    """
    with locked(paths.sync_lock, wait=LOCK_WAIT_S) as lock:
        if lock is None:
            where = str(paths.root)
            raise UserError("another sync is at work on this study", where=where, remedy="wait for it")
        found, journal = survey(plan, paths, fresh=True), _Journal(paths)
        outcome = Outcome(note=found.look.trouble)
        todo: list[JobRun] = []
        for status in found.statuses:
            folder = paths.job(status.job.job_id)
            files = run_files(folder)
            if status.state in ACTIVE:
                outcome.waiting += [status.job] if files else []
                continue
            lacked = [read_log(file) for file in files if journal.lacks(file)]
            logs = [log for log in lacked if log.run_id]
            if logs:
                todo.append(JobRun(status.job, _attempts(folder, logs)))
            elif len(lacked) < len(files):
                outcome.num_before += 1
            elif files:
                outcome.empty.append(status.job)
        if todo:
            _upload_all(todo, journal, lock, outcome, console)
    return outcome


def run_files(folder: JobPaths) -> list[Path]:
    """The logs of a job's attempts, oldest first, offline and online ones."""
    files = (folder.root / "wandb").glob("*run-*-*/run-*.wandb")
    return sorted(files, key=lambda file: (file.parent.name.removeprefix("offline-"), file.parent.name))


def _attempts(folder: JobPaths, logs: Sequence[RunLog]) -> list[Attempt]:
    """A job's attempts; the last one brings the record files that none of them names."""
    saved = {name for log in logs for name in log.files}
    parts = [path.relative_to(folder.root).as_posix() for path in records.parts(folder.predictions)]
    unsaved = tuple(name for name in parts if name not in saved)
    return [*(Attempt(folder, log) for log in logs[:-1]), Attempt(folder, logs[-1], unsaved)]


def _upload_all(
    todo: Sequence[JobRun], journal: _Journal, lock: int, outcome: Outcome, console: Console
) -> None:
    try:
        server = Server()
        if journal.was_cut_off:
            time.sleep(SETTLE_S)
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            bar = progress.add_task("uploading runs", total=len(todo))
            for place, batch in _batches(todo, server):
                remotes = server.look(place, [run.run_id for run in batch])
                for number in range(max(len(run.attempts) for run in batch)):
                    left = [run for run in batch if number < len(run.attempts) and run.problem is None]
                    remotes |= _upload_one_each(left, number, place, remotes, server, journal, lock)
                outcome.runs += batch
                progress.advance(bar, len(batch))
    finally:
        end_service()
    outcome.num_before += sum(not run.sent and not run.elsewhere for run in outcome.runs)


def _batches(todo: Iterable[JobRun], server: Server) -> Iterator[tuple[str, list[JobRun]]]:
    """Runs of one project, a few at a time: one start of the SDK for all of them."""
    by_place: dict[str, list[JobRun]] = {}
    for run in todo:
        by_place.setdefault(server.place(run.attempts[0].log), []).append(run)
    for place, runs in by_place.items():
        for start in range(0, len(runs), BATCH_RUNS):
            yield place, runs[start : start + BATCH_RUNS]


def _upload_one_each(
    runs: Sequence[JobRun],
    number: int,
    place: str,
    before: dict[str, Remote],
    server: Server,
    journal: _Journal,
    lock: int,
) -> dict[str, Remote]:
    """Upload attempt `number` of some runs of one project; returns what the server then has of them."""
    with tempfile.TemporaryDirectory(prefix="calsweep-sync-") as scratch:
        staged: list[tuple[JobRun, Attempt]] = []
        for run in runs:
            attempt, remote = run.attempts[number], before.get(run.run_id)
            if remote is None and all(other.online for other in run.attempts):
                run.elsewhere = True
            elif not run.sent and lacking(attempt, remote) is None:
                journal.done(attempt.log, place)
            else:
                # what follows an attempt that was sent goes again: it has the last word on the summary
                stage(attempt, remote, Path(scratch, f"{len(staged):03d}"))
                run.sent = True
                staged.append((run, attempt))
        if not staged:
            return {}
        journal.begin([attempt.log for _, attempt in staged])
        complaint = run_sdk(Path(scratch), lock)
    after = _look_until_there(server, place, staged)
    for run, attempt in staged:
        remote = after.get(run.run_id)
        run.problem = lacking(attempt, remote)
        if remote is None or run.problem is not None:
            run.problem = f"{run.problem} ({complaint})" if complaint else run.problem
            continue
        known = before[run.run_id].rows if run.run_id in before else Counter[float]()
        run.num_rows += (remote.rows - known).total()
        journal.done(attempt.log, place)
    return after


def _look_until_there(
    server: Server, place: str, staged: Sequence[tuple[JobRun, Attempt]]
) -> dict[str, Remote]:
    run_ids = [run.run_id for run, _ in staged]
    for _ in range(LOOKS - 1):
        found = server.look(place, run_ids)
        if not any(lacking(attempt, found.get(run.run_id)) for run, attempt in staged):
            return found
        time.sleep(LOOK_AGAIN_S)
    return server.look(place, run_ids)


def print_outcome(outcome: Outcome, console: Console) -> None:
    """What was uploaded, what was not and why, what is left for later."""
    if outcome.note is not None:
        console.print(f"{outcome.note}; which jobs still run is not sure", style="yellow", highlight=False)
    for run in outcome.failed:
        console.print(
            f"{run.job.job_id}  {run.job.name}: {run.problem}", soft_wrap=True, highlight=False, markup=False
        )
    rows = sum(run.num_rows for run in outcome.uploaded)
    told = [f"uploaded {_runs(outcome.uploaded)} ({rows} rows)" if outcome.uploaded else "nothing to upload"]
    told += [f"{outcome.num_before} were uploaded before"] if outcome.num_before else []
    elsewhere = sum(run.elsewhere for run in outcome.runs)
    told += [f"{elsewhere} tracked online, not on this server"] if elsewhere else []
    told += [f"{len(outcome.waiting)} left for later: their jobs are not over"] if outcome.waiting else []
    told += [f"{len(outcome.empty)} whose logs hold nothing"] if outcome.empty else []
    told += [f"{_runs(outcome.failed)} not complete: sync again"] if outcome.failed else []
    console.print("; ".join(told), soft_wrap=True, highlight=False)


def _runs(runs: Sequence[JobRun]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def sync_json(outcome: Outcome) -> dict[str, Any]:
    def told(run: JobRun) -> dict[str, Any]:
        return {"job_id": run.job.job_id, "name": run.job.name, "num_rows": run.num_rows}

    return {
        "uploaded": [told(run) for run in outcome.uploaded],
        "failed": [{**told(run), "message": run.problem} for run in outcome.failed],
        "waiting": [job.job_id for job in outcome.waiting],
        "elsewhere": [run.job.job_id for run in outcome.runs if run.elsewhere],
        "empty": [job.job_id for job in outcome.empty],
        "num_before": outcome.num_before,
        "note": outcome.note,
    }


class _Journal:
    """`synced.jsonl`: a line when folders are about to be uploaded, and one for each that the server has."""

    def __init__(self, paths: StudyPaths) -> None:
        self._root, self._file = paths.root, paths.synced
        self._sizes: dict[str, int] = {}
        begun: set[str] = set()
        for entry in journal.read(self._file):
            if "begin" in entry:
                begun.update(entry["begin"])
            else:
                self._sizes[entry["done"]] = entry["bytes"]
        self.was_cut_off = bool(begun - self._sizes.keys())

    def lacks(self, file: Path) -> bool:
        return self._sizes.get(self._name(file)) != file.stat().st_size

    def begin(self, logs: Iterable[RunLog]) -> None:
        self._write({"begin": [self._name(log.path) for log in logs]})

    def done(self, log: RunLog, place: str) -> None:
        # the SDK's own mark: a `wandb sync` by hand shall not send it again
        log.path.with_name(f"{log.path.name}.synced").touch()
        size = log.path.stat().st_size
        self._write({"done": self._name(log.path), "bytes": size, "rows": len(log.rows), "to": place})

    def _name(self, file: Path) -> str:
        return str(file.parent.relative_to(self._root))

    def _write(self, entry: dict[str, Any]) -> None:
        journal.append(self._file, {"time": round(time.time(), 3), **entry})
