"""Tracking with the real SDK against a loopback server: what arrives while a job runs, what it may cost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

import study.tracking.runs
from study.errors import Stopped
from study.grid.config import TrackingConfig
from study.paths import JobPaths
from study.tracking.runs import end_service, group_of, track
from tests.study.tracking.test_runs import TRAIN
from tests.sweeping import ROOT
from tests.waiting import HANG_S, eventually
from tests.wandb_reader import read_finished_run, read_run, run_files
from tests.wandb_server import API_KEY, WandbServer, forget_wandb, serving

ONLINE = TrackingConfig(mode="online", project="tests")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    forget_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(study.tracking.runs, "_given_up", [])
    with serving() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")  # by default, rows go every 15 s
        yield running
        for service in services():  # of a test that failed: one that stands still would do so for ever
            service.kill()


def services() -> list[psutil.Process]:
    """The SDK's service processes of this one that are alive."""
    children = psutil.Process().children()
    return [c for c in children if c.status() != psutil.STATUS_ZOMBIE and c.name() == "wandb-core"]


def part(folder: JobPaths, number: int) -> Path:
    path = folder.predictions / f"part-{number:06d}-{number + 1:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"scores %d" % number)
    return path


def test_rows_and_parts_arrive_while_a_job_runs_and_requeues_continue_its_run(
    tmp_path: Path, server: WandbServer
) -> None:
    folder = JobPaths(tmp_path)
    for number in range(3):
        stopped = number < 2
        try:
            with track(ONLINE, TRAIN, folder, tags=("sw",)) as run:
                for earlier in range(number):  # as an evaluation does
                    run.save(part(folder, earlier), tmp_path)
                run.save(part(folder, number), tmp_path)
                run.log({"num_items": number, "accuracy": 0.5})
                server.wait_for(partial(has_arrived, server, folder, number + 1))
                if stopped:
                    raise Stopped("on request")
                run.summarise({"num_skipped": 0})
        except Stopped:
            assert stopped
    found = server.run(TRAIN.job_id)
    assert len(server.runs) == 1
    assert [(row["_step"], row["num_items"]) for row in found.history] == [(n, n) for n in range(3)]
    for number in range(3):
        assert found.files[f"predictions/{part(folder, number).name}"] == b"scores %d" % number
    assert (found.state, found.exit_code) == ("finished", 0)
    assert found.summary["num_skipped"] == 0
    assert found.config["cell"] == dict(TRAIN.cell)
    assert (found.group, found.job_type, set(found.tags)) == (group_of(TRAIN), "train", {"train", "sw"})


def has_arrived(server: WandbServer, folder: JobPaths, count: int) -> bool:
    names = {f"predictions/{part(folder, number).name}" for number in range(count)}
    return any(names <= run.files.keys() and len(run.history) == count for run in server.runs)


def test_a_server_that_was_away_for_a_while_misses_nothing(tmp_path: Path, server: WandbServer) -> None:
    with track(ONLINE, TRAIN, JobPaths(tmp_path)) as run:
        run.log({"item": 0})
        server.wait_for(lambda: server.runs and server.runs[0].history)
        server.down()
        for item in range(1, 5):
            run.log({"item": item})
        run.save(part(JobPaths(tmp_path), 0), tmp_path)
        time.sleep(3)
        server.up()
    found = server.run(TRAIN.job_id)
    assert [row["item"] for row in found.history] == list(range(5))
    assert not found.overwritten
    assert f"predictions/{part(JobPaths(tmp_path), 0).name}" in found.files


