"""States from markers, locks and the queue, on folders made by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.job import attempts
from launcher.state.status import STATES, failures, status_json, survey_of
from study.files import locked, write_json
from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.grids import plan_of, write_model
from tests.launcher.fake_slurm import FakeSlurm, queue_of
from tests.launcher.studies import (
    GRID,
    begin,
    done,
    end,
    fail,
    states,
    status_of,
    submit,
    swept,
)


def test_a_study_that_was_never_run(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    paths = StudyPaths(tmp_path / "s")
    assert states(plan_of(tmp_path, GRID), paths) == ["missing"] * 5
    assert not paths.root.exists()  # asking writes nothing


def test_done(plan: Plan, paths: StudyPaths, ids: list[str]) -> None:
    fail(paths, ids[0])  # a second attempt of a complete job, which stays complete
    for job_id in ids:
        done(paths, job_id)
    assert states(plan, paths) == ["done"] * 5


def test_a_failure_has_a_reason_and_blocks_what_needs_it_but_not_the_analysis(
    plan: Plan, paths: StudyPaths, ids: list[str]
) -> None:
    fail(paths, ids[0], "CUDA [Errno 2] [/scratch/x]", "error")
    done(paths, ids[1])
    assert states(plan, paths) == ["failed", "done", "blocked", "missing", "missing"]
    found = survey_of(plan, paths)
    status = found.statuses[0]
    assert (status.message, status.cause) == ("CUDA [Errno 2] [/scratch/x]", "error")
    assert found.exit_code == 1


def test_what_needs_a_blocked_job_is_blocked(tmp_path: Path) -> None:
    grid = GRID.replace("grid: {model: [m]", "prepare: {t: {dataset: cldr-pretrain}}\ngrid: {model: [t]")
    plan, paths, _ = swept(tmp_path, grid)
    fail(paths, plan.jobs[0].job_id)
    assert states(plan, paths) == ["failed", *["blocked"] * 4, "missing"]


def test_a_held_lock_is_a_running_job(plan: Plan, paths: StudyPaths, ids: list[str]) -> None:
    fail(paths, ids[0])  # from the earlier attempt
    first = paths.job(ids[0])
    with locked(first.lock):
        assert states(plan, paths) == ["running", "missing", "missing", "missing", "missing"]
    assert states(plan, paths)[0] == "failed"  # a lock file that no process holds means nothing


def test_who_looks_is_not_taken_for_a_running_job(plan: Plan, paths: StudyPaths, ids: list[str]) -> None:
    """Two probes at once each hold a shared lock for a moment."""
    import fcntl

    paths.job(ids[0]).root.mkdir(parents=True)
    with paths.job(ids[0]).lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert states(plan, paths)[0] == "missing"


def test_the_queue(plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm) -> None:
    fail(paths, placed[0])  # from an earlier attempt
    done(paths, placed[2])
    queue = ("7_0 RUNNING", "7_1 PENDING", "7_2 PENDING", "7_3 COMPLETING", "7_4 PENDING", "99 RUNNING")
    fake.answer(squeue=queue_of(*queue))
    found = survey_of(plan, paths)
    assert [status.state for status in found.statuses] == ["running", "queued", "done", "running", "queued"]
    assert [status.task for status in found.statuses] == ["7_0", "7_1", None, "7_3", "7_4"]
    assert found.exit_code == 0


def test_an_array_whose_id_was_never_noted(
    plan: Plan, paths: StudyPaths, ids: list[str], fake: FakeSlurm
) -> None:
    entry = submit(paths, None, [[ids[0]], [ids[1]]])
    fake.answer(squeue=queue_of(f"9_0 RUNNING calsweep:{entry.token}", f"9_1 PENDING calsweep:{entry.token}"))
    assert states(plan, paths)[:2] == ["running", "queued"]
    assert states(plan, paths)[:2] == ["running", "queued"]  # from the cache, too
    assert len(fake.calls("squeue")) == 1


def test_taken_out_of_the_queue_is_missing_and_no_failure(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")  # it ran, and the cancelling killed it without a report
    begin(paths, placed[1], "7_1")
    end(paths, placed[1], "7_1", "terminated")
    fake.answer(squeue=queue_of(*(f"7_{i} CANCELLED" for i in range(5))))
    found = survey_of(plan, paths)
    assert [status.state for status in found.statuses] == ["missing"] * 5
    assert [status.cause for status in found.statuses[:3]] == ["cancelled"] * 2 + [None]
    assert found.statuses[2].message == "removed from the queue before it began"
    assert found.exit_code == 0


def test_what_slurm_drops_because_its_need_failed_is_blocked(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    fail(paths, placed[0])
    fail(paths, placed[1])
    out = "7_2|PENDING|DependencyNeverSatisfied|(null)\n7_3|CANCELLED|Dependency|(null)\n"
    fake.answer(squeue={"out": out})
    assert states(plan, paths)[2:4] == ["blocked", "blocked"]


@pytest.mark.parametrize(
    ("word", "state", "cause"),
    [
        ("NODE_FAIL", "failed", "node failure"),
        ("OUT_OF_MEMORY", "failed", "out of host memory"),
        ("TIMEOUT", "failed", "time limit"),
        ("FAILED", "failed", "killed"),
        ("CANCELLED", "missing", "cancelled"),
    ],
)
@pytest.mark.parametrize("source", ["squeue", "sacct"])
def test_slurm_knows_how_a_silent_job_ended(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm, word: str, state: str, cause: str,
    source: str,
) -> None:  # fmt: skip
    begin(paths, placed[0], "7_0")
    answers: dict[str, dict[str, object]] = {
        "squeue": queue_of(f"7_0 {word}"),
        "sacct": {"out": f"7_0|{word}\n7_1|PENDING\n"},
    }
    fake.answer(**{source: answers[source]})
    first = survey_of(plan, paths).statuses[0]
    assert (first.state, first.cause, first.attempts) == (state, cause, 1)


def test_what_squeue_answered_once_is_remembered(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    """It forgets after five minutes, and there may be no accounting."""
    begin(paths, placed[0], "7_0")
    fake.answer(squeue=queue_of("7_0 NODE_FAIL"))
    survey_of(plan, paths)
    fake.answer(sacct={"code": 1, "error": "Slurm accounting storage is disabled"})
    assert survey_of(plan, paths, fresh=True).statuses[0].cause == "node failure"


def test_a_job_whose_end_is_unknown_is_stale(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")
    fake.answer(sacct={"code": 1, "error": "Slurm accounting storage is disabled"})
    found = survey_of(plan, paths)
    assert [status.state for status in found.statuses] == ["stale", *["missing"] * 4]
    assert found.exit_code == 0
    assert found.statuses[0].message == "it began and disappeared; how it ended is unknown"


def test_a_task_that_died_before_its_job_could_begin_failed(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    """A set-up line of the profile failed, or its Python: nothing of ours has run."""
    fake.answer(squeue=queue_of("7_0 FAILED"))
    first = survey_of(plan, paths).statuses[0]
    assert (first.state, first.cause, first.attempts) == ("failed", "killed", 0)
    assert first.message == "its task 7_0 ended before the job could begin (SLURM's state: FAILED)"


def test_what_accounting_calls_running_after_squeue_has_dropped_it_is_not_known(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")
    fake.answer(sacct={"out": "7_0|RUNNING\n"})
    assert states(plan, paths)[0] == "stale"


def test_an_analysis_older_than_an_evaluation_is_stale(plan: Plan, paths: StudyPaths, ids: list[str]) -> None:
    for job_id in ids:
        done(paths, job_id)
    assert states(plan, paths)[-1] == "done"
    later = paths.job(ids[-1]).done.stat().st_mtime + 1
    os.utime(paths.job(ids[2]).done, (later, later))
    assert states(plan, paths) == ["done"] * 4 + ["stale"]


def test_as_json(plan: Plan, paths: StudyPaths, ids: list[str], fake: FakeSlurm) -> None:
    submit(paths, "7", [[job_id] for job_id in ids])
    fake.answer(squeue=queue_of("7_1 RUNNING"))
    begin(paths, ids[0], "7_0")
    fail(paths, ids[0], "out of memory", "out of host memory")
    begin(paths, ids[1], "7_1")
    write_json(paths.job(ids[1]).progress, {"done": 3, "total": 8, "unit": "steps"})
    printed = json.loads(json.dumps(status_json(survey_of(plan, paths))))
    assert printed["study"] == "s"
    assert printed["counts"] == {
        "done": 0, "running": 1, "queued": 0, "failed": 1, "blocked": 1, "missing": 2, "stale": 0,
    }  # fmt: skip
    assert list(printed["counts"]) == list(STATES)
    assert printed["jobs"][0] == {
        "job_id": ids[0],
        "kind": "train",
        "name": plan.jobs[0].name,
        "cell": dict(plan.jobs[0].cell),
        "state": "failed",
        "task": None,
        "message": "out of memory",
        "cause": "out of host memory",
        "attempts": 1,
        "progress": None,
        "pace": None,
    }
    running = printed["jobs"][1]
    assert (running["task"], running["progress"]) == ("7_1", {"done": 3, "total": 8, "unit": "steps"})


def test_attempts_of_what_is_done_are_counted_when_asked_for(
    plan: Plan, paths: StudyPaths, ids: list[str]
) -> None:
    for task in ("7_0", "8_0"):
        begin(paths, ids[0], task)
        end(paths, ids[0], task, "done")
    done(paths, ids[0])
    assert survey_of(plan, paths).statuses[0].attempts is None  # unknown, not zero
    assert survey_of(plan, paths, all_attempts=True).statuses[0].attempts == 2
    assert len(attempts.read(paths.job(ids[0]))) == 2


def test_the_same_failure_is_shown_once_and_an_analysis_only_fails_with_others(
    plan: Plan, paths: StudyPaths, ids: list[str]
) -> None:
    for job_id in ids[:2]:
        fail(paths, job_id, "no such file")
    fail(paths, ids[-1], "2 of 2 evaluations are missing")
    found = survey_of(plan, paths)
    assert [(key[2], len(struck)) for key, struck in failures(found.statuses).items()] == [
        ("no such file", 2)
    ]
    for job_id in ids[:2]:
        paths.job(job_id).failed.unlink()
    found = survey_of(plan, paths)
    assert [key[2] for key in failures(found.statuses)] == ["2 of 2 evaluations are missing"]
    assert status_of(found, ids[-1]).state == "failed"
