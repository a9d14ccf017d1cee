"""`calsweep sync` with the real SDK against a loopback server: every row and file there, each once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from launcher.cli import main
from launcher.commands.sync import run_files
from study import records
from study.files import locked
from study.jobs.job import Job
from study.paths import StudyPaths
from study.tracking.runs import end_service
from tests.launcher.sync_runs import SCORES, assert_whole, attempt, logged_in, planned, sync_json, write_part
from tests.wandb_protocol import ENTITY
from tests.wandb_server import WandbServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with logged_in(tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def study(folder: Path) -> tuple[list[Job], StudyPaths]:
    return planned(folder)


def test_runs_are_uploaded_once_and_a_second_sync_does_nothing(
    study: tuple[list[Job], StudyPaths],
    server: WandbServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs, paths = study
    for job in jobs[:2]:
        attempt(job, paths.job(job.job_id), range(5))
    files = {path: path.read_bytes() for path in paths.root.rglob("run-*.wandb")}
    assert main(["sync", "outputs/s"]) == 0
    assert capsys.readouterr().out == "uploaded 2 runs (10 rows)\n"
    for job in jobs[:2]:
        assert_whole(server.run(job.job_id), job, 5)
    asked = len(server.requests)
    assert main(["sync", "grid.yaml"]) == 0
    assert capsys.readouterr().out == "nothing to upload; 2 uploaded earlier\n"
    assert len(server.requests) == asked, "a sync with nothing to do asked the server"
    assert sync_json(capsys) == {
        "uploaded": [], "failed": [], "waiting": [], "elsewhere": [], "empty": [], "num_before": 2,
        "note": None,
    }  # fmt: skip
    assert {path: path.read_bytes() for path in files} == files

    # and back, by the SDK's own way of reading
    from wandb import Api

    api = Api(timeout=60)
    axis = jobs[0].cell["label_smoothing"]
    (run,) = api.runs(f"{ENTITY}/tests", filters={"config.cell.label_smoothing": axis})
    assert [row["num_items"] for row in run.scan_history()] == list(range(5))
    name = f"predictions/{records.part_name(0, 2)}"
    run.file(name).download(root=str(tmp_path / "back"))
    back = pq.read_table(tmp_path / "back" / name)["scores"].to_pylist()
    assert np.array_equal(
        np.array(back, np.float32).view(np.uint32), np.array(SCORES, np.float32).view(np.uint32)
    )
    end_service()


def test_requeues_are_one_run_with_each_row_once(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, paths = study
    job, folder = jobs[0], paths.job(jobs[0].job_id)
    attempt(job, folder, range(3), stop=True)
    time.sleep(1.1)  # the SDK names the folders by the second
    attempt(job, folder, range(3, 4), stop=True, parts=2)
    time.sleep(1.1)
    attempt(job, folder, range(4, 9), parts=3)
    assert len(run_files(folder)) == 3
    assert sync_json(capsys)["uploaded"] == [{"job_id": job.job_id, "name": job.name, "num_rows": 9}]
    assert_whole(server.run(job.job_id), job, 9, parts=3)


def test_a_later_attempt_is_added_to_a_run_that_was_uploaded_before(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, paths = study
    job, folder = jobs[0], paths.job(jobs[0].job_id)
    attempt(job, folder, range(3), stop=True)
    sync_json(capsys)
    assert server.run(job.job_id).state == "failed" or server.run(job.job_id).state == "preempting"
    time.sleep(1.1)
    attempt(job, folder, range(3, 5), parts=2)
    assert sync_json(capsys)["uploaded"] == [{"job_id": job.job_id, "name": job.name, "num_rows": 2}]
    assert_whole(server.run(job.job_id), job, 5, parts=2)


def test_runs_of_running_jobs_are_left_for_later(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, paths = study
    for job in jobs[:2]:
        attempt(job, paths.job(job.job_id), range(2))
    with locked(paths.job(jobs[0].job_id).lock):
        assert main(["sync", "outputs/s"]) == 0
    said = capsys.readouterr().out
    assert said == "uploaded 1 run (2 rows); 1 left for later, since their jobs still run or wait\n"
    assert [run.name for run in server.runs] == [jobs[1].job_id]
    assert main(["sync", "outputs/s"]) == 0
    assert {run.name for run in server.runs} == {job.job_id for job in jobs[:2]}


def test_records_that_no_log_names_are_uploaded_too(
    study: tuple[list[Job], StudyPaths], server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its service died, or never started, and the job continued without it."""
    jobs, paths = study
    lost, never = jobs[:2]
    attempt(lost, paths.job(lost.job_id), range(3), parts=1)
    later = write_part(lost, paths.job(lost.job_id), 1)
    attempt(never, paths.job(never.job_id), range(3))
    (log,) = run_files(paths.job(never.job_id))
    log.write_bytes(log.read_bytes()[:7])  # as it is in the first second
    assert main(["sync", "outputs/s"]) == 0
    assert capsys.readouterr().out == "uploaded 1 run (3 rows); 1 with empty logs\n"
    assert_whole(server.run(lost.job_id), lost, 3, parts=1)
    assert server.run(lost.job_id).files[f"predictions/{later.name}"] == later.read_bytes()
    assert sync_json(capsys)["num_before"] == 1
