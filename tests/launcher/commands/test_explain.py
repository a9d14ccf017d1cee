"""`explain`: the cause, the chain, the log, and the command that helps."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from launcher.cluster.execution import write_execution
from launcher.commands.explain import Explanation, explain, explanation_json, print_explanation, worst
from launcher.job.causes import Execution
from launcher.planning.sites import Site
from launcher.state.status import survey_of
from study.files import write_json
from study.jobs.plan import Plan
from study.jobs.specs import TrainSpec
from study.paths import StudyPaths
from tests.launcher.fake_slurm import FakeSlurm, queue_of
from tests.launcher.studies import (
    PROFILE,
    begin,
    done,
    end,
    fail,
    put_on_path,
    status_of,
    submit,
    swept,
)  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return put_on_path(tmp_path, monkeypatch)


@pytest.fixture
def study(tmp_path: Path, fake: FakeSlurm) -> tuple[Plan, StudyPaths, Site]:
    """train 0, train 1, evaluate 0, evaluate 1, analyse; all submitted as 7_0 to 7_4, none in the queue."""
    plan, paths, site = swept(tmp_path, profile=PROFILE + "max_mem_gib: 6\n")
    submit(paths, "7", [[job.job_id] for job in plan.jobs])
    return plan, paths, site


def explained(plan: Plan, paths: StudyPaths, index: int, name: str = "out/s") -> Explanation:
    found = survey_of(plan, paths, fresh=True)
    return explain(status_of(found, plan.jobs[index].job_id), found, paths, name)


def printed(explanation: Explanation, num_affected: int = 1) -> str:
    console = Console(file=io.StringIO(), width=110)
    print_explanation(explanation, console, num_affected=num_affected)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def ran(paths: StudyPaths, job_id: str, outcome: str, cause: str | None = None) -> None:
    begin(paths, job_id, "7_0")
    end(paths, job_id, "7_0", outcome, cause)


def test_a_failure_has_cause_attempts_traceback_and_what_to_type(
    study: tuple[Plan, StudyPaths, Site],
) -> None:
    plan, paths, _ = study
    job = plan.jobs[0]
    ran(paths, job.job_id, "failed", "error")
    trace = "Traceback (most recent call last):\n" + "".join(f"  line {i}\n    ^^^^\n" for i in range(30))
    fail(paths, job.job_id, "no [/x]", "error", traceback=trace + "ValueError: no [/x]\n")
    explanation = explained(plan, paths, 0)
    assert (explanation.status.state, explanation.status.cause) == ("failed", "error")
    assert explanation.excerpt.splitlines() == [f"  line {i}" for i in range(16, 30)] + [
        "ValueError: no [/x]"
    ]
    assert explanation.next == f"fix what the message names, then: calsweep retry out/s {job.job_id}"
    text = printed(explanation, num_affected=3)
    assert f"train {job.name} ({job.job_id})" in text
    assert "failed, error: no [/x], and 2 more jobs with the same failure" in text
    assert "7_0.0" in text
    assert "n1" in text
    assert "    ValueError: no [/x]" in text
    assert f"next  {explanation.next}" in text


def test_the_log_of_the_rank_that_failed(study: tuple[Plan, StudyPaths, Site], tmp_path: Path) -> None:
    plan, paths, _ = study
    job_id = plan.jobs[0].job_id
    folder = paths.submission(1)
    folder.mkdir(parents=True)
    for rank in (0, 1):
        (folder / f"7_0_{rank}_log.err").write_text(f"rank {rank} says\n")
        (folder / f"7_0_{rank}_log.out").write_text("out\n")
    ran(paths, job_id, "failed", "error")
    fail(paths, job_id, cause="error", logs=[str(folder / "7_0_1_log.out"), str(folder / "7_0_1_log.err")])
    explanation = explained(plan, paths, 0)
    assert (explanation.log, explanation.excerpt) == (folder / "7_0_1_log.err", "rank 1 says")
    fail(paths, job_id, cause="error")  # the rank is unknown
    explanation = explained(plan, paths, 0)
    assert (explanation.log, explanation.excerpt) == (folder / "7_0_0_log.err", "rank 0 says")


def test_a_users_error_needs_no_excerpt(study: tuple[Plan, StudyPaths, Site]) -> None:
    """The log may end with another language of the same task."""
    plan, paths, _ = study
    job_id, log = plan.jobs[0].job_id, paths.submission(1) / "7_0_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback (most recent call last):\n  of somebody else\n")
    ran(paths, job_id, "failed", "user error")
    fail(paths, job_id, "row 3: no text", logs=[str(log)])
    explanation = explained(plan, paths, 0)
    assert (explanation.log, explanation.excerpt) == (log, "")
    text = printed(explanation)
    assert "failed, user error: row 3: no text" in text
    assert f"  log: {log}\n" in text
    assert "Traceback" not in text


def test_a_local_file_that_was_fixed_makes_another_job(study: tuple[Plan, StudyPaths, Site]) -> None:
    """Its content is part of the job's identity, so a retry would run the old job."""
    plan, paths, _ = study
    job = plan.jobs[0]
    assert isinstance(job.spec, TrainSpec)
    ran(paths, job.job_id, "failed", "user error")
    fail(paths, job.job_id, f"cannot load the model {job.spec.model.name}: torn")
    explanation = explained(plan, paths, 0)
    assert explanation.next == (
        "fix what the message names, then: calsweep sweep GRID.yaml"
        f"    # if you restored it: calsweep retry out/s {job.job_id}"
    )


