"""Queries to SLURM: which, how often, and what counts while it does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.state.status import survey_of
from study.errors import UserError
from study.files import locked, read_json, write_json
from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.launcher.fake_slurm import FakeSlurm, queue_of
from tests.launcher.studies import (
    begin,
    done,
    end,
    fail,
    make_old,
    soon,
    states,
    submit,
    without_slurm,
)


def test_slurm_is_asked_once_in_a_while(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")  # sacct is asked for it
    for _ in range(3):
        survey_of(plan, paths)
    assert (len(fake.calls("squeue")), len(fake.calls("sacct"))) == (1, 1)
    assert fake.calls("squeue")[0]["arguments"] == [
        "--noheader", "--array", "--states=all", "--me", "--format=%i|%T|%r|%k",
    ]  # fmt: skip
    make_old(paths, 31)
    survey_of(plan, paths)
    assert (len(fake.calls("squeue")), len(fake.calls("sacct"))) == (2, 2)
    survey_of(plan, paths, fresh=True)
    assert (len(fake.calls("squeue")), len(fake.calls("sacct"))) == (3, 3)


def test_a_clock_that_was_put_back_does_not_stop_the_asking(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    survey_of(plan, paths)
    make_old(paths, -3600)
    survey_of(plan, paths)
    assert len(fake.calls("squeue")) == 2


def test_what_is_submitted_after_the_answer_is_queued(
    plan: Plan, paths: StudyPaths, ids: list[str], fake: FakeSlurm
) -> None:
    submit(paths, "7", [[ids[0]]])
    fake.answer(squeue=queue_of("7_0 RUNNING"))
    survey_of(plan, paths)
    submit(paths, "8", [[ids[1]]])
    fail(paths, ids[1])  # from an earlier attempt
    assert states(plan, paths) == ["running", "queued", "missing", "missing", "missing"]
    begin(paths, ids[1], "8_0")
    assert states(plan, paths)[1] == "running"
    assert len(fake.calls("squeue")) == 1


def test_what_a_job_reports_after_the_answer_counts(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")
    fake.answer(squeue=queue_of("7_0 RUNNING", "7_1 PENDING"))
    assert states(plan, paths)[:2] == ["running", "queued"]
    soon()
    begin(paths, placed[1], "7_1")
    fail(paths, placed[0], cause="user error")
    end(paths, placed[0], "7_0", "failed", "user error")
    assert states(plan, paths)[:3] == ["failed", "running", "blocked"]
    assert len(fake.calls("squeue")) == 1


def test_a_failure_that_is_tried_again_by_itself_is_left_to_the_queue(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")
    fake.answer(squeue=queue_of("7_0 RUNNING"))
    survey_of(plan, paths)
    soon()
    fail(paths, placed[0], cause="out of host memory")
    end(paths, placed[0], "7_0", "failed", "out of host memory")
    assert states(plan, paths)[0] == "running"  # until SLURM says that it has left, or is queued again


def test_when_slurm_does_not_answer_the_last_answer_and_the_markers_remain(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    fake.answer(squeue=queue_of("7_0 RUNNING", *(f"7_{i} PENDING" for i in range(1, 5))))
    survey_of(plan, paths)
    done(paths, placed[0])
    fake.answer(squeue={"code": 1, "error": "slurm_load_jobs error: Unable to contact slurm controller"})
    make_old(paths)
    found = survey_of(plan, paths)
    assert [status.state for status in found.statuses] == ["done", *["queued"] * 4]
    assert found.view.trouble is not None
    assert found.view.trouble.startswith("SLURM does not answer: squeue failed (")
    calls = len(fake.calls("squeue"))
    make_old(paths, 31)  # it is asked less often the longer it does not answer
    survey_of(plan, paths)
    assert len(fake.calls("squeue")) == calls
    make_old(paths, 31)
    survey_of(plan, paths)
    assert len(fake.calls("squeue")) == calls + 1
    fake.answer()
    assert survey_of(plan, paths, fresh=True).view.trouble is None


def test_a_squeue_that_refuses_is_a_sentence(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    fake.answer(squeue={"code": 1, "error": "squeue: error: Invalid user"})
    with pytest.raises(UserError, match="Invalid user"):
        survey_of(plan, paths)


def test_without_slurm_states_are_from_the_jobs_own_files(
    plan: Plan, paths: StudyPaths, placed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_slurm(tmp_path, monkeypatch)
    begin(paths, placed[0], "7_0")
    fail(paths, placed[1])
    end_of = "7_1"
    begin(paths, placed[1], end_of)
    end(paths, placed[1], end_of, "failed", "user error")
    found = survey_of(plan, paths)
    assert [status.state for status in found.statuses] == ["running", "failed", *["queued"] * 3]
    assert found.view.trouble == "SLURM is not on the PATH here"


def test_local_submissions_are_not_asked_of_a_cluster(
    plan: Plan, paths: StudyPaths, ids: list[str], fake: FakeSlurm
) -> None:
    submit(paths, "4711", [[ids[0]]], cluster="local")
    assert states(plan, paths)[0] == "missing"
    begin(paths, ids[0], "4711")
    assert states(plan, paths)[0] == "stale"
    with locked(paths.job(ids[0]).lock):
        assert states(plan, paths)[0] == "running"
    assert not fake.calls("squeue")
    assert not fake.calls("sacct")


def test_a_study_of_somebody_else_can_be_read(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    fake.answer(squeue=queue_of("7_0 RUNNING"))
    monkeypatch.setattr("launcher.cluster.queue_cache.write_json", refuse)
    assert states(plan, paths)[0] == "running"


def test_the_kept_answer_of_another_version_is_none(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm
) -> None:
    fake.answer(squeue=queue_of("7_0 RUNNING"))
    write_json(paths.queue, {"queue": {}, "something": "else"})
    assert states(plan, paths)[0] == "running"
    assert read_json(paths.queue)["number"] == 1
