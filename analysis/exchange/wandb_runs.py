"""W&B runs for `pull`: from a project on a server, or from the folders of offline runs."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from study.errors import RecordError, UserError
from study.tracking.run_files import records_in
from study.tracking.runs import end_service

ASK_TIMEOUT_S = 20
RUNS_PER_PAGE = 100
DOWNLOADS = 8
PATIENCE = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_X_FILE_TRANSFER_TIMEOUT_SECONDS": "60",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "4",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "5",
    "WANDB_X_GRAPHQL_RETRY_MAX": "4",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "5",
}
"""By default the SDK retries for hours; here somebody waits."""
PART = re.compile(r"predictions/(part-\d+-\d+\.parquet)")


@dataclass
class FoundRun:
    """One run. kind: its job type. summary: its last values. ended: it finished with exit code 0.

    read_parts: the prediction parts that it saved, name -> content; raises RecordError if one is missing,
    UserError if the server cannot be used.
    """

    run_id: str
    kind: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    read_parts: Callable[[], dict[str, bytes]] = dict


@contextmanager
def project_runs(place: str) -> Iterator[tuple[int, Iterator[FoundRun]]]:
    """How many runs a project, `entity/project`, has on the server that the user is logged in to, and each.

    Raises UserError when nobody is logged in, there is no such project, or the server does not answer.
    """
    import wandb

    with patient():
        try:
            with asking_server():
                try:
                    runs = wandb.Api(timeout=ASK_TIMEOUT_S).runs(place, per_page=RUNS_PER_PAGE, lazy=False)
                    total = len(runs)
                except ValueError as error:
                    if "Could not find project" not in str(error):
                        raise
                    remedy = "give ENTITY/PROJECT, or a folder with offline runs"
                    raise UserError("there is no such project", where=place, remedy=remedy) from None
            yield total, _remote_runs(iter(runs))
        finally:
            end_service()


def _remote_runs(runs: Iterator[Any]) -> Iterator[FoundRun]:
    while True:
        with asking_server():  # a page at a time
            run = next(runs, None)
        if run is None:
            return
        summary = dict(run.summary_metrics)
        config, has_ended = dict(run.config), run.state == "finished"
        yield FoundRun(run.id, run.job_type or "", config, summary, has_ended, partial(_download, run))


def _download(run: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="calsweep-pull-") as scratch, asking_server():
        files = [file for file in run.files(per_page=500) if PART.fullmatch(file.name)]

        def fetch(file: Any) -> None:
            file.download(root=scratch, replace=True).close()

        with ThreadPoolExecutor(DOWNLOADS) as pool:
            list(pool.map(fetch, files))
        parts = {Path(file.name).name: Path(scratch, file.name).read_bytes() for file in files}
        sizes = {Path(file.name).name: int(file.size) for file in files}
    for name, content in parts.items():
        if len(content) != sizes[name]:
            raise RecordError(f"run {run.id}, {name}: {len(content)} of {sizes[name]} bytes came; pull again")
    return parts


@contextmanager
def asking_server() -> Iterator[None]:
    """Turn what the SDK raises into a UserError: nobody is logged in, or the server does not answer."""
    import wandb

    try:
        yield
    except wandb.errors.UsageError:
        raise UserError("nobody is logged in to W&B", remedy="type wandb login, then try again") from None
    except Exception as error:
        # some calls raise `wandb.Error`, others an internal error of the SDK or of its HTTP library
        if not (isinstance(error, OSError) or type(error).__module__.startswith("wandb.")):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the W&B server cannot be used ({reason})",
            remedy="check WANDB_BASE_URL, the network and wandb login, then try again",
        ) from None


@contextmanager
def patient() -> Iterator[None]:
    """Make the SDK silent, and let it give up after seconds."""
    before = {name: os.environ.get(name) for name in PATIENCE}
    os.environ.update({name: value for name, value in PATIENCE.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def folder_runs(folder: Path) -> list[FoundRun]:
    """The runs whose folders (`offline-run-*`, or `run-*` of online ones) lie anywhere below a folder.

    The attempts of one job are one run, which ended as the last attempt did.
    Raises UserError when there are none.
    """
    runs: dict[str, FoundRun] = {}
    files: dict[str, dict[str, Path]] = {}
    logs = folder.rglob("run-*.wandb")
    for log in sorted(logs, key=lambda log: log.parent.name.removeprefix("offline-")):
        attempt, saved = _read_log(log)
        if attempt.run_id:
            before = runs.get(attempt.run_id)
            if before is not None:
                attempt.summary = before.summary | attempt.summary
            runs[attempt.run_id] = attempt
            places = files.setdefault(attempt.run_id, {})
            places.update({name: _source(log, name) for name in saved if PART.fullmatch(name)})
            attempt.read_parts = partial(_read, places)
    if not runs:
        remedy = "give ENTITY/PROJECT, or a folder with wandb/offline-run-* folders"
        raise UserError("holds no runs of W&B", where=str(folder), remedy=remedy)
    return list(runs.values())


def _source(log: Path, name: str) -> Path:
    """Where a file of a run is: the run's folder holds links, which break when a study is moved."""
    inside = log.parent / "files" / name
    return inside if inside.is_file() else log.parent.parent.parent / name


def _read(places: Mapping[str, Path]) -> dict[str, bytes]:
    for name, path in places.items():
        if not path.is_file():
            raise RecordError(f"{path}: is missing, but its run saved {name}; copy run folders with cp -RL")
    return {path.name: path.read_bytes() for path in places.values()}


def _read_log(path: Path) -> tuple[FoundRun, list[str]]:
    """What a log says up to its end, or to where a kill cut it off, and the files that its run saved."""
    run, saved = FoundRun(""), []
    for record in records_in(path):
        match record.WhichOneof("record_type"):
            case "run":
                run.run_id, run.kind = record.run.run_id, record.run.job_type
                run.config |= _values(record.run.config.update)
            case "config":
                run.config |= _values(record.config.update)
            case "history":
                run.summary |= _values(record.history.item)
            case "summary":
                run.summary |= _values(record.summary.update)
            case "files":
                saved += [item.path for item in record.files.files]
            case "exit":
                run.ended = record.exit.exit_code == 0
    return run, saved


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
