"""`retry` from the command line, with fake commands of SLURM."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.cluster import ledger
from launcher.cluster.execution import write_execution
from launcher.cluster.local import LocalResult
from launcher.commands import retry as retrying
from launcher.job.causes import Execution
from study.files import locked
from study.paths import StudyPaths
from tests.launcher.fake_slurm import FakeSlurm, queue_of
from tests.launcher.studies import begin, done, end, fail, put_on_path, submit, swept

STUDY = "outputs/s"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return put_on_path(tmp_path, monkeypatch)


def resubmitted(paths: StudyPaths, since: int) -> list[list[str]]:
    """The jobs of each array submitted since, by pack."""
    return [[job_id for pack in e.packs for job_id in pack] for e in ledger.read(paths.ledger)[since:]]


@pytest.fixture
def half(paths: StudyPaths, ids: list[str]) -> int:
    """train 0 failed for good, so that evaluate 0 is blocked; train 1 is done, evaluate 1 was never run."""
    submit(paths, "7", [[ids[0]], [ids[1]]])
    begin(paths, ids[0], "7_0")
    end(paths, ids[0], "7_0", "failed", "user error")
    fail(paths, ids[0])
    done(paths, ids[1])
    return 1


def test_retry_runs_what_failed_and_what_it_blocks(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], half: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retry", STUDY, "--yes"]) == 0
    out = capsys.readouterr().out
    assert "retry 2 jobs (1 train, 1 evaluate)" in out
    assert resubmitted(paths, half) == [[ids[0]], [ids[2]], [ids[4]]]
    assert "afterok:101_0" in str(fake.calls("sbatch")[1]["arguments"])
    (snapshot,) = paths.code.iterdir()  # the code as it is now
    assert f"cd {snapshot}" in str(fake.calls("sbatch")[0]["script"])
    tasks = queue_of("101_0 PENDING", "102_0 PENDING", "103_0 PENDING")
    fake.answer(squeue=tasks)
    count = len(fake.calls("sbatch"))
    assert main(["retry", STUDY, "--yes"]) == 0  # nothing is submitted twice
    assert capsys.readouterr().out == "nothing to retry\n"
    assert len(fake.calls("sbatch")) == count


def test_retry_of_a_training_brings_its_evaluations_along(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], half: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retry", STUDY, "--yes", ids[0][:9], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["submitted"] == {ids[0]: "101_0", ids[2]: "102_0", ids[4]: "103_0"}


def test_retry_of_a_blocked_job_brings_along_what_it_needs(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], half: int
) -> None:
    assert main(["retry", STUDY, ids[2]]) == 0
    assert resubmitted(paths, half) == [[ids[0]], [ids[2]], [ids[4]]]


def test_retry_leaves_alone_what_is_done_or_in_the_queue(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], half: int, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(paths, "8", [[ids[0]]])  # by hand, a moment ago
    half += 1
    fake.answer(squeue=queue_of("8_0 RUNNING"))
    assert main(["retry", STUDY, ids[0], ids[1]]) == 0
    out = capsys.readouterr().out
    assert f"({ids[0]}) is running, so it is not retried" in out
    assert f"({ids[1]}) is done, so it is not retried" in out
    assert "nothing to retry" in out
    assert resubmitted(paths, half) == []


def test_retry_waits_until_the_failed_task_has_left_the_queue(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], half: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Otherwise SLURM would drop the jobs that wait for it, and it would not be submitted."""
    fake.answer(squeue=queue_of("7_0 COMPLETING"))
    monkeypatch.setattr(retrying, "ENDING_POLL_S", 0.0)
    assert main(["retry", STUDY]) == 2
    assert "ε=0 seed=42: SLURM is still ending its task; try again in a minute" in capsys.readouterr().err
    assert resubmitted(paths, half) == []

    class Clock:
        @staticmethod
        def sleep(_: float) -> None:
            fake.answer()

    monkeypatch.setattr(retrying, "time", Clock)
    assert main(["retry", STUDY]) == 0
    assert resubmitted(paths, half) == [[ids[0]], [ids[2]], [ids[4]]]


