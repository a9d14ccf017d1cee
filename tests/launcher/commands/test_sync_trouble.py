"""`calsweep sync` that is killed, meets a server in trouble, or finds less than was logged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.commands.sync import run_files
from study import records
from study.files import locked
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.paths import StudyPaths
from study.tracking import upload
from study.tracking.run_files import read_log
from study.tracking.runs import track
from tests.launcher.sync_runs import (
    assert_whole,
    attempt,
    items,
    logged_in,
    planned,
    sync_json,
    write_part,
)
from tests.sweeping import ROOT
from tests.wandb_server import WandbServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with logged_in(tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def study(folder: Path) -> tuple[list[Job], StudyPaths]:
    return planned(folder)


def sync_process(**env: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "launcher.cli", "sync", "outputs/s"]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT), **env})


@pytest.mark.parametrize("whom", ["all", "ours"])
def test_a_sync_that_is_killed_half_way_is_done_by_the_next(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    capsys: pytest.CaptureFixture[str],
    whom: str,
) -> None:
    """The SDK is killed with it, in the second attempt; or lives on for a while, in the first."""
    jobs, paths = study
    job, folder = jobs[0], paths.job(jobs[0].job_id)
    first = 25 if whom == "ours" else 5
    attempt(job, folder, range(first), stop=True, pad_bytes=10**6)
    time.sleep(1.1)
    attempt(job, folder, range(first, 30), parts=2, pad_bytes=10**6)
    server.delay_s = 0.5
    half = range(1, 25) if whom == "ours" else range(6, 30)
    process = sync_process()
    try:
        server.wait_for(lambda: server.runs and len(server.runs[0].history) in half)
        children = [int(child) for child in children_of(process.pid)]
        process.kill()
        if whom == "all":
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert len(server.run(job.job_id).history) in half
    if whom == "ours":  # the orphan holds the lock as long as it lives
        server.delay_s = 4
        assert main(["sync", "outputs/s"]) == 2
        assert "another sync of this study is running; wait until it has finished" in capsys.readouterr().err
        server.delay_s = 0
        with locked(paths.root / "sync.lock", wait=60.0) as lock:
            assert lock is not None
    server.delay_s = 0
    assert main(["sync", "outputs/s"]) == 0
    assert_whole(server.run(job.job_id), job, 30, parts=2)
    assert main(["sync", "outputs/s"]) == 0
    assert_whole(server.run(job.job_id), job, 30, parts=2)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("trouble", ["down", "failing"])
def test_after_a_server_that_dies_half_way_the_next_sync_sends_the_rest(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
) -> None:
    """The SDK itself reports such a run as uploaded: `.synced`, exit code 0."""
    jobs, paths = study
    job, folder = jobs[0], paths.job(jobs[0].job_id)
    attempt(job, folder, range(25), pad_bytes=10**6)
    server.delay_s = 0.2
    monkeypatch.setitem(upload.RETRIES, "WANDB_X_FILE_STREAM_RETRY_MAX", "1")
    monkeypatch.setitem(upload.RETRIES, "WANDB_X_GRAPHQL_RETRY_MAX", "1")
    monkeypatch.setitem(upload.RETRIES, "WANDB_X_FILE_TRANSFER_RETRY_MAX", "1")
    monkeypatch.setattr(upload, "ASK_TIMEOUT_S", 10)

    def die(request: str) -> None:
        if server.runs and server.runs[0].history:
            server.on_request = None
            if trouble == "down":
                threading.Thread(target=server.down).start()
            else:
                server.failing = True

    server.on_request = die
    assert main(["sync", "outputs/s"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("calsweep: the W&B server cannot be used (")
    assert said.endswith("; check WANDB_BASE_URL, the network and wandb login, then sync again\n")
    assert len(said.splitlines()) == 1
    assert 0 < len(server.run(job.job_id).history) < 25
    server.failing, server.delay_s = False, 0
    if trouble == "down":
        server.up()
    assert main(["sync", "outputs/s"]) == 0
    assert_whole(server.run(job.job_id), job, 25)


def test_files_that_the_server_does_not_accept_are_named_and_sent_next_time(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs, paths = study
    for job in jobs[:2]:
        attempt(job, paths.job(job.job_id), range(3))
    name = f"predictions/{records.part_name(0, 2)}"
    server.broken = lambda request: (
        request.startswith("PUT") and jobs[0].job_id in request and name in request
    )
    monkeypatch.setitem(upload.RETRIES, "WANDB_X_FILE_TRANSFER_RETRY_MAX", "1")
    found = sync_json(capsys, code=1)
    message = f"its file {name} is not on the server"
    (failed,) = found["failed"]
    assert (failed["job_id"], failed["message"].startswith(message)) == (jobs[0].job_id, True)
    assert [entry["job_id"] for entry in found["uploaded"]] == [jobs[1].job_id]
    server.broken = None
    assert sync_json(capsys)["failed"] == []
    for job in jobs[:2]:
        assert_whole(server.run(job.job_id), job, 3)


def test_a_study_that_was_moved_is_uploaded_whole(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The SDK keeps absolute links to the parts."""
    jobs, paths = study
    attempt(jobs[0], paths.job(jobs[0].job_id), range(3))
    paths.root.parent.rename("moved")
    assert main(["sync", "moved/s"]) == 0
    assert_whole(server.run(jobs[0].job_id), jobs[0], 3)
    part = next(Path("moved/s/jobs").glob("*/predictions/*.parquet"))
    assert server.run(jobs[0].job_id).files[f"predictions/{part.name}"] == part.read_bytes()