def test_a_blocked_job_has_the_chain_and_the_remedy_of_its_root(tmp_path: Path, fake: FakeSlurm) -> None:
    grid = """
study: s
prepare: {t: {dataset: cldr-pretrain}}
grid: {model: [t], dataset: [cldr-instruct]}
evaluate: {include_base: false, benchmarks: [{name: cldr_lite, languages: [en]}]}
"""
    plan, paths, _ = swept(tmp_path, grid)
    prepare, train, _, _ = (job.job_id for job in plan.jobs)
    fail(paths, prepare, "no data")
    explanation = explained(plan, paths, 2)
    assert [entry.job.job_id for entry in explanation.blocked_by] == [train, prepare]
    assert explanation.next.startswith(f"fix what the message names, then: calsweep retry out/s {prepare} ")
    text = printed(explanation)
    assert f"it needs prepare t ({prepare}), which is failed: no data" in text


@pytest.mark.parametrize(
    ("cause", "had_gib", "expected"),
    [
        ("out of host memory", 4, "calsweep retry out/s JOB    # with mem_gib 4 -> 6"),
        (
            "out of host memory", 6,
            "raise resources.train.mem_gib (the profile's max_mem_gib is 6) in the grid, then: SWEEP",
        ),
        ("time limit", 4, "raise resources.train.time_min in the grid, then: SWEEP"),
        ("node failure", 4, "calsweep retry out/s JOB"),
        ("killed", 4, "calsweep retry out/s JOB"),
        ("error", 4, "fix what the message names, then: calsweep retry out/s JOB"),
        (
            "user error", 4,
            "fix what the message names, then: calsweep retry out/s JOB    # if it is in the grid: SWEEP",
        ),
        (
            "out of GPU memory", 4,
            "give more GPUs or a higher zero_stage to resources.train in the grid, then: SWEEP",
        ),
    ],
)  # fmt: skip
def test_the_next_command_fits_the_cause(
    study: tuple[Plan, StudyPaths, Site], cause: str, had_gib: float, expected: str
) -> None:
    plan, paths, site = study
    job_id = plan.jobs[0].job_id
    resources = dataclasses.replace(site.resources["train"], mem_gib=had_gib, micro_batch_size=1)
    write_execution(paths.job(job_id), Execution(resources), site)
    ran(paths, job_id, "failed", cause)
    fail(paths, job_id, "it ended", cause)
    explanation = explained(plan, paths, 0)
    assert explanation.next == expected.replace("JOB", job_id).replace("SWEEP", "calsweep sweep GRID.yaml")


