"""States from markers, locks and the queue, on folders made by hand."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from launcher import ledger
from launcher.status import STATES, job_statuses, print_status, status_json
from study.files import locked, write_json
from study.paths import StudyPaths
from study.plan import Plan
from tests.grids import plan_of, write_model
from tests.launcher.fake_slurm import FakeSlurm, install

GRID = """
study: s
grid: {model: [m], dataset: [cldr-instruct], label_smoothing: [0.0, 0.1]}
evaluate: {include_base: false, benchmarks: [{name: cldr_lite, languages: [en]}]}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """train 0, train 1, evaluate 0, evaluate 1, analyse."""
    write_model(tmp_path / "m")
    return plan_of(tmp_path, GRID)


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "s")


def states(plan: Plan, paths: StudyPaths) -> list[str]:
    return [status.state for status in job_statuses(plan, paths)]


def fail(paths: StudyPaths, job_id: str, message: str = "out of memory") -> None:
    write_json(paths.job(job_id).failed, {"error": "JobError", "message": message, "logs": []})


def printed(plan: Plan, paths: StudyPaths) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_status(plan, job_statuses(plan, paths), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_study_that_was_never_run(plan: Plan, paths: StudyPaths) -> None:
    assert states(plan, paths) == ["missing"] * 5
    assert not paths.root.exists()  # asking leaves no trace


def test_done(plan: Plan, paths: StudyPaths) -> None:
    for job in plan.jobs:
        write_json(paths.job(job.job_id).done, {})
    fail(paths, plan.jobs[0].job_id)  # a second attempt of a finished job: it is finished
    assert states(plan, paths) == ["done"] * 5


def test_failed_tells_why_and_blocks_what_needs_it_but_not_the_analysis(
    plan: Plan, paths: StudyPaths
) -> None:
    first, second = (job.job_id for job in plan.jobs[:2])
    fail(paths, first, "CUDA [Errno 2] [/scratch/x]")
    write_json(paths.job(second).done, {})
    assert states(plan, paths) == ["failed", "done", "blocked", "missing", "missing"]
    status = job_statuses(plan, paths)[0]
    assert status.message == "CUDA [Errno 2] [/scratch/x]"
    # brackets are rich's markup: they must neither vanish nor raise
    assert f"failed train {status.job.name} ({first}): CUDA [Errno 2] [/scratch/x]" in printed(plan, paths)


def test_a_held_lock_is_a_running_job(plan: Plan, paths: StudyPaths) -> None:
    first = paths.job(plan.jobs[0].job_id)
    fail(paths, plan.jobs[0].job_id)  # of the attempt before
    with locked(first.lock):
        assert states(plan, paths) == ["running", "missing", "missing", "missing", "missing"]
    assert states(plan, paths)[0] == "failed"  # a lock file that nobody holds means nothing


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return install(tmp_path / "bin")


def test_the_queue(plan: Plan, paths: StudyPaths, fake: FakeSlurm) -> None:
    ids = [job.job_id for job in plan.jobs]
    tasks = {f"7_{i}": [job_id] for i, job_id in enumerate(ids)}
    ledger.write_ids(paths.ledger, 1, "train", "slurm", tasks)
    fake.answer(squeue={"out": "7_0 RUNNING\n7_1 PENDING\n7_2 PENDING\n7_3 CANCELLED\n7_4 TIMEOUT\n"})
    write_json(paths.job(ids[2]).done, {})
    fail(paths, ids[0])  # of an attempt before this one
    found = job_statuses(plan, paths)
    assert [status.state for status in found] == ["running", "queued", "done", "missing", "missing"]
    assert [status.task for status in found[:2]] == ["7_0", "7_1"]
    assert found[3].task is None


def test_local_submissions_are_not_asked_of_a_cluster(plan: Plan, paths: StudyPaths, fake: FakeSlurm) -> None:
    ledger.write_ids(paths.ledger, 1, "train", "local", {"4711": [plan.jobs[0].job_id]})
    assert states(plan, paths)[0] == "missing"
    assert not fake.calls("squeue")


def test_as_json(plan: Plan, paths: StudyPaths) -> None:
    fail(paths, plan.jobs[0].job_id)
    told = json.loads(json.dumps(status_json(plan, job_statuses(plan, paths))))
    assert told["study"] == "s"
    assert told["counts"] == {
        "done": 0, "running": 0, "queued": 0, "failed": 1, "blocked": 1, "missing": 3,
    }  # fmt: skip
    assert list(told["counts"]) == list(STATES)
    assert told["jobs"][0] == {
        "job_id": plan.jobs[0].job_id,
        "kind": "train",
        "name": plan.jobs[0].name,
        "cell": dict(plan.jobs[0].cell),
        "state": "failed",
        "task": None,
        "message": "out of memory",
    }


def test_the_table_counts_languages_by_model(plan: Plan, paths: StudyPaths) -> None:
    text = printed(plan, paths)
    assert f"{plan.jobs[0].cell_name} · cldr_lite" in text
    assert "1 missing" in text
    assert "5 missing  of 5 jobs" in text
