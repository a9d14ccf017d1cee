"""W&B through the real SDK, offline; and a W&B that breaks, which no job may notice."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import study.tracking.runs
from study.errors import Stopped
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.specs import Benchmark, EvalSpec, Hyperparameters, Source, TrainSpec
from study.paths import JobPaths
from study.tracking.runs import Run, group_of, track
from tests.sweeping import ROOT
from tests.waiting import HANG_S
from tests.wandb_reader import read_finished_run, run_files
from tests.wandb_server import forget_wandb

REVISION = "0123456789abcdef"
MODEL = Source("hub", "org/model", REVISION)
DATA = Source("embedded", "cldr-instruct", REVISION)
CELL = {"model": "org/model", "dataset": "cldr-instruct", "label_smoothing": 0.1}
TRAIN = Job("train", TrainSpec(MODEL, DATA, Hyperparameters()), (), CELL)
OFFLINE = TrackingConfig(mode="offline")


def shard(model: Source) -> Job:
    return Job("evaluate", EvalSpec(model, Benchmark("cldr", DATA, "global_mmlu"), "sw"), (), CELL)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_wandb(monkeypatch)


def test_an_offline_run_reads_back(tmp_path: Path) -> None:
    folder = JobPaths(tmp_path)
    part = folder.predictions / "part-000000-000001.parquet"
    part.parent.mkdir()
    part.write_text("a finished part")
    with track(OFFLINE, TRAIN, folder, tags=("demo",)) as run:
        run.log({"loss": 2.5, "step": 1})
        run.log({"loss": 1.25, "step": 2})
        run.save(part, tmp_path)
        run.summarise({"final": 3})
    (file,) = run_files(tmp_path)
    found = read_finished_run(file)
    assert found.run_id == TRAIN.job_id
    assert found.name == TRAIN.name
    assert found.job_type == "train"
    assert found.group == f"{TRAIN.cell_name} ({TRAIN.job_id[:8]})"
    assert set(found.tags) == {"train", "demo"}
    data = TRAIN.to_dict()
    assert {key: found.config[key] for key in ("cell", "spec", "needs")} == {
        "cell": data["cell"], "spec": data["spec"], "needs": data["needs"],
    }  # fmt: skip
    assert [(row["step"], row["loss"]) for row in found.history] == [(1, 2.5), (2, 1.25)]
    assert found.summary["final"] == 3
    assert "predictions/part-000000-000001.parquet" in found.files
    assert found.exit_code == 0


def test_a_failing_job_ends_its_run_with_1_and_the_next_attempt_has_the_same_id(tmp_path: Path) -> None:
    folder = JobPaths(tmp_path)
    with pytest.raises(KeyError), track(OFFLINE, TRAIN, folder):
        raise KeyError("the job's own error")
    (file,) = run_files(tmp_path)
    assert read_finished_run(file).exit_code == 1
    assert not read_finished_run(file).preempting
    with track(OFFLINE, TRAIN, folder):
        pass
    first, second = (read_finished_run(file) for file in run_files(tmp_path))
    assert first.run_id == second.run_id == TRAIN.job_id
    assert second.exit_code == 0


def test_disabled_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wandb.init", lambda **_: pytest.fail("wandb was started"))
    with track(TrackingConfig(mode="disabled"), TRAIN, JobPaths(tmp_path)) as run:
        run.log({"loss": 1.0})
        run.save(tmp_path / "x", tmp_path)
        run.summarise({"a": 1})
    assert not list(tmp_path.iterdir())


def test_a_wandb_that_does_not_start_is_logged_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("no service")

    monkeypatch.setattr("wandb.init", broken)
    monkeypatch.setattr(study.tracking.runs, "_given_up", [])
    with track(OFFLINE, TRAIN, JobPaths(tmp_path)) as run:
        run.log({"loss": 1.0})
    assert "this job continues without it" in caplog.text
    assert "no service" in caplog.text


class BrokenRun:
    """A run whose every call fails."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.summary = self

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> None:
            self.calls.append(name)
            raise OSError(f"no {name}")

        return call


