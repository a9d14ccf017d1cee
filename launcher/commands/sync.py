"""`calsweep sync`: upload to W&B what jobs logged without a network, with the SDK's own `wandb sync`.

That command reports success whatever the server accepted, and appends every row again when it is repeated.
So the server is queried before and after it:

- before: which rows of a run it has, by the time each was logged; only the others are sent, from a copy of
  the run's log in a temporary folder;
- after: whether all rows and files are there and the run has ended; only then is the folder noted in the
  study's `synced.jsonl`, and skipped from then on unless it grows.

A job has a run folder for each attempt. They are uploaded in order, each once the one before is complete.
Online attempts are included if the server knows their run: rows that they could not send in time are sent
now. The next sync completes what an interrupted one has not, and uploads the runs of jobs that are still
queued or running. Nothing is deleted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from launcher.state.lookup import add_study_arguments, open_study
from launcher.state.status import ACTIVE, survey_of
from study import journal, records
from study.errors import UserError
from study.files import locked
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.paths import JobPaths, StudyPaths
from study.terminal import make_console, print_json
from study.tracking.run_files import RunLog, read_log
from study.tracking.runs import end_service
from study.tracking.upload import Remote, RunFolder, Server, missing_on, run_sdk, stage

BATCH_RUNS = 16
LOCK_WAIT_S = 2
"""For the SDK's processes, which hold the lock until they end after a sync was killed."""
SETTLE_S = 5
"""For the uploads of a killed sync: the SDK's service outlives it by about 2 s."""
LOOKS, LOOK_AGAIN_S = 4, 2.0
"""A server may take a moment to show what it has accepted."""


@dataclass
class JobRun:
    """One job's W&B run. folders: one for each attempt, those not known to be uploaded, oldest first.

    sent: whether anything was sent. num_rows: how many rows the server received. elsewhere: it was tracked
    online, but not on this server. problem: why it is not complete.
    """

    job: Job
    folders: Sequence[RunFolder]
    sent: bool = False
    num_rows: int = 0
    elsewhere: bool = False
    problem: str | None = None

    @property
    def run_id(self) -> str:
        return self.folders[0].log.run_id


@dataclass
class SyncResult:
    """runs: those that were examined. num_before: how many were uploaded already. waiting: jobs that are
    queued or running. empty: jobs with empty logs. note: why the states of jobs may be out of date.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)


def run(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    result = sync(plan, paths, make_console(stderr=options.json))
    if options.json:
        print_json(sync_json(result))
    else:
        print_result(result, make_console())
    return result.exit_code


def sync(plan: Plan, paths: StudyPaths, console: Console) -> SyncResult:
    """Upload what the study's jobs logged and the server does not have.

    Raises UserError when the user is not logged in, the server does not answer, or another sync is running.
    """
    with locked(paths.sync_lock, wait=LOCK_WAIT_S) as lock:
        if lock is None:
            raise UserError(
                "another sync of this study is running",
                where=str(paths.root),
                remedy="wait until it has finished",
            )
        survey, uploads = survey_of(plan, paths, fresh=True), _Uploads(paths)
        result = SyncResult(note=survey.view.trouble)
        to_upload: list[JobRun] = []
        for status in survey.statuses:
            folder = paths.job(status.job.job_id)
            files = run_files(folder)
            if status.state in ACTIVE:
                result.waiting += [status.job] if files else []
                continue
            new = [read_log(file) for file in files if not uploads.has(file)]
            logs = [log for log in new if log.run_id]
            if logs:
                to_upload.append(JobRun(status.job, _run_folders(folder, logs)))
            elif len(new) < len(files):
                result.num_before += 1
            elif files:
                result.empty.append(status.job)
        if to_upload:
            _upload_all(to_upload, uploads, lock, result, console)
    return result


def run_files(folder: JobPaths) -> list[Path]:
    """The logs of a job's attempts, oldest first, offline and online ones."""
    files = (folder.root / "wandb").glob("*run-*-*/run-*.wandb")
    return sorted(files, key=lambda file: (file.parent.name.removeprefix("offline-"), file.parent.name))


def _run_folders(folder: JobPaths, logs: Sequence[RunLog]) -> list[RunFolder]:
    """The run folder of each log; the last one gets the record files that no log names."""
    saved = {name for log in logs for name in log.files}
    parts = [path.relative_to(folder.root).as_posix() for path in records.parts(folder.predictions)]
    unsaved = tuple(name for name in parts if name not in saved)
    return [*(RunFolder(folder, log) for log in logs[:-1]), RunFolder(folder, logs[-1], unsaved)]


def _upload_all(
    to_upload: Sequence[JobRun], uploads: _Uploads, lock: int, result: SyncResult, console: Console
) -> None:
    try:
        server = Server()
        if uploads.interrupted:
            time.sleep(SETTLE_S)
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            bar = progress.add_task("uploading runs", total=len(to_upload))
            for place, batch in _batches(to_upload, server):
                remotes = server.look(place, [run.run_id for run in batch])
                for number in range(max(len(run.folders) for run in batch)):
                    left = [run for run in batch if number < len(run.folders) and run.problem is None]
                    remotes |= _upload_one_each(left, number, place, remotes, server, uploads, lock)
                result.runs += batch
                progress.advance(bar, len(batch))
    finally:
        end_service()
    result.num_before += sum(not run.sent and not run.elsewhere for run in result.runs)


