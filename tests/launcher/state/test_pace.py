"""Speed and time left, shown only while they are true; for each task, those of its current job."""

from __future__ import annotations

import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import evaluation.shard
from launcher.cluster.queue_cache import QueueView
from launcher.state.matrix import pace_lines, print_status
from launcher.state.pace import BETWEEN, STALLED_S, Pace, describe, pace_of
from launcher.state.status import JobStatus, Survey, status_json, survey_of
from study.files import locked, write_json
from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.launcher.fake_slurm import FakeSlurm, queue_of
from tests.launcher.studies import begin, done, end, put_on_path, status_of, submit, swept

BEGAN = 1000.0
GRID = """
study: s
grid: {model: [m]}
evaluate: {benchmarks: [{name: cldr_lite, languages: [en, sw, yo]}]}
"""


def items(done: int, per_s: float | None = None, total: int = 14042) -> dict[str, Any]:
    speed = {} if per_s is None else {"items_per_s": per_s}
    return {"done": done, "total": total, "unit": "items", **speed}


def steps(done: int, per_s: float | None = None, total: int = 400) -> dict[str, Any]:
    speed = {} if per_s is None else {"steps_per_s": per_s}
    return {"done": done, "total": total, "unit": "steps", **speed}


@pytest.mark.parametrize(
    ("progress", "heard", "now", "expected"),
    [
        # 13,530 items at 41 a second are 330 s, of which 3 have passed since
        (items(512, 41.0), 1060, 1063, "512 of 14042 items, 41 items/s, 5 min left"),
        (items(13786, 41.0), 1060, 1063, "13786 of 14042 items, 41 items/s, 3 s left"),
        (steps(40, 0.125), 1060, 1061, "40 of 400 steps, 0.125 steps/s, 48 min left"),
        # a part takes 512 s: silence of twenty minutes is nothing
        (items(512, 0.5), 2100, 3300, "512 of 14042 items, 0.5 items/s, 7.4 h left"),
        (items(512, 1240.0), 1060, 1060, "512 of 14042 items, 1240 items/s, 11 s left"),
        # an overdue report ends the estimate, and later the job is shown as stalled
        (items(512, 41.0), 1060, 1100, "512 of 14042 items, no progress for 40 s"),
        (items(512, 41.0), 1060, 1060 + 1380, "512 of 14042 items, stalled: no progress for 23 min"),
        (items(512, 0.5), 2100, 2100 + 5200, "512 of 14042 items, stalled: no progress for 87 min"),
        (steps(40, 0.125), 1060, 1060 + 301, "40 of 400 steps, stalled: no progress for 5 min"),
        (steps(40, 0.02), 1060, 1060 + 301, "40 of 400 steps, no progress for 5 min"),
        # before the first part there is no speed, and a large model takes its time
        (items(0), 1060, 1062, "0 of 14042 items"),
        (items(0), 1060, 1100, "0 of 14042 items, no progress for 40 s"),
        (items(0), 1060, 1060 + 1801, "0 of 14042 items, stalled: no progress for 30 min"),
        (None, None, 1040, "starting for 40 s"),
        (None, None, 1000 + 3600, "stalled, starting for 60 min"),
        # the speed of an earlier attempt does not count
        (items(512, 41.0), 990, 1040, "starting for 40 s"),
        (items(512, 41.0), 999.99, 1003, "512 of 14042 items, 41 items/s, 5 min left"),
        # it saves its model
        (steps(400, 0.125), 1060, 1061, "400 of 400 steps"),
        (steps(400, 0.125), 1060, 1060 + 600, "400 of 400 steps, no progress for 10 min"),
    ],
)
def test_paces_in_words(
    progress: dict[str, Any] | None, heard: float | None, now: float, expected: str
) -> None:
    assert describe(pace_of(progress, BEGAN, heard, now)) == expected


@given(
    done=st.integers(0, 500),
    total=st.integers(1, 500),
    per_s=st.none() | st.floats(1e-4, 1e5),
    heard=st.none() | st.floats(0, 1e6),
    now=st.floats(0, 1e6),
    unit=st.sampled_from(["items", "steps"]),
)
def test_an_estimate_is_what_the_speed_makes_of_what_is_left(
    done: int, total: int, per_s: float | None, heard: float | None, now: float, unit: str
) -> None:
    """And there is none without a speed, nor in a stalled job."""
    progress = {"done": min(done, total), "total": total, "unit": unit, f"{unit}_per_s": per_s}
    pace = pace_of(progress, BEGAN, heard, now)
    assert pace.silent_s >= 0
    assert (pace.left_s is None) == (pace.per_s is None)
    if pace.left_s is not None:
        assert not pace.stalled
        assert per_s is not None
        assert heard is not None
        whole, word = (total - min(done, total)) / per_s, BETWEEN[unit] / per_s
        assert max(0, whole - word) <= pace.left_s <= whole
        assert now - heard <= max(10, 3 * word)
    assert describe(pace)


def test_a_word_of_an_evaluation_is_a_part() -> None:
    assert BETWEEN["items"] == evaluation.shard.PART_SIZE


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return put_on_path(tmp_path, monkeypatch)


@pytest.fixture
def study(tmp_path: Path, fake: FakeSlurm) -> tuple[Plan, StudyPaths, list[str]]:
    """Evaluations en, sw, yo, packed into task 7_0, which runs and has begun; analyse."""
    plan, paths, _ = swept(tmp_path, GRID)
    ids = [job.job_id for job in plan.jobs]
    submit(paths, "7", [ids[:3]])
    fake.answer(squeue=queue_of("7_0 RUNNING"))
    for job_id in ids[:3]:
        begin(paths, job_id, "7_0")
    return plan, paths, ids


