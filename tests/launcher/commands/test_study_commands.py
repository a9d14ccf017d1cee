"""`logs`, `explain`, `cancel` and `retry` from the command line, with fake commands of SLURM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.cluster import ledger
from launcher.commands import cancel as cancelling
from study.files import locked
from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.launcher.fake_slurm import FakeSlurm, queue_of
from tests.launcher.studies import (
    GRID,
    fail,
    put_on_path,
    submit,
    swept,
    without_slurm,
)  # fmt: skip
from tests.sweeping import ROOT


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(cancelling, "POLL_S", 0.01)
    return put_on_path(tmp_path, monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """train 0, train 1, evaluate 0, evaluate 1, analyse."""
    return swept(tmp_path)[0]


@pytest.fixture
def ids(plan: Plan) -> list[str]:
    return [job.job_id for job in plan.jobs]


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "outputs" / "s")


STUDY = "outputs/s"


def scancelled(fake: FakeSlurm) -> list[object]:
    return [call["arguments"] for call in fake.calls("scancel")]


# -------------------------------------------------------------------------------------------- logs
def write_logs(paths: StudyPaths, number: int, task: str, text: str, rank: int = 0) -> Path:
    file = paths.submission(number) / f"{task}_{rank}_log.err"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_logs_of_all_attempts_the_newest_last(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    submit(paths, "7", [[ids[0]], [ids[1]]])
    submit(paths, "8", [[ids[0]]])
    first = write_logs(paths, 1, "7_0", "\n".join(f"line {i}" for i in range(50)) + "\n")
    write_logs(paths, 1, "7_1", "of another job\n")
    second = write_logs(paths, 2, "8_0", "second\n")
    other = write_logs(paths, 2, "8_0", "rank 1\n", rank=1)
    link = paths.job(ids[0]).logs / "8_0.err"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(second, link.parent))
    os.utime(first, (1, 1))
    assert main(["logs", STUDY, ids[0][:8]]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"==> {first}", *(f"line {i}" for i in range(20, 50)), f"==> {link}", "second", f"also {other}",
    ]  # fmt: skip
    assert main(["logs", STUDY, ids[0], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry["path"] for entry in printed["logs"]] == [str(first), str(link)]
    assert printed["logs"][1]["tail"] == "second\n"
    assert printed["other_ranks"] == [str(other)]


def test_logs_that_are_not_there(fake: FakeSlurm, ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", STUDY, ids[0]]) == 2
    assert "has no logs yet; see calsweep status for its state" in capsys.readouterr().err
    assert main(["logs", STUDY, ""]) == 2
    assert "matches 5 job ids; see calsweep status --json" in capsys.readouterr().err


def test_logs_are_followed(fake: FakeSlurm, paths: StudyPaths, ids: list[str]) -> None:
    submit(paths, "7", [[ids[0]]])
    file = write_logs(paths, 1, "7_0", "first\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", "logs", str(paths.root), ids[0], "--follow"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "first\n"
        with file.open("a") as stream:
            stream.write("second\n")
        assert process.stdout.readline() == "second\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# ----------------------------------------------------------------------------------------- explain
def test_explain_a_job_and_what_blocks_it(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fail(paths, ids[0], "no data")
    assert main(["explain", STUDY, ids[2]]) == 0
    out = capsys.readouterr().out
    assert f"it needs train m/cldr-instruct lr=1e-05 ε=0 seed=42 ({ids[0]}), which is failed: no data" in out
    assert out.count("failed, user error: no data") == 1  # the job that blocks it is explained too
    assert main(["explain", STUDY, ids[2], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["state"], printed["blocked_by"], printed["root"]["job_id"]) == (
        "blocked",
        [ids[0]],
        ids[0],
    )


def test_explain_everything(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", STUDY]) == 0
    assert capsys.readouterr().out == "nothing failed\n"
    for job_id in ids[:2]:
        fail(paths, job_id, "no data")
    assert main(["explain", STUDY]) == 0
    assert "no data, and 1 more jobs with the same failure" in capsys.readouterr().out
    assert main(["explain", STUDY, "--json"]) == 0
    assert [entry["num_struck"] for entry in json.loads(capsys.readouterr().out)] == [2]


# ------------------------------------------------------------------------------------------ cancel
def test_cancel_takes_whole_arrays_and_orphans_in_one_call_and_waits(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    submit(paths, "7", [[ids[0]], [ids[1]]])
    submit(paths, "8", [[ids[2], ids[3]]])
    orphan = submit(paths, None, [[ids[4]]])
    before = queue_of(
        "7_0 RUNNING", "7_1 COMPLETED", "8_0 PENDING", f"9_0 PENDING calsweep:{orphan.token}", "99 RUNNING"
    )
    fake.answer(squeue={**before, "after_scancel": "7_0|COMPLETING|None|(null)\n99|RUNNING|None|(null)\n"})

    calls: list[float] = []

    def sleep(seconds: float) -> None:
        calls.append(seconds)
        if seconds == cancelling.POLL_S:  # subprocess sleeps too
            fake.answer(squeue=queue_of("99 RUNNING"))

    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["cancel", STUDY, "--json"]) == 0
    assert cancelling.POLL_S in calls  # it waited for one of them
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"cancelled": ["7_0", "8_0", "9_0"], "left": []}
    assert scancelled(fake) == [["7", "8", "9"]]
    assert [entry.array for entry in ledger.read(paths.ledger)] == ["7", "8", "9"]  # and noted


def test_cancel_of_a_job_leaves_the_others(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    submit(paths, "7", [[ids[0]], [ids[1]]])
    submit(paths, "8", [[ids[2]]])
    queue = queue_of("7_0 RUNNING", "7_1 RUNNING", "8_0 PENDING")
    fake.answer(squeue={**queue, "after_scancel": "7_0|RUNNING|None|(null)\n"})
    assert main(["cancel", STUDY, ids[1][:10], ids[2]]) == 0
    assert scancelled(fake) == [["7_1", "8"]]
    assert capsys.readouterr().out == "cancelled 2 tasks; what they have saved stays\n"


def test_cancel_says_what_would_not_end(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(cancelling, "WAIT_S", 0.1)
    submit(paths, "7", [[ids[0]]])
    fake.answer(squeue=queue_of("7_0 COMPLETING"), scancel={"in_vain": True})
    assert main(["cancel", STUDY]) == 1
    assert "1 of them are still ending: squeue --me" in capsys.readouterr().out


def test_cancel_ends_a_continuing_job_that_holds_the_lock(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(ledger, "WAIT_S", 0.1)
    submit(paths, "7", [[ids[0]]])
    submit(paths, "8", [[ids[4]]])
    fake.answer(squeue=queue_of("7_0 PENDING", "8_0 RUNNING"))
    with locked(paths.lock):
        assert main(["cancel", STUDY]) == 2
    assert "another launcher is working on this study" in capsys.readouterr().err
    assert scancelled(fake) == [["8_0"]]


def test_cancel_with_nothing_in_the_queue(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", STUDY]) == 0
    submit(paths, "7", [[ids[0]]])
    assert main(["cancel", STUDY]) == 0
    assert capsys.readouterr().out == "nothing of this study is in the queue\n" * 2
    assert scancelled(fake) == []


def test_cancel_where_slurm_does_not_answer_or_is_not(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    submit(paths, "7", [[ids[0]]])
    fake.answer(squeue={"code": 1, "error": "slurm_load_jobs error: Unable to contact slurm controller"})
    assert main(["cancel", STUDY]) == 2
    assert "try again when SLURM answers" in capsys.readouterr().err
    without_slurm(tmp_path, monkeypatch)
    assert main(["cancel", STUDY]) == 2
    assert capsys.readouterr().err == (
        "calsweep: cluster: SLURM is not on the PATH; run this on a login node\n"
    )


def test_cancel_of_a_sweep_on_this_machine_says_where_it_runs(
    fake: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, paths, _ = swept(tmp_path, profile=None)
    with locked(paths.lock):
        assert main(["cancel", STUDY]) == 2
    assert "runs on this machine, in the foreground; press Ctrl-C in its terminal" in capsys.readouterr().err


def test_commands_take_the_grid_too(
    fake: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grid.yaml").write_text(GRID + "outputs: outputs\n")
    swept(tmp_path, GRID + "outputs: outputs\n", profile=None)
    for command in ("status", "explain", "cancel", "watch"):
        assert main([command, "grid.yaml", "--json"]) == 0, command
        json.loads(capsys.readouterr().out)
