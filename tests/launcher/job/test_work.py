"""The function that a task runs: its files after a failure, and when there is nothing to do."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest

import launcher.job.work
from launcher.job import attempts
from launcher.job.work import run_job, run_task
from launcher.planning.plan import build_plan, resolved
from study import stopping
from study.errors import JobError, Stopped
from study.files import locked, read_json, write_json
from study.jobs.plan import Plan, write_plan, write_specs
from study.jobs.resources import Resources
from study.paths import StudyPaths
from tests.grids import grid_of
from tests.waiting import HANG_S

GRID = """
study: s
grid: {model: [m], dataset: [cldr-instruct]}
evaluate: {include_base: false, benchmarks: [{name: cldr_lite, languages: [en, sw]}]}
tracking: {mode: disabled}
"""


@pytest.fixture
def study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, StudyPaths]:
    """train, evaluate en, evaluate sw, analyse: planned, nothing run."""
    for name in ("SLURM_PROCID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    grid = grid_of(folder, GRID)
    plan, paths = build_plan(grid), StudyPaths(grid.study_dir)
    write_plan(plan, resolved(grid), paths)
    write_specs(plan.jobs, paths)
    monkeypatch.setattr(stopping, "listen", lambda: None)  # signals are the main thread's
    execution = {"resources": dataclasses.asdict(Resources()), "tracking": {"mode": "disabled"}}
    for job in plan.jobs:
        write_json(paths.job(job.job_id).execution, execution)
    return plan, paths


def test_a_failure_is_recorded_in_every_job_of_the_task(
    study: tuple[Plan, StudyPaths], capfd: pytest.CaptureFixture[str]
) -> None:
    plan, paths = study
    train, first, second = (job.job_id for job in plan.jobs[:3])
    with pytest.raises(JobError):
        run_job(str(paths.root), first, second)
    for job_id in (first, second):
        folder = paths.job(job_id)
        failed = read_json(folder.failed)
        assert failed["error"] == "JobError"
        assert failed["message"] == f"job {train}, whose model this one needs, is not complete"
        assert "traceback" not in failed  # the message is enough
        assert read_json(folder.env)["versions"]["torch"]
        assert not folder.done.exists()
        with locked(folder.lock, wait=False) as free:
            assert free
    assert f"JobError: job {train}, whose model" in capfd.readouterr().err


def test_a_bug_is_recorded_with_its_traceback(study: tuple[Plan, StudyPaths]) -> None:
    plan, paths = study
    first = paths.job(plan.jobs[1].job_id)
    first.execution.unlink()
    with pytest.raises(FileNotFoundError):
        run_job(str(paths.root), plan.jobs[1].job_id)
    failed = read_json(first.failed)
    assert failed["error"] == "FileNotFoundError"
    assert "execution.json" in failed["message"]
    assert "Traceback (most recent call last)" in failed["traceback"]


def test_a_job_without_a_readable_spec_is_recorded_too(study: tuple[Plan, StudyPaths]) -> None:
    plan, paths = study
    folder = paths.job(plan.jobs[1].job_id)
    folder.spec.write_text("{")
    with pytest.raises(json.JSONDecodeError):
        run_job(str(paths.root), plan.jobs[1].job_id)
    assert read_json(folder.failed)["error"] == "JSONDecodeError"


def test_complete_jobs_are_left_alone(study: tuple[Plan, StudyPaths]) -> None:
    plan, paths = study
    folder = paths.job(plan.jobs[1].job_id)
    write_json(folder.done, {})
    before = {path.name for path in folder.root.iterdir()}
    run_job(str(paths.root), plan.jobs[1].job_id)
    assert {path.name for path in folder.root.iterdir()} == before | {"lock"}


def test_an_attempt_waits_for_another_one_and_uses_what_it_left(study: tuple[Plan, StudyPaths]) -> None:
    plan, paths = study
    folder = paths.job(plan.jobs[1].job_id)
    with locked(folder.lock):
        attempt = threading.Thread(target=run_job, args=(str(paths.root), plan.jobs[1].job_id))
        attempt.start()
        attempt.join(0.3)
        assert attempt.is_alive()
        write_json(folder.done, {})
    attempt.join(HANG_S)
    assert not attempt.is_alive()
    assert not folder.env.exists()  # it computed nothing
    assert not folder.failed.exists()


def test_only_the_first_rank_writes(study: tuple[Plan, StudyPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, paths = study
    folder = paths.job(plan.jobs[1].job_id)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_PROCID", "1")
    write_json(folder.env, {"attempt": "7_3.0"})  # the first rank has begun
    with pytest.raises(JobError):
        run_job(str(paths.root), plan.jobs[1].job_id)
    # except its failure, which it may be the only rank to know
    assert {path.name for path in folder.root.iterdir()} == {
        "spec.json", "execution.json", "env.json", "FAILED",
    }  # fmt: skip


def test_an_analysis_over_missing_shards_writes_its_tables_and_fails(
    study: tuple[Plan, StudyPaths],
) -> None:
    plan, paths = study
    (job,) = plan.of_kind("analyse")
    with pytest.raises(JobError, match=r"^2 of 2 evaluations are missing; the tables say which$"):
        run_job(str(paths.root), job.job_id)
    assert (paths.tables / "calibration.csv").is_file()
    assert not paths.job(job.job_id).done.exists()


def test_other_ranks_follow_rank_0(study: tuple[Plan, StudyPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait while an orphan of an earlier attempt holds the job, and end when it has completed it."""
    plan, paths = study
    folder = paths.job(plan.jobs[0].job_id)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_PROCID", "1")
    write_json(folder.env, {"attempt": "6_3.0"})  # of the orphan
    ended = threading.Event()

    def other_rank() -> None:
        run_job(str(paths.root), plan.jobs[0].job_id)
        ended.set()

    thread = threading.Thread(target=other_rank, daemon=True)
    thread.start()
    assert not ended.wait(0.5)
    write_json(folder.done, {})
    assert ended.wait(HANG_S)
    thread.join()