def tell(paths: StudyPaths, job_id: str, progress: dict[str, Any], ago_s: float = 0) -> None:
    file = paths.job(job_id).progress
    write_json(file, progress)
    os.utime(file, (time.time() - ago_s,) * 2)


def lines(plan: Plan, paths: StudyPaths) -> list[str]:
    return [line.plain for line in pace_lines(survey_of(plan, paths, fresh=True))]


def test_the_pace_of_a_pack_is_that_of_its_current_job(study: tuple[Plan, StudyPaths, list[str]]) -> None:
    plan, paths, ids = study
    names = [job.name for job in plan.jobs]
    (line,) = lines(plan, paths)
    assert re.fullmatch(rf"evaluate {names[0]}  starting for \d+ s, then 2 more", line)
    tell(paths, ids[0], items(64, 0.1, 128))
    assert lines(plan, paths) == [
        f"evaluate {names[0]}  64 of 128 items, 0.1 items/s, 11 min left, then 2 more"
    ]
    done(paths, ids[0])
    tell(paths, ids[1], items(0, None, 128))
    assert lines(plan, paths) == [f"evaluate {names[1]}  0 of 128 items, then 1 more"]
    # the second one failed, which is recorded at the end of the task
    tell(paths, ids[2], items(32, 0.1, 128))
    assert lines(plan, paths) == [f"evaluate {names[2]}  32 of 128 items, 0.1 items/s, 16 min left"]
    done(paths, ids[1])
    done(paths, ids[2])
    assert lines(plan, paths) == []


def test_a_stalled_job_comes_first(tmp_path: Path, fake: FakeSlurm) -> None:
    plan, paths, _ = swept(tmp_path, GRID)
    ids = [job.job_id for job in plan.jobs]
    submit(paths, "7", [[job_id] for job_id in ids[:3]])
    fake.answer(squeue=queue_of(*(f"7_{i} RUNNING" for i in range(3))))
    for i, job_id in enumerate(ids[:3]):
        begin(paths, job_id, f"7_{i}")
        tell(paths, job_id, items(64, 0.1, 128))
    make_begun_long_ago(paths, ids[1])
    tell(paths, ids[1], items(64, 8.0, 128), ago_s=STALLED_S + 60)
    shown = lines(plan, paths)
    assert [line.split("  ", 1)[1] for line in shown] == [
        "64 of 128 items, stalled: no progress for 6 min",
        "64 of 128 items, 0.1 items/s, 11 min left",
        "64 of 128 items, 0.1 items/s, 11 min left",
    ]
    told_json = json.loads(json.dumps(status_json(survey_of(plan, paths))))
    as_json = {job["job_id"]: job["pace"] for job in told_json["jobs"]}
    assert (as_json[ids[1]]["stalled"], as_json[ids[1]]["left_s"]) == (True, None)
    assert as_json[ids[0]]["left_s"] == pytest.approx(640, abs=30)
    assert as_json[ids[3]] is None


def make_begun_long_ago(paths: StudyPaths, job_id: str) -> None:
    file = paths.job(job_id).attempts
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**entry, "time": entry["time"] - 7200}) + "\n" for entry in entries))


def test_a_job_that_does_not_run_has_no_pace(
    study: tuple[Plan, StudyPaths, list[str]], fake: FakeSlurm
) -> None:
    plan, paths, ids = study
    for job_id in ids[:3]:
        tell(paths, job_id, items(64, 0.1, 128))
        end(paths, job_id, "7_0", "failed", "killed")
    assert lines(plan, paths) == []  # SLURM says that it runs: it is ending, or begins again
    fake.answer(squeue=queue_of("7_0 PENDING"))
    assert lines(plan, paths) == []


def test_on_this_machine_too(tmp_path: Path, fake: FakeSlurm) -> None:
    plan, paths, _ = swept(tmp_path, GRID, profile=None)
    job = plan.jobs[0]
    submit(paths, "4711", [[job.job_id]], cluster="local")
    begin(paths, job.job_id, "4711")
    tell(paths, job.job_id, items(64, 0.1, 128))
    with locked(paths.job(job.job_id).lock):
        found = survey_of(plan, paths)
        assert status_of(found, job.job_id).pace is not None
        console = Console(file=io.StringIO(), width=110)
        print_status(found, "out/s", console)
    assert isinstance(console.file, io.StringIO)
    assert f"evaluate {job.name}  64 of 128 items, 0.1 items/s, 11 min left\n" in console.file.getvalue()
    assert lines(plan, paths) == []


def test_of_many_tasks_the_rest_is_counted(tmp_path: Path) -> None:
    plan, _, _ = swept(tmp_path, GRID)
    pace = Pace(silent_s=1, stalled=False, unit="items", done=1, total=4, per_s=1, left_s=2)
    statuses = [JobStatus(plan.jobs[0], "running", pace=pace)] * 13
    shown = pace_lines(Survey(plan, statuses, QueueView()), most=10)
    assert len(shown) == 11
    assert shown[-1].plain == "... and 3 more running tasks"


def test_a_name_is_cut_where_there_is_no_room_and_never_its_pace(tmp_path: Path) -> None:
    plan, _, _ = swept(tmp_path, GRID)
    pace = Pace(silent_s=1, stalled=False, unit="items", done=1, total=4, per_s=1, left_s=2, num_waiting=3)
    found = Survey(plan, [JobStatus(plan.jobs[0], "running", pace=pace)], QueueView())
    words = "1 of 4 items, 1 items/s, 2 s left, then 3 more"
    (line,) = pace_lines(found, width=64)
    assert line.cell_len == 64
    assert line.plain.endswith(f"…  {words}")
    assert line.plain.startswith("evaluate m")
    (line,) = pace_lines(found)
    assert line.plain == f"evaluate {plan.jobs[0].name}  {words}"
