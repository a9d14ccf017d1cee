"""Studies made by hand, for tests of commands: folders, markers, a ledger, a queue."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import ledger, scheduler
from launcher.job import attempts
from launcher.planning.plan import resolved
from launcher.planning.sites import Site, load_site, write_site
from launcher.state.status import JobStatus, Survey, survey_of
from study.files import write_json
from study.jobs.plan import Plan, write_plan
from study.paths import StudyPaths
from tests.grids import grid_of, write_model
from tests.launcher.fake_slurm import FakeSlurm, install

GRID = """
study: s
grid: {model: [m], dataset: [cldr-instruct], label_smoothing: [0.0, 0.1]}
evaluate: {include_base: false, benchmarks: [{name: cldr_lite, languages: [en]}]}
"""
PROFILE = """
executor: slurm
partition: main
query_interval_s: 30
resources: {train: {mem_gib: 4, time_min: 30}}
"""


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A SLURM of fake commands that answer at once."""
    monkeypatch.setattr(scheduler, "BACKOFF_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return install(folder / "bin")


def without_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", str(folder / "empty"))


def swept(folder: Path, grid: str = GRID, profile: str | None = PROFILE) -> tuple[Plan, StudyPaths, Site]:
    """A study as `sweep` leaves it before it submits anything: plan and site. profile: None for local."""
    from launcher.planning.plan import build_plan

    write_model(folder / "m")
    cluster = "local"
    if profile is not None:
        (folder / "site.yaml").write_text(profile)
        cluster = "site.yaml"
    loaded = grid_of(folder, grid, f"cluster={cluster}", f"outputs={folder / 'outputs'}")
    plan, site, paths = build_plan(loaded), load_site(loaded), StudyPaths(loaded.study_dir)
    write_plan(plan, resolved(loaded), paths)
    write_site(site, paths.site)
    return plan, paths, site


def submit(
    paths: StudyPaths, array: str | None, packs: Sequence[Sequence[str]], cluster: str = "slurm"
) -> ledger.Submission:
    """Note a submission in the ledger; without an array only its intent."""
    entry = ledger.write_intent(paths.ledger, "train", cluster, packs)
    return entry if array is None else ledger.write_array(paths.ledger, entry, array)


def begin(paths: StudyPaths, job_id: str, task: str, host: str = "n1") -> None:
    attempts.begin(paths.job(job_id), f"{task}.0", task, host)


def end(paths: StudyPaths, job_id: str, task: str, outcome: str, cause: str | None = None) -> None:
    attempts.end(paths.job(job_id), f"{task}.0", outcome, cause)


def fail(
    paths: StudyPaths, job_id: str, message: str = "no such file", cause: str = "user error", **more: Any
) -> None:
    report = {"cause": cause, "error": "JobError", "message": message, "logs": [], **more}
    write_json(paths.job(job_id).failed, report)


def done(paths: StudyPaths, job_id: str) -> None:
    write_json(paths.job(job_id).done, {})


def make_old(paths: StudyPaths, seconds: float = 60) -> None:
    """Make the last query to SLURM so much older."""
    data = json.loads(paths.queue.read_text())
    for key in ("told", "asked", "asked_ended"):
        data[key] -= seconds
    paths.queue.write_text(json.dumps(data))


def states(plan: Plan, paths: StudyPaths, **how: Any) -> list[str]:
    return [status.state for status in survey_of(plan, paths, **how).statuses]


def status_of(found: Survey, job_id: str) -> JobStatus:
    (status,) = [status for status in found.statuses if status.job.job_id == job_id]
    return status


def soon() -> None:
    """Let the clock advance: times are written to the millisecond."""
    time.sleep(0.005)