def test_a_deleted_file_is_named(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, paths = study
    attempt(jobs[0], paths.job(jobs[0].job_id), range(3))
    shutil.rmtree(paths.job(jobs[0].job_id).predictions)
    assert main(["sync", "outputs/s"]) == 1
    said = capsys.readouterr().out
    assert f"{jobs[0].name}: its file predictions/{records.part_name(0, 2)} is gone" in said


def test_a_log_that_a_kill_tore_goes_up_to_where_it_is_whole(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, paths = study
    for job in jobs[:2]:
        attempt(job, paths.job(job.job_id), range(40))
    torn, empty = (run_files(paths.job(job.job_id))[0] for job in jobs[:2])
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size * 2 // 3])
    empty.write_bytes(b"")  # a full disk
    num_rows = len(read_log(torn).rows)
    assert 0 < num_rows < 40
    assert len(sync_json(capsys)["uploaded"]) == 1
    (run,) = server.runs
    assert items(run) == list(range(num_rows))
    assert (run.name, run.state) == (jobs[0].job_id, "failed")


def test_what_an_online_run_could_not_send_goes_up_with_the_next_sync(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs, paths = study
    job, folder = jobs[0], paths.job(jobs[0].job_id)
    monkeypatch.setattr("study.tracking.runs._given_up", [])
    monkeypatch.setattr("study.tracking.runs.FINISH_LIMIT_S", 3)
    with track(TrackingConfig(mode="online", project="tests"), job, folder, tags=("en",)) as run:
        run.save(write_part(job, folder, 0), folder.root)
        for item in range(4):
            run.log({"num_items": item, "accuracy": item / 7})
        server.wait_for(lambda: server.runs and server.runs[0].files and len(server.runs[0].history) == 4)
        server.down()
        for item in range(4, 9):
            run.log({"num_items": item, "accuracy": item / 7})
        run.summarise({"num_skipped": 1})
    assert items(server.run(job.job_id)) == list(range(4))
    server.up()
    assert sync_json(capsys)["uploaded"] == [{"job_id": job.job_id, "name": job.name, "num_rows": 5}]
    assert_whole(server.run(job.job_id), job, 9)


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("no key", "you are not logged in to W&B; type wandb login, then sync again"),
        ("wrong key", "the W&B server cannot be used ("),
        ("down", "the W&B server cannot be used ("),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
    sentence: str,
) -> None:
    jobs, paths = study
    attempt(jobs[0], paths.job(jobs[0].job_id), range(3))
    monkeypatch.setattr(upload, "ASK_TIMEOUT_S", 2)
    monkeypatch.setenv("HOME", str(tmp_path))  # without a .netrc
    if trouble == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif trouble == "wrong key":
        server.refuse = True
    else:
        server.down()
    assert main(["sync", "outputs/s"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"calsweep: {sentence}")
    assert len(said.splitlines()) == 1


def test_a_run_that_found_no_server_at_its_start_goes_up_later(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside the offline folder there is one of an online run that did not start."""
    jobs, paths = study
    job, folder = jobs[0], paths.job(jobs[0].job_id)
    monkeypatch.setattr("study.tracking.runs._given_up", [])
    monkeypatch.setattr("study.tracking.runs.INIT_TIMEOUT_S", 2)
    server.down()
    with track(TrackingConfig(mode="online", project="tests"), job, folder, tags=("en",)) as run:
        run.save(write_part(job, folder, 0), folder.root)
        for item in range(4):
            run.log({"num_items": item, "accuracy": item / 7})
        run.summarise({"num_skipped": 1})
    assert len(list(folder.root.glob("wandb/*run-*-*"))) == 2
    server.up()
    assert main(["sync", "outputs/s"]) == 0
    assert capsys.readouterr().out == "uploaded 1 run (4 rows)\n"
    assert_whole(server.run(job.job_id), job, 4)
    asked = len(server.requests)
    assert main(["sync", "outputs/s"]) == 0
    assert capsys.readouterr().out == "nothing to upload; 1 uploaded earlier\n"
    assert len(server.requests) == asked
    assert_whole(server.run(job.job_id), job, 4)


def test_an_online_run_of_another_server_is_left_alone(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs, paths = study
    with track(TrackingConfig(mode="online", project="tests"), jobs[0], paths.job(jobs[0].job_id)) as run:
        run.log({"num_items": 1})
    server.store.runs.clear()
    found = sync_json(capsys)
    assert (found["uploaded"], found["elsewhere"], found["num_before"]) == ([], [jobs[0].job_id], 0)
    assert not server.runs


def test_a_study_whose_journal_was_lost_doubles_nothing(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, paths = study
    attempt(jobs[0], paths.job(jobs[0].job_id), range(5))
    sync_json(capsys)
    (paths.root / "synced.jsonl").unlink()
    found = sync_json(capsys)
    assert (found["uploaded"], found["num_before"]) == ([], 1)
    assert_whole(server.run(jobs[0].job_id), jobs[0], 5)