def _batches(to_upload: Iterable[JobRun], server: Server) -> Iterator[tuple[str, list[JobRun]]]:
    """Runs of one project, a few at a time, so that the SDK starts once for all of them."""
    by_place: dict[str, list[JobRun]] = {}
    for run in to_upload:
        by_place.setdefault(server.place(run.folders[0].log), []).append(run)
    for place, runs in by_place.items():
        for start in range(0, len(runs), BATCH_RUNS):
            yield place, runs[start : start + BATCH_RUNS]


def _upload_one_each(
    runs: Sequence[JobRun],
    number: int,
    place: str,
    before: dict[str, Remote],
    server: Server,
    uploads: _Uploads,
    lock: int,
) -> dict[str, Remote]:
    """Upload folder `number` of some runs of one project; returns what the server then has of these runs."""
    with tempfile.TemporaryDirectory(prefix="calsweep-sync-") as scratch:
        staged: list[tuple[JobRun, RunFolder]] = []
        for run in runs:
            folder, remote = run.folders[number], before.get(run.run_id)
            if remote is None and all(each.online for each in run.folders):
                run.elsewhere = True
            elif not run.sent and missing_on(remote, folder) is None:
                uploads.done(folder.log, place)
            else:
                # after a sent folder the later ones are sent again, since the last one sets the summary
                stage(folder, remote, Path(scratch, f"{len(staged):03d}"))
                run.sent = True
                staged.append((run, folder))
        if not staged:
            return {}
        uploads.begin([folder.log for _, folder in staged])
        error = run_sdk(Path(scratch), lock)
    after = _look_until_there(server, place, staged)
    for run, folder in staged:
        remote = after.get(run.run_id)
        run.problem = missing_on(remote, folder)
        if remote is None or run.problem is not None:
            run.problem = f"{run.problem} ({error})" if error else run.problem
            continue
        known = before[run.run_id].rows if run.run_id in before else Counter[float]()
        run.num_rows += (remote.rows - known).total()
        uploads.done(folder.log, place)
    return after


def _look_until_there(
    server: Server, place: str, staged: Sequence[tuple[JobRun, RunFolder]]
) -> dict[str, Remote]:
    run_ids = [run.run_id for run, _ in staged]
    for _ in range(LOOKS - 1):
        remotes = server.look(place, run_ids)
        if not any(missing_on(remotes.get(run.run_id), folder) for run, folder in staged):
            return remotes
        time.sleep(LOOK_AGAIN_S)
    return server.look(place, run_ids)


def print_result(result: SyncResult, console: Console) -> None:
    """What was uploaded, what was not and why, what is left for later."""
    if result.note is not None:
        console.print(f"{result.note}; so jobs that still run may be among these", style="yellow")
    for run in result.failed:
        console.print(f"{run.job.job_id}  {run.job.name}: {run.problem}", soft_wrap=True, markup=False)
    rows = sum(run.num_rows for run in result.uploaded)
    parts = [f"uploaded {_runs(result.uploaded)} ({rows} rows)" if result.uploaded else "nothing to upload"]
    parts += [f"{result.num_before} uploaded earlier"] if result.num_before else []
    elsewhere = sum(run.elsewhere for run in result.runs)
    parts += [f"{elsewhere} tracked online, not on this server"] if elsewhere else []
    parts += (
        [f"{len(result.waiting)} left for later, since their jobs still run or wait"]
        if result.waiting
        else []
    )
    parts += [f"{len(result.empty)} with empty logs"] if result.empty else []
    parts += [f"{_runs(result.failed)} incomplete: sync again"] if result.failed else []
    console.print("; ".join(parts), soft_wrap=True)


def _runs(runs: Sequence[JobRun]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def sync_json(result: SyncResult) -> dict[str, Any]:
    def run_json(run: JobRun) -> dict[str, Any]:
        return {"job_id": run.job.job_id, "name": run.job.name, "num_rows": run.num_rows}

    return {
        "uploaded": [run_json(run) for run in result.uploaded],
        "failed": [{**run_json(run), "message": run.problem} for run in result.failed],
        "waiting": [job.job_id for job in result.waiting],
        "elsewhere": [run.job.job_id for run in result.runs if run.elsewhere],
        "empty": [job.job_id for job in result.empty],
        "num_before": result.num_before,
        "note": result.note,
    }


class _Uploads:
    """The journal `synced.jsonl`: a line before folders are uploaded, one for each that the server has."""

    def __init__(self, paths: StudyPaths) -> None:
        self._root, self._file = paths.root, paths.synced
        self._sizes: dict[str, int] = {}
        begun: set[str] = set()
        for line in journal.read(self._file):
            if "begin" in line:
                begun.update(line["begin"])
            else:
                self._sizes[line["done"]] = line["bytes"]
        self.interrupted = bool(begun - self._sizes.keys())

    def has(self, file: Path) -> bool:
        return self._sizes.get(self._name(file)) == file.stat().st_size

    def begin(self, logs: Iterable[RunLog]) -> None:
        self._write({"begin": [self._name(log.path) for log in logs]})

    def done(self, log: RunLog, place: str) -> None:
        # the SDK's own marker, so that `wandb sync` typed by a user does not send the run again
        log.path.with_name(f"{log.path.name}.synced").touch()
        size = log.path.stat().st_size
        self._write({"done": self._name(log.path), "bytes": size, "rows": len(log.rows), "to": place})

    def _name(self, file: Path) -> str:
        return str(file.parent.relative_to(self._root))

    def _write(self, line: dict[str, Any]) -> None:
        journal.append(self._file, {"time": round(time.time(), 3), **line})
