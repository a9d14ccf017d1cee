"""Runs of a small study's jobs, logged offline by the real SDK, and what a server should have of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import launcher.commands.sync
from launcher.cli import main
from study import records
from study.errors import Stopped
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.paths import JobPaths, StudyPaths
from study.tracking.runs import track
from tests.launcher.studies import swept
from tests.wandb_protocol import StoredRun
from tests.wandb_server import API_KEY, WandbServer, forget_wandb, serving

OFFLINE = TrackingConfig(mode="offline", project="tests")
SCORES = [[-0.1, -2.5, -3.25, -1e-7], [-7.0, -0.0625, -11.5, -0.3]]


@contextlib.contextmanager
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server to which the user is logged in, with nothing else of W&B in the environment."""
    forget_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(launcher.commands.sync, "LOOK_AGAIN_S", 0.1)
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")  # by default, rows go every 15 s
    with serving() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        yield running


def planned(folder: Path) -> tuple[list[Job], StudyPaths]:
    """Two trainings and two evaluations, to run on this machine."""
    plan, paths, _ = swept(folder, profile=None)
    return list(plan.jobs), paths


def attempt(
    job: Job, folder: JobPaths, rows: range, *, stop: bool = False, parts: int = 1, pad_bytes: int = 0
) -> None:
    """An attempt of a job that logs some rows and saves the parts that are there by now, without a network.

    pad_bytes: makes the rows so long that the SDK, which sends 10 MiB at once, sends them in several pieces.
    """
    pad: dict[str, Any] = {"pad": "x" * pad_bytes} if pad_bytes else {}
    with contextlib.suppress(Stopped), track(OFFLINE, job, folder, tags=("en",)) as run:
        for number in range(parts):
            path = folder.predictions / records.part_name(2 * number, 2 * number + 2)
            run.save(path if path.exists() else write_part(job, folder, number), folder.root)
        for item in rows:
            run.log({"num_items": item, "accuracy": item / 7, **pad})
        run.summarise({"num_skipped": parts})
        if stop:
            raise Stopped("on request")


def write_part(job: Job, folder: JobPaths, number: int) -> Path:
    info = records.ShardInfo(job.job_id, "m", "cldr_lite", "en", "test", "letter")
    rows = [
        records.Prediction(f"q{number}-{row}", "s", 0, scores, 0.5, None, 0, 9)
        for row, scores in enumerate(SCORES)
    ]
    return records.write_part(folder.predictions, 2 * number, rows, info)


def items(run: StoredRun) -> list[int]:
    return [row["num_items"] for row in run.history]


def assert_whole(run: StoredRun, job: Job, num_rows: int, parts: int = 1) -> None:
    """As an undisturbed online run leaves it: each row once, in order, at its step."""
    assert items(run) == list(range(num_rows))
    assert [row["accuracy"] for row in run.history] == [item / 7 for item in range(num_rows)]
    assert [row["_step"] for row in run.history] == list(range(num_rows))
    assert not run.overwritten
    assert (run.state, run.exit_code) == ("finished", 0)
    assert {"num_items": num_rows - 1, "num_skipped": parts}.items() <= run.summary.items()
    assert run.config["cell"] == dict(job.cell)
    assert (run.display_name, run.job_type, set(run.tags)) == (job.name, job.kind, {job.kind, "en"})
    for number in range(parts):
        assert f"predictions/{records.part_name(2 * number, 2 * number + 2)}" in run.files


def sync_json(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["sync", "outputs/s", "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