@pytest.mark.parametrize("trouble", ["down", "failing", "slow", "hanging service", "dead service"])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_job_never_waits_for_wandb_longer_than_the_limit(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, trouble: str, stopped: bool
) -> None:
    monkeypatch.setattr(study.tracking.runs, "FINISH_LIMIT_S", 3.0)
    monkeypatch.setattr(study.tracking.runs, "STOPPED_LIMIT_S", 1.0)
    entered, answers = threading.Event(), []
    server.on_request = lambda request: answers.append(entered.wait(HANG_S))
    saved = part(JobPaths(tmp_path), 0)
    try:
        with track(ONLINE, TRAIN, JobPaths(tmp_path)) as run:
            entered.set()
            server.wait_for(lambda: server.runs and server.runs[0].files)
            assert all(answers), "a job waits for W&B to start"
            strike(trouble, server)
            began = time.monotonic()
            for item in range(5000):  # more than the service's socket takes: a call that waits hangs here
                run.log({"item": item})
                run.save(saved, tmp_path)
            if stopped:
                raise Stopped("on request")
    except Stopped:
        assert stopped
    assert time.monotonic() - began < HANG_S, "a job waits for the server"
    assert not services()
    assert study.tracking.runs._given_up == [TRAIN.job_id]

    # the next language of the pack does not try it again, and is kept here
    asked = len(server.requests)
    with track(ONLINE, TRAIN, JobPaths(tmp_path / "next")) as run:
        run.log({"item": 1})
    assert len(server.requests) == asked
    (file,) = run_files(tmp_path / "next")
    assert [row["item"] for row in read_run(file).history] == [1]


def strike(trouble: str, server: WandbServer) -> None:
    match trouble:
        case "down":
            server.down()
        case "failing":
            server.failing = True
        case "slow":
            server.delay_s = 2 * HANG_S
        case _:
            (service,) = services()
            os.kill(service.pid, signal.SIGSTOP if trouble == "hanging service" else signal.SIGKILL)


def test_after_a_second_time_nothing_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.tracking.runs, "_given_up", ["one", "two"])
    with track(ONLINE, TRAIN, JobPaths(tmp_path)) as run:
        run.log({"item": 1})
    assert not list(tmp_path.iterdir())


HANGING = """
import os, signal, sys, time
from pathlib import Path
import study.tracking.runs
from tests.study.tracking.test_runs_online import ONLINE, TRAIN, JobPaths, services, track
study.tracking.runs.FINISH_LIMIT_S = 2
with track(ONLINE, TRAIN, JobPaths(Path(sys.argv[1]))) as run:
    while not services() or not list(Path(sys.argv[1]).glob("wandb/run-*/files")):
        time.sleep(0.05)
    time.sleep(1)
    print(services()[0].pid, flush=True)
    os.kill(services()[0].pid, signal.SIGSTOP)
    run.log({"item": 1})
print("the job's own end", flush=True)
"""


def test_a_service_that_hangs_does_not_keep_the_process_from_its_end(
    tmp_path: Path, server: WandbServer
) -> None:
    command = [sys.executable, "-c", HANGING, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        service: psutil.Process | None = None
        try:
            assert process.stdout is not None
            service = psutil.Process(int(process.stdout.readline()))
            assert process.stdout.readline() == "the job's own end\n"
            assert process.wait(HANG_S) == 0
        finally:
            process.kill()
            if service is not None:
                with contextlib.suppress(psutil.NoSuchProcess):  # its parent killed it, as it should
                    service.kill()


def test_without_a_server_w_and_b_has_more_time_than_with_one(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.tracking.runs, "FINISH_LIMIT_S", 1.0)
    with track(TrackingConfig(mode="offline", project="tests"), TRAIN, JobPaths(tmp_path)) as run:
        eventually(lambda: services() and list(tmp_path.glob("wandb/offline-run-*/files")), "the run begins")
        (service,) = services()
        service.suspend()
        threading.Timer(4, service.resume).start()
        run.log({"item": 1})
    (file,) = run_files(tmp_path)
    assert [row["item"] for row in read_finished_run(file).history] == [1]
    assert study.tracking.runs._given_up == []
    assert server.requests == []


def test_a_service_that_hears_of_nothing_is_ended(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own teardown waits for it without a limit."""
    import wandb

    monkeypatch.setattr(study.tracking.runs, "SERVICE_LIMIT_S", 1)
    assert wandb.Api(timeout=60).default_entity
    (service,) = services()
    service.suspend()
    end_service()  # it would hang here
    assert services() == []
    assert wandb.Api(timeout=60).default_entity, "another one is started"
    end_service()
    assert services() == []