@pytest.mark.parametrize("first", ["log", "save", "summarise", "finish"])
def test_a_wandb_that_breaks_is_logged_once_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    broken = BrokenRun()
    run = Run(lambda: broken)
    calls: dict[str, Callable[[], object]] = {
        "log": lambda: run.log({"a": 1}),
        "save": lambda: run.save(tmp_path / "x", tmp_path),
        "summarise": lambda: run.summarise({"a": 1}),
        "finish": lambda: run.finish(0),
    }
    with caplog.at_level(logging.ERROR):
        calls[first]()
        for call in calls.values():
            call()
        assert not run.finish(0)
    assert len(broken.calls) == 1
    assert len(caplog.records) == 1
    assert "this job continues without it" in caplog.text


def test_the_jobs_own_error_comes_out_even_when_wandb_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wandb.init", lambda **_: BrokenRun())
    monkeypatch.setattr(study.tracking.runs, "_given_up", [])
    with pytest.raises(KeyError, match="the job's own"), track(OFFLINE, TRAIN, JobPaths(tmp_path)):
        raise KeyError("the job's own")


def test_a_training_run_and_the_evaluations_of_its_model_share_a_group() -> None:
    trained = Source("job", TRAIN.job_id, TRAIN.job_id)
    assert group_of(TRAIN) == group_of(shard(trained))
    assert group_of(shard(MODEL)) != group_of(TRAIN)


def test_a_server_that_does_not_answer_costs_one_time_limit_and_the_runs_stay_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real SDK against a port of this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(study.tracking.runs, "INIT_TIMEOUT_S", 3)
    monkeypatch.setattr(study.tracking.runs, "_given_up", [])
    online = TrackingConfig(mode="online", project="tests")
    for name in ("first", "second"):  # two languages of a pack
        with caplog.at_level(logging.ERROR), track(online, TRAIN, JobPaths(tmp_path / name)) as run:
            run.log({"loss": 1.5})
    assert sum("tracks offline from now on" in record.message for record in caplog.records) == 1
    for name in ("first", "second"):
        found = [read_finished_run(file) for file in run_files(tmp_path / name) if "offline-run" in str(file)]
        assert [row["loss"] for row in found[0].history] == [1.5]


def test_a_job_that_was_stopped_shows_as_preempted(tmp_path: Path) -> None:
    with pytest.raises(Stopped), track(OFFLINE, TRAIN, JobPaths(tmp_path)):
        raise Stopped("stopped at step 1 of 2")
    (file,) = run_files(tmp_path)
    found = read_finished_run(file)
    assert found.preempting
    assert found.exit_code == 1


def test_leet_shows_the_axes_to_group_by(tmp_path: Path) -> None:
    with track(OFFLINE, TRAIN, JobPaths(tmp_path), tags=("cldr", "sw")) as run:
        run.log({"accuracy": 0.5})
    (file,) = run_files(tmp_path)
    read_finished_run(file)
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=HANG_S).stdout)
    assert shown["config"]["cell"] == CELL
    assert (shown["name"], shown["summary"]["accuracy"]) == (TRAIN.name, 0.5)
    assert set(shown["tags"]) == {"train", "cldr", "sw"}


FULL_DISK = """
import resource, sys
from pathlib import Path
from study.grid.config import TrackingConfig
from study.paths import JobPaths
from study.tracking.runs import track
from tests.study.tracking.test_runs import TRAIN
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
with track(TrackingConfig(mode="offline"), TRAIN, JobPaths(Path(sys.argv[1]))) as run:
    for step in range(3000):
        run.log({"step": step, "loss": step / 7})
"""


def test_files_that_cannot_grow_do_not_stop_a_job(tmp_path: Path) -> None:
    """As on a full disk: a limit on the size of files strikes the SDK's service, which writes them."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    (file,) = run_files(tmp_path)
    assert 0 < file.stat().st_size <= 50_000