def test_retry_refuses_what_cannot_help_and_says_so(
    fake: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, paths, site = swept(tmp_path, profile="executor: slurm\nmax_mem_gib: 4\n")
    job_id = plan.jobs[0].job_id
    submit(paths, "7", [[job_id]])
    begin(paths, job_id, "7_0")
    end(paths, job_id, "7_0", "failed", "out of host memory")
    fail(paths, job_id, "killed for its memory", "out of host memory")
    had = dataclasses.replace(site.resources["train"], mem_gib=max(4, site.resources["train"].mem_gib))
    write_execution(paths.job(job_id), Execution(had), site)
    assert main(["retry", STUDY, "--yes"]) == 1
    out = capsys.readouterr().out
    assert (
        "1 job is not started again: out of host memory, and no automatic remedy is left; "
        "change resources.train in the grid"
    ) in out
    assert "nothing to submit" in out
    assert not fake.calls("sbatch")


def test_retry_makes_the_tables_of_a_stale_analysis_again(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str]
) -> None:
    for job_id in ids:
        done(paths, job_id)
    later = paths.job(ids[4]).done.stat().st_mtime + 1
    os.utime(paths.job(ids[2]).done, (later, later))
    assert main(["retry", STUDY]) == 0
    assert resubmitted(paths, 0) == [[ids[4]]]


@pytest.mark.parametrize(
    ("refusal", "code"), [("sbatch: error: Invalid account", 2), ("AssocMaxSubmitJobLimit", 0)]
)
def test_an_analysis_that_sbatch_refuses_stays_complete(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], refusal: str, code: int
) -> None:
    """It is stale; it can be made again as long as its DONE marker is there."""
    for job_id in ids:
        done(paths, job_id)
    later = paths.job(ids[4]).done.stat().st_mtime + 1
    os.utime(paths.job(ids[2]).done, (later, later))
    before = paths.job(ids[4]).done.read_bytes()
    fake.answer(sbatch={"code": 1, "error": refusal})
    assert main(["retry", STUDY, "--yes"]) == code
    assert paths.job(ids[4]).done.read_bytes() == before


class Terminal(io.StringIO):
    """A user at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stale", [False, True])
def test_retry_that_a_person_refuses_leaves_a_complete_analysis_alone(
    fake: FakeSlurm, paths: StudyPaths, ids: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], stale: bool,
) -> None:  # fmt: skip
    for job_id in ids:
        done(paths, job_id)
    if stale:  # older than an evaluation: only it is made again
        later = paths.job(ids[4]).done.stat().st_mtime + 1
        os.utime(paths.job(ids[2]).done, (later, later))
    else:
        paths.job(ids[2]).done.unlink()
        fail(paths, ids[2])
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal to print on
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(["retry", STUDY]) == 130
    assert f"Submit {1 if stale else 2} tasks?" in re.sub("\x1b.*?m", "", capsys.readouterr().out)
    assert paths.job(ids[4]).done.is_file()
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["retry", STUDY]) == 0
    assert resubmitted(paths, 0) == ([[ids[4]]] if stale else [[ids[2]], [ids[4]]])
    assert not paths.job(ids[4]).done.exists()


def test_retry_does_not_take_a_silent_slurm_for_an_empty_queue(
    fake: FakeSlurm, paths: StudyPaths, half: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer(squeue={"code": 1, "error": "slurm_load_jobs error: Unable to contact slurm controller"})
    assert main(["retry", STUDY]) == 2
    assert "try again when SLURM answers" in capsys.readouterr().err
    assert not fake.calls("sbatch")


def test_retry_is_refused_while_another_launcher_works(
    fake: FakeSlurm, paths: StudyPaths, half: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(ledger, "WAIT_S", 0.1)
    with locked(paths.lock):
        assert main(["retry", STUDY]) == 2
    assert "another launcher is working on this study" in capsys.readouterr().err


def test_retry_on_this_machine_runs_just_those_cells(
    fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tasks the local launcher gets; it is tested elsewhere."""
    plan, paths, _ = swept(tmp_path, profile=None)
    ids = [job.job_id for job in plan.jobs]
    fail(paths, ids[0])
    done(paths, ids[1])
    seen: list[list[str]] = []

    def run(tasks: list[object], *_: object) -> LocalResult:
        seen.append([job_id for task in tasks for job_id in task.job_ids])  # type: ignore[attr-defined]
        return LocalResult()

    monkeypatch.setattr("launcher.cluster.local.run", run)
    assert main(["retry", STUDY]) == 0
    assert seen == [[ids[0], ids[2], ids[4]]]  # not evaluate 1, which was not named
