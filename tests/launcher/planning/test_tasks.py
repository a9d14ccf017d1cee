"""Jobs packed into tasks: only what is missing, behind what it still needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.planning.tasks import Task, missing_tasks
from study.jobs.plan import Plan
from study.jobs.specs import EvalSpec
from study.paths import StudyPaths
from tests.grids import plan_of, write_model

GRID = """
study: s
grid: {model: [m], dataset: [cldr-instruct], label_smoothing: [0.0, 0.1]}
evaluate: {benchmarks: [{name: cldr_lite, languages: [en, de, sw]}]}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_model(tmp_path / "m")
    return plan_of(tmp_path, GRID)


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "outputs" / "s")


def finish(paths: StudyPaths, *job_ids: str) -> None:
    for job_id in job_ids:
        paths.job(job_id).root.mkdir(parents=True, exist_ok=True)
        paths.job(job_id).done.write_text("{}")


def codes(task: Task) -> list[str]:
    return [job.spec.language for job in task.jobs if isinstance(job.spec, EvalSpec)]


def test_everything_is_missing_at_first(plan: Plan, paths: StudyPaths) -> None:
    tasks = missing_tasks(plan, paths, 1)
    assert [task.kind for task in tasks] == ["train"] * 2 + ["evaluate"] * 9 + ["analyse"]
    assert [job_id for task in tasks for job_id in task.job_ids] == [job.job_id for job in plan.jobs]
    assert all(task.needs == set(task.jobs[0].needs) for task in tasks)


def test_languages_are_packed_by_model_and_never_over_two(plan: Plan, paths: StudyPaths) -> None:
    tasks = [task for task in missing_tasks(plan, paths, 2) if task.kind == "evaluate"]
    assert [codes(task) for task in tasks] == [["de", "en"], ["sw"]] * 3
    for task in tasks:
        assert len({job.spec.model for job in task.jobs if isinstance(job.spec, EvalSpec)}) == 1
    assert tasks[0].name == "m · de en"
    assert len([t for t in missing_tasks(plan, paths, 99) if t.kind == "evaluate"]) == 3


def test_what_is_done_is_left_out_and_no_longer_waited_for(plan: Plan, paths: StudyPaths) -> None:
    first, second = plan.of_kind("train")
    shards = plan.of_kind("evaluate")
    finish(paths, first.job_id, shards[0].job_id, shards[3].job_id)
    tasks = missing_tasks(plan, paths, 2)
    left = [job_id for task in tasks for job_id in task.job_ids]
    assert set(left) == {job.job_id for job in plan.jobs} - {first.job_id, shards[0].job_id, shards[3].job_id}
    assert [codes(task) for task in tasks if task.kind == "evaluate"] == [
        ["en", "sw"], ["en", "sw"], ["de", "en"], ["sw"],
    ]  # fmt: skip
    needs = [task.needs for task in tasks if task.kind == "evaluate"]
    assert needs == [frozenset(), frozenset(), {second.job_id}, {second.job_id}]
    assert tasks[-1].needs == {job.job_id for job in shards} - {shards[0].job_id, shards[3].job_id}


def test_what_is_queued_is_left_out_but_still_waited_for(plan: Plan, paths: StudyPaths) -> None:
    first, second = plan.of_kind("train")
    tasks = missing_tasks(plan, paths, 9, busy=[first.job_id])
    assert [task.job_ids for task in tasks if task.kind == "train"] == [[second.job_id]]
    assert [task.needs for task in tasks if task.kind == "evaluate"] == [
        frozenset(), {first.job_id}, {second.job_id},
    ]  # fmt: skip


def test_nothing_is_left_when_all_is_done(plan: Plan, paths: StudyPaths) -> None:
    finish(paths, *(job.job_id for job in plan.jobs))
    assert missing_tasks(plan, paths, 1) == []
