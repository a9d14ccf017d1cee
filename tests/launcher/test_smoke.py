"""examples/smoke.yaml end to end on this machine: every part real, and nothing computed twice."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.diagnoses.methods import methods
from study.jobs.plan import read_plan
from study.paths import StudyPaths
from study.records import read_predictions
from tests.sweeping import ROOT, status, sweep, sweep_command
from tests.waiting import HANG_S, eventually
from tests.wandb_reader import read_finished_run, run_files


@pytest.fixture(scope="module")
def study(smoke_outputs: Path) -> StudyPaths:
    return StudyPaths(smoke_outputs / "smoke")


def test_every_job_is_done_and_its_records_are_whole(study: StudyPaths) -> None:
    jobs = [job.to_dict() for job in read_plan(study).jobs]
    assert [job["kind"] for job in jobs] == ["prepare", "train", *["evaluate"] * 4, "analyse"]
    for job in jobs:
        folder = study.job(job["job_id"])
        assert folder.done.is_file(), job
        assert not folder.failed.exists()
        env = json.loads(folder.env.read_text())
        assert env["code"]["code"] == next(study.code.iterdir()).name  # ran from the snapshot
        assert env["versions"]["torch"]
        if job["kind"] == "evaluate":
            table, info = read_predictions(folder.predictions)
            assert info.language == job["spec"]["language"]
            assert table.num_rows > 200


def test_its_methods_are_those_of_its_files(study: StudyPaths) -> None:
    """Numbers of the reporting card against the records, the journals' times and env.json."""
    card = methods(study.root).card
    jobs = read_plan(study).jobs
    evaluations = [job for job in jobs if job.kind == "evaluate"]
    sizes = {read_predictions(study.job(job.job_id).predictions)[0].num_rows for job in evaluations}
    assert len(sizes) == 1
    evaluation = next(text for name, text in card.items() if name.startswith("evaluation: "))
    assert "2 languages (en, sw)" in evaluation
    assert f"questions of a language: {sizes.pop()};" in evaluation
    assert card["missing"] == "0 of 4 evaluations"
    env = json.loads(study.job(evaluations[0].job_id).env.read_text())
    assert card["software"].startswith(f"calsweep code {env['code']['code']}")
    assert f"torch {env['versions']['torch']}" in card["software"]
    core_seconds = 0.0
    for job in jobs:
        if job.kind in ("prepare", "train"):
            folder = study.job(job.job_id)
            begin, end = (json.loads(line)["time"] for line in folder.attempts.read_text().splitlines())
            core_seconds += (end - begin) * json.loads(folder.execution.read_text())["resources"][
                "cpus_per_task"
            ]
    assert f"{core_seconds / 3600:.2f} core-hours of training" in card["compute"]


def test_wandb_runs_of_every_kind_read_back(study: StudyPaths) -> None:
    groups: dict[str, set[str]] = {}
    for job in [job.to_dict() for job in read_plan(study).jobs]:
        if job["kind"] == "analyse":
            continue
        (file,) = run_files(study.job(job["job_id"]).root)
        run = read_finished_run(file)
        assert run.run_id == job["job_id"]
        assert run.job_type == job["kind"]
        assert job["kind"] in run.tags
        assert run.config["spec"] == job["spec"]
        assert run.config["cell"] == job["cell"]
        assert run.exit_code == 0
        groups.setdefault(run.group, set()).add(job["kind"])
        expected = (
            {"num_items", "accuracy"} if job["kind"] == "evaluate" else {"loss", "learning_rate", "step"}
        )
        assert run.history
        assert all(expected <= set(row) for row in run.history)
        if job["kind"] == "evaluate":
            assert any(name.startswith("predictions/part-") for name in run.files)
    # the training run with its evaluations, the prepared model with those of the base
    assert sorted(map(sorted, groups.values())) == [["evaluate", "prepare"], ["evaluate", "train"]]


def test_second_run_recomputes_nothing(smoke_outputs: Path, study: StudyPaths) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.root.glob("jobs/*/DONE")}
    done = sweep(smoke_outputs)
    assert done.returncode == 0
    assert "to do 0 in 0 tasks" in done.stdout
    assert "SFT ε=0.1" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in study.root.glob("jobs/*/DONE")} == before


