"""A SLURM that is slow, forbidden, or prints something else: what is known is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster import scheduler
from launcher.cluster.scheduler import QueueEntry, ask_ended, ask_queue
from launcher.going_on import continue_study
from launcher.planning.sites import LocalSite, read_site, write_site
from study.errors import UserError
from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.launcher.fake_slurm import FakeSlurm
from tests.launcher.studies import begin, states


@pytest.fixture
def slow(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Its sacct does not answer in time; its squeue, with an empty queue, does."""
    monkeypatch.setattr(scheduler, "TIMEOUT_S", 1)
    for name, line in (("sacct", "exec sleep 600"), ("squeue", "exit 0")):
        (fake.folder / name).write_text(f"#!/bin/sh\n{line}\n")
    return fake


def test_a_slow_sacct_is_like_no_accounting(
    plan: Plan, paths: StudyPaths, placed: list[str], slow: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")
    assert ask_ended(["7"]) is None
    assert states(plan, paths) == ["stale", "missing", "missing", "missing", "missing"]


def test_a_study_continues_without_a_slow_sacct(
    paths: StudyPaths, placed: list[str], slow: FakeSlurm
) -> None:
    begin(paths, placed[0], "7_0")
    assert continue_study(paths, "7_4")
    assert len(slow.calls("sbatch")) == 4  # trainings, their evaluations, and the job that continues


def test_a_job_that_may_not_call_sbatch_makes_the_tables(
    paths: StudyPaths, placed: list[str], fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (fake.folder / "sbatch").chmod(0o644)
    monkeypatch.setenv("PATH", str(fake.folder))
    assert not continue_study(paths, "7_4")
    assert "sbatch cannot be run (Permission denied)" in caplog.text


def test_a_study_that_was_swept_locally_since_is_not_submitted(
    plan: Plan, paths: StudyPaths, placed: list[str], fake: FakeSlurm, caplog: pytest.LogCaptureFixture
) -> None:
    site = read_site(paths.site)
    write_site(LocalSite(site.resources), paths.site)
    assert not continue_study(paths, "7_4")
    assert "swept with cluster=local" in caplog.text
    assert not fake.calls("sbatch")


def test_a_notice_of_the_site_before_squeues_answer_is_not_the_queue(fake: FakeSlurm) -> None:
    fake.answer(squeue={"out": "Maintenance on Monday\n\n7_0|RUNNING|None|a|b\n 8|PENDING|Priority|(null)\n"})
    assert ask_queue().entries == {
        "7_0": QueueEntry("RUNNING", "None", "a|b"),
        "8": QueueEntry("PENDING", "Priority", "(null)"),
    }


def test_a_squeue_with_other_columns_is_not_an_empty_queue(fake: FakeSlurm) -> None:
    fake.answer(squeue={"out": "      7_0  main  s-train  me  R  0:10  1 n1\n"})
    with pytest.raises(UserError) as caught:
        ask_queue()
    assert str(caught.value) == (
        "cluster: squeue printed '7_0  main  s-train  me  R  0:10  1 n1', without the columns "
        "of --format=%i|%T|%r|%k; check whether squeue is a wrapper on this machine"
    )


def test_a_notice_of_the_site_before_saccts_answer_is_not_a_state(fake: FakeSlurm) -> None:
    fake.answer(sacct={"out": "Maintenance\n7_0|FAILED\n7_1|CANCELLED by 1000\n7_2|\n"})
    assert ask_ended(["7"]) == {"7_0": "FAILED", "7_1": "CANCELLED"}
    fake.answer(sacct={"out": "a | notice | of the site\n7_0|FAILED\n"})
    found = ask_ended(["7"])
    assert found is not None
    assert found["7_0"] == "FAILED"


def test_nothing_is_asked_for_nothing(fake: FakeSlurm, tmp_path: Path) -> None:
    assert ask_ended([]) == {}
    assert not fake.calls("sacct")