def test_other_ranks_begin_when_rank_0_has_begun(
    study: tuple[Plan, StudyPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, paths = study
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    evaluation = plan.jobs[1].job_id
    write_json(paths.job(evaluation).env, {"attempt": "7_3.2"})
    with pytest.raises(JobError, match="is not complete"):  # it continued, and found its model missing
        run_job(str(paths.root), evaluation)


def test_a_local_job_inside_an_allocation_goes_by_its_own_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes of an interactive SLURM job inherit SLURM_PROCID=0."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_GLOBALID", "1")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "4242")
    assert launcher.job.work.place() == (1, "4242", "4242")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert launcher.job.work.place() == (0, "77_5", "77_5.0")


def test_each_language_of_a_pack_has_its_own_failure(
    study: tuple[Plan, StudyPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, paths = study
    train, first, second = (job.job_id for job in plan.jobs[:3])
    write_json(paths.job(train).done, {})

    def one_fails(jobs: list[Any], **_: object) -> list[Any]:
        write_json(jobs[0][1].done, {})
        return [(jobs[1][0], JobError("sw.jsonl, row 3: broken"))]

    monkeypatch.setattr("evaluation.shard.evaluate", one_fails)
    with pytest.raises(JobError, match=r"cldr_lite en|cldr_lite sw"):
        run_job(str(paths.root), first, second)
    assert not paths.job(first).failed.exists()
    assert read_json(paths.job(second).failed)["message"] == "sw.jsonl, row 3: broken"


def test_attempts_are_recorded_from_begin_to_end(
    study: tuple[Plan, StudyPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, paths = study
    train, first, second = (job.job_id for job in plan.jobs[:3])
    starts = iter(("7_3.0", "7_3.1"))
    monkeypatch.setattr(launcher.job.work, "place", lambda: (0, "7_3", next(starts)))
    with pytest.raises(JobError):
        run_job(str(paths.root), first)
    write_json(paths.job(train).done, {})
    write_json(paths.job(first).progress, {"done": 5, "total": 9, "unit": "items"})

    def finish(jobs: list[Any], **_: object) -> list[Any]:
        for _, folder in jobs:
            write_json(folder.done, {})
        return []

    monkeypatch.setattr("evaluation.shard.evaluate", finish)
    run_job(str(paths.root), first, second)
    recorded = [(a.outcome, a.cause, a.progress) for a in attempts.read(paths.job(first))]
    assert recorded == [("failed", "user error", 0), ("done", None, 5)]
    assert [a.outcome for a in attempts.read(paths.job(second))] == ["done"]
    assert not paths.job(first).failed.exists()


@pytest.mark.parametrize(
    ("warned", "rank", "code", "outcome"),
    [(True, "0", 75, "stopped"), (False, "0", 143, "terminated"), (True, "1", 0, None)],
)
def test_a_stop_is_not_a_failure(
    study: tuple[Plan, StudyPaths],
    monkeypatch: pytest.MonkeyPatch,
    warned: bool,
    rank: str,
    code: int,
    outcome: str | None,
) -> None:
    """Rank 0 alone has an exit code, for the batch script; one of another rank would end rank 0 too early."""
    plan, paths = study
    folder = paths.job(plan.jobs[1].job_id)
    write_json(paths.job(plan.jobs[0].job_id).done, {})

    def stop(*_: object, **__: object) -> None:
        raise Stopped("stopped at item 256 of 569")

    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_PROCID", rank)
    monkeypatch.setattr("evaluation.shard.evaluate", stop)
    monkeypatch.setattr(stopping, "warned", lambda: warned)
    write_json(folder.env, {"attempt": "7_3.0"})
    with pytest.raises(SystemExit) as caught:
        run_job(str(paths.root), plan.jobs[1].job_id)
    assert caught.value.code == code
    assert [a.outcome for a in attempts.read(folder)] == ([outcome] if outcome else [])
    assert not folder.failed.exists()


def test_a_task_takes_its_share_of_the_submission(
    study: tuple[Plan, StudyPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths = study
    write_json(paths.submission(3) / "packs.json", [["a"], ["b", "c"]])
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(launcher.job.work, "run_job", lambda *arguments: seen.append(arguments))
    run_task(str(paths.root), 3)
    assert seen == [(str(paths.root), "b", "c")]
