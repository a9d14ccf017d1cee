"""Upload run folders with the SDK's own `wandb sync`, and query what the server has of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.errors import UserError
from study.paths import JobPaths
from study.tracking.run_files import RunLog, when, write_without

ASK_TIMEOUT_S = 20
RETRIES = {
    "WANDB_X_FILE_STREAM_RETRY_MAX": "4",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "4",
    "WANDB_X_GRAPHQL_RETRY_MAX": "4",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "5",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "5",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "5",
}
"""By default the SDK retries for hours; here a user waits for it."""


@dataclass(frozen=True)
class RunFolder:
    """The folder that one attempt wrote of a job's run.

    unsaved: record files that its log should name but does not, because W&B failed while
    the job continued.
    """

    job: JobPaths
    log: RunLog
    unsaved: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        return [*self.log.files, *self.unsaved]

    @property
    def online(self) -> bool:
        return not self.log.path.parent.name.startswith("offline-")

    def source(self, name: str) -> Path | None:
        """Where a file of the run is; the links in the folder itself break when a study is moved."""
        for path in (self.log.path.parent / "files" / name, self.job.root / name):
            if path.is_file():
                return path.resolve()
        return None


@dataclass(frozen=True)
class Remote:
    """A run on the server. rows: when each was logged. files: name -> bytes."""

    state: str
    rows: Counter[float]
    files: dict[str, int]


class Server:
    """The W&B server that the user is logged in to.

    Raises UserError if the user is not logged in, or the server does not answer.
    """

    def __init__(self) -> None:
        import wandb

        try:
            self._api: Any = wandb.Api(timeout=ASK_TIMEOUT_S)
            self._entity = self._api.default_entity
        except wandb.errors.UsageError:
            remedy = "type wandb login, then sync again"
            raise UserError("you are not logged in to W&B", remedy=remedy) from None
        except wandb.Error as error:
            raise _unreachable(error) from None

    def place(self, log: RunLog) -> str:
        """`entity/project` of a run."""
        return f"{log.entity or self._entity}/{log.project}"

    def look(self, place: str, run_ids: Sequence[str]) -> dict[str, Remote]:
        """The runs that the server has, of some runs of one project; run id -> run."""
        self._api.flush()  # it caches earlier answers
        runs: dict[str, Remote] = {}
        wanted = {"name": {"$in": list(run_ids)}}
        try:
            for run in self._api.runs(place, filters=wanted, per_page=len(run_ids)):
                rows = Counter(when(row["_timestamp"]) for row in run.scan_history())
                files = {file.name: int(file.size) for file in run.files(per_page=500)}
                runs[run.id] = Remote(run.state, rows, files)
        except ValueError as error:
            if "Could not find project" not in str(error):
                raise
        except Exception as error:
            # some calls raise `wandb.Error`, others an internal error of the SDK or of its HTTP library
            if not (isinstance(error, OSError) or type(error).__module__.startswith("wandb.")):
                raise
            raise _unreachable(error) from None
        return runs


def _unreachable(error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"the W&B server cannot be used ({reason})",
        remedy="check WANDB_BASE_URL, the network and wandb login, then sync again",
    )


def missing_on(remote: Remote | None, folder: RunFolder) -> str | None:
    """What the server does not have of a folder, in words; None if it has everything."""
    if remote is None:
        return "the server does not have it"
    log = folder.log
    missing = (Counter(log.rows) - remote.rows).total()
    if missing:
        return f"{missing} of its {len(log.rows)} rows are not on the server"
    for name in folder.files:
        source = folder.source(name)
        if source is None:
            if (log.path.parent / "files" / name).is_symlink():
                return f"its file {name} is gone"
        elif remote.files.get(name) != source.stat().st_size:
            return f"its file {name} is not on the server"
    return "the server still shows it as running" if remote.state in ("running", "pending") else None


def stage(folder: RunFolder, remote: Remote | None, scratch: Path) -> None:
    """Write a folder for `wandb sync` into `scratch`, with the rows that the server does not have.

    Their steps continue after the last one on the server, so the SDK's `.syncstate`, which holds the step at
    which the attempt began, is not copied.
    """
    log, there = folder.log, remote.rows if remote is not None else Counter[float]()
    target = scratch / f"offline-{log.path.parent.name.removeprefix('offline-')}"
    (target / "files").mkdir(parents=True)
    write_without(log.path, there, target / log.path.name, folder.unsaved)
    for name in folder.files:
        source = folder.source(name)
        if source is not None:
            (target / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (target / "files" / name).symlink_to(source)


def run_sdk(scratch: Path, lock: int) -> str | None:
    """Run `wandb sync` on all staged folders; returns its last error. Query the server for what it achieved.

    lock: a descriptor that the child inherits, so that no other sync starts while an orphaned child uploads.
    """
    env = {key: value for key, value in os.environ.items() if key not in ("WANDB_MODE", "WANDB_SERVICE")}
    env = {**RETRIES, "WANDB_ERROR_REPORTING": "false", **env, "WANDB_DIR": str(scratch)}
    env["WANDB_SILENT"] = "false"
    folders = sorted(scratch.glob("*/offline-run-*"))
    num_bytes = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    limit_s = 60 + 15 * len(folders) + num_bytes / 50_000
    command = [sys.executable, "-m", "wandb", "sync", "-n", "4", *map(str, folders)]
    output = scratch / "output.txt"  # not a pipe, whose end would kill an orphaned child
    with (
        output.open("w") as stream,
        subprocess.Popen(
            command,
            env=env,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
        ) as child,
    ):
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return f"not finished after {limit_s:.0f} s"
        except BaseException:
            child.kill()
            raise
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.partition("ERROR")[2].strip() for line in lines if "ERROR" in line]
    return errors[-1] if errors else None