def test_one_more_value_plans_only_its_cell(smoke_outputs: Path) -> None:
    done = sweep(smoke_outputs, "grid.label_smoothing=[0.1,0.2]", "--dry-run", "--json")
    tasks = json.loads(done.stdout)["tasks"]
    assert [task["kind"] for task in tasks] == ["train", "evaluate", "analyse"]
    assert "ε=0.2" in tasks[0]["name"]


def test_tables_and_dashboard_come_from_records_alone(study: StudyPaths, tmp_path: Path) -> None:
    copy = tmp_path / "smoke"
    copy.mkdir()
    shutil.copy(study.plan, copy)
    for done in study.root.glob("jobs/*/DONE"):
        target = copy / "jobs" / done.parent.name
        target.mkdir(parents=True)
        shutil.copy(done, target)
        if (done.parent / "predictions").is_dir():
            shutil.copytree(done.parent / "predictions", target / "predictions")
    # a path entry that makes any import of torch fail
    (tmp_path / "poison").mkdir()
    (tmp_path / "poison" / "torch.py").write_text("raise AssertionError('analysis imported torch')")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'poison'}:{ROOT}"}

    def analysis(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "analysis", *arguments],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANG_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = list(csv.DictReader(analysis("tables", str(copy), "--format", "csv").splitlines()))
    original = list(csv.DictReader((study.tables / "calibration.csv").read_text().splitlines()))
    assert rows == original
    assert "| en " in analysis("tables", str(copy), "--format", "markdown")
    analysis("dashboard", str(copy))
    assert (copy / "dashboard.html").stat().st_size > 10_000


@pytest.fixture
def launcher_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep in a separate session, as in a terminal: its jobs are in the same process group."""
    process = subprocess.Popen(
        sweep_command(tmp_path),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_launcher_is_completed_by_the_next(
    launcher_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    """SIGKILL in the middle: complete jobs stay; the next sweep waits for the orphan and runs the rest."""
    study = StudyPaths(tmp_path / "smoke")
    eventually(lambda: list(study.root.glob("jobs/*/DONE")), "a job is done")
    assert launcher_process.poll() is None
    time.sleep(1)  # into the next job
    launcher_process.send_signal(signal.SIGKILL)
    launcher_process.wait()
    done_before = {path: path.stat().st_mtime_ns for path in study.root.glob("jobs/*/DONE")}
    assert done_before
    again = sweep(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    done_after = {path: path.stat().st_mtime_ns for path in study.root.glob("jobs/*/DONE")}
    assert len(done_after) == 7
    assert done_before.items() <= done_after.items()


def test_interrupt_ends_its_jobs_and_exits_130(
    launcher_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Ctrl-C: the terminal sends SIGINT to the whole process group."""
    study = StudyPaths(tmp_path / "smoke")
    eventually(lambda: list(study.root.glob("jobs/*/env.json")), "a job has begun")
    os.killpg(launcher_process.pid, signal.SIGINT)
    out, _ = launcher_process.communicate(timeout=HANG_S)
    assert launcher_process.returncode == 130
    assert "run the same command to continue" in out
    assert "Traceback" not in out
    counts = status(study.root)["counts"]
    assert (counts["running"], counts["failed"]) == (0, 0)  # no process is left, and nothing failed


def test_a_failing_job_exits_1_names_its_log_and_blocks_only_its_descendants(tmp_path: Path) -> None:
    broken = tmp_path / "rows.jsonl"
    broken.write_text('{"prompt": "neither schema"}\n')
    done = sweep(tmp_path, f"grid.dataset=[cldr-instruct,{broken}]")
    assert done.returncode == 1
    assert "failed train" in done.stdout
    log = Path(next(line for line in done.stdout.splitlines() if "log: " in line).split("log: ")[1])
    assert "are neither instruction/input/output, messages nor conversations" in log.read_text()
    assert "tasks not run" in done.stdout
    counts = status(tmp_path / "smoke")["counts"]
    assert (counts["failed"], counts["blocked"], counts["done"]) == (2, 2, 6)