def test_what_remedies_have_changed(study: tuple[Plan, StudyPaths, Site]) -> None:
    plan, paths, site = study
    job_id = plan.jobs[0].job_id
    execution = Execution(site.resources["train"], {"mem_gib": 6}, ("out of host memory: mem_gib 4 -> 6",))
    write_execution(paths.job(job_id), execution, site)
    explanation = explained(plan, paths, 0)
    assert list(explanation.changes) == ["out of host memory: mem_gib 4 -> 6"]
    assert "changed after out of host memory: mem_gib 4 -> 6" in printed(explanation)


def test_a_queued_job_has_slurms_reason(study: tuple[Plan, StudyPaths, Site], fake: FakeSlurm) -> None:
    plan, paths, _ = study
    out = "7_2|PENDING|Dependency|(null)\n7_0|PENDING|Priority|(null)\n"
    fake.answer(squeue={"out": out, "dependency": "afterok:7_0(unfulfilled)"})
    explanation = explained(plan, paths, 2)
    assert (explanation.reason, explanation.dependency) == ("Dependency", "afterok:7_0(unfulfilled)")
    assert explanation.next == "calsweep watch out/s"
    text = printed(explanation)
    assert "task 7_2 waits (Dependency: it waits for jobs that it needs)" in text
    assert "until afterok:7_0(unfulfilled)" in text
    fake.answer(squeue={"out": out})
    explanation = explained(plan, paths, 0)
    assert (explanation.reason, explanation.dependency) == ("Priority", None)


def test_running_missing_and_stale_have_a_next_command_too(
    study: tuple[Plan, StudyPaths, Site], fake: FakeSlurm, tmp_path: Path
) -> None:
    plan, paths, _ = study
    ids = [job.job_id for job in plan.jobs]
    fake.answer(squeue=queue_of("7_0 RUNNING"))
    begin(paths, ids[0], "7_0")
    write_json(paths.job(ids[0]).progress, {"done": 3, "total": 8, "unit": "steps"})
    begin(paths, ids[1], "7_1")
    running, stale, missing = (explained(plan, paths, i) for i in (0, 1, 2))
    assert running.next == f"calsweep logs out/s {ids[0]} --follow"
    assert "running, 3 of 8 steps\n" in printed(running)
    assert stale.next == f"calsweep retry out/s {ids[1]}"
    assert missing.next == "calsweep sweep GRID.yaml"
    grid = str(tmp_path / "grid.yaml")
    assert explained(plan, paths, 2, grid).next == f"calsweep sweep {grid}"
    done(paths, ids[3])
    assert explained(plan, paths, 3).next == "nothing: it is done"


def test_one_of_each_distinct_failure(study: tuple[Plan, StudyPaths, Site]) -> None:
    plan, paths, _ = study
    for job in plan.jobs[:2]:
        fail(paths, job.job_id, "no such file")
    fail(paths, plan.jobs[2].job_id, "another")
    explanation = [(status.job.job_id, count) for status, count in worst(survey_of(plan, paths))]
    assert explanation == [(plan.jobs[0].job_id, 2), (plan.jobs[2].job_id, 1)]


def test_as_json(study: tuple[Plan, StudyPaths, Site]) -> None:
    plan, paths, _ = study
    ran(paths, plan.jobs[0].job_id, "failed", "error")
    fail(paths, plan.jobs[0].job_id, "it ended", "error")
    explanation = json.loads(json.dumps(explanation_json(explained(plan, paths, 0))))
    assert (explanation["job_id"], explanation["state"], explanation["cause"]) == (
        plan.jobs[0].job_id,
        "failed",
        "error",
    )
    assert [(entry["task"], entry["outcome"]) for entry in explanation["attempts"]] == [("7_0", "failed")]
    assert explanation["next"].endswith(f"calsweep retry out/s {plan.jobs[0].job_id}")
