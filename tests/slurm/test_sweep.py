"""examples/smoke.yaml on a real SLURM: submitted up front, detached, the same tables as on one machine."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.cluster import ledger
from study.paths import StudyPaths
from tests.sweeping import ROOT, status, sweep
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

PROFILE = f"cluster={ROOT / 'slurm' / 'profiles' / 'testbed.yaml'}"
# one task a language, so that evaluations are arrays
ARRAYS = "evaluate.languages_per_task=1"
# Two ranks add gradients in another order than one: after 33 steps the probabilities agree to this
TOLERANCE = 1e-4
NAMES = ("model", "level", "name", "average", "n", "missing", "job_ids")
NUMBERS = (
    "accuracy",
    "confidence_raw",
    "confidence_renormalised",
    "ece_raw",
    "ece_renormalised",
    "nll",
    "brier",
)


def wait_for_empty_queue(cluster: SlurmCluster) -> None:
    eventually(lambda: not cluster.run("squeue", "--noheader"), "the queue is empty", limit_s=900)


def table(study: StudyPaths) -> list[dict[str, str]]:
    with (study.tables / "calibration.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def outputs(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke study, swept on the cluster. The command must have returned long before the jobs end."""
    folder = tmp_path_factory.mktemp("slurm")
    done = sweep(folder, PROFILE, ARRAYS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "calsweep watch" in done.stdout

    # everything is in the queue at once, and a second launcher adds nothing
    found = status(folder / "smoke")
    assert found["counts"]["queued"] + found["counts"]["running"] == 7
    again = sweep(folder, PROFILE, ARRAYS)
    assert "queued or running 7, to do 0 in 0 tasks" in again.stdout
    assert "nothing to submit" in again.stdout
    wait_for_empty_queue(slurm_cluster)
    return folder


@pytest.fixture(scope="module")
def study(outputs: Path) -> StudyPaths:
    return StudyPaths(outputs / "smoke")


def test_all_jobs_end_done(study: StudyPaths) -> None:
    found = status(study.root)
    assert found["counts"]["done"] == 7, found


def test_training_ran_on_two_nodes(study: StudyPaths, slurm_cluster: SlurmCluster) -> None:
    (train,) = [job for job in json.loads(study.plan.read_text())["jobs"] if job["kind"] == "train"]
    env = json.loads(study.job(train["job_id"]).env.read_text())
    assert env["slurm"]["SLURM_JOB_NUM_NODES"] == "2"
    task = env["attempt"].rpartition(".")[0]
    logs = sorted(study.submissions.glob(f"*/{task}_*_log.out"))
    assert len(logs) == 2  # one rank each
    if slurm_cluster.accounting:
        nodes = slurm_cluster.run(
            "sacct", "-X", "-n", "-P", "-o", "NodeList", "-j", env["slurm"]["SLURM_JOB_ID"]
        )
        assert nodes == "127.0.0.[1-2]"


def test_evaluations_are_arrays_behind_their_model(study: StudyPaths) -> None:
    arrays = [entry.tasks for entry in ledger.read(study.ledger) if entry.kind == "evaluate"]
    assert [sorted(task.split("_")[1] for task in tasks) for tasks in arrays] == [["0", "1"], ["0", "1"]]


def test_tables_equal_those_of_one_machine(study: StudyPaths, smoke_outputs: Path) -> None:
    ours, local = table(study), table(StudyPaths(smoke_outputs / "smoke"))
    assert len(ours) == len(local) == 16
    for mine, other in zip(ours, local, strict=True):
        assert [mine[name] for name in NAMES] == [other[name] for name in NAMES]
        for name in NUMBERS:
            assert float(mine[name]) == pytest.approx(float(other[name]), abs=TOLERANCE), (mine["name"], name)


def test_a_failed_training_blocks_only_its_descendants(
    outputs: Path, study: StudyPaths, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    broken = tmp_path / "rows.jsonl"
    broken.write_text('{"prompt": "neither schema"}\n')
    done_before = {path: path.stat().st_mtime_ns for path in study.root.glob("jobs/*/DONE")}
    done = sweep(outputs, PROFILE, ARRAYS, f"grid.dataset=[cldr-instruct,{broken}]")
    assert done.returncode == 0, done.stderr
    assert "to do 4 in 4 tasks" in done.stdout  # a training, its two languages, the analysis
    wait_for_empty_queue(slurm_cluster)  # no job stays pending with a dependency that can never be met
    found = status(study.root)
    assert {job["kind"]: job["state"] for job in found["jobs"] if job["state"] != "done"} == {
        "train": "failed",
        "evaluate": "blocked",
        "analyse": "failed",
    }
    assert "neither instruction/input/output" in next(
        job["message"] for job in found["jobs"] if job["kind"] == "train" and job["state"] == "failed"
    )
    assert {path: path.stat().st_mtime_ns for path in done_before} == done_before
    # the tables show what is complete, and name what is missing
    missing = [row for row in table(study) if row["dataset"] == str(broken) and row["level"] == "language"]
    assert [row["accuracy"] for row in missing] == ["", ""]
