"""A working directory with a local model in it, for plans and commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.grids import write_model
from tests.launcher.fake_slurm import FakeSlurm
from tests.launcher.studies import put_on_path, submit, swept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m")
    return tmp_path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return put_on_path(tmp_path, monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """train 0, train 1, evaluate 0, evaluate 1, analyse."""
    return swept(tmp_path)[0]


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "outputs" / "s")


@pytest.fixture
def ids(plan: Plan) -> list[str]:
    return [job.job_id for job in plan.jobs]


@pytest.fixture
def placed(paths: StudyPaths, ids: list[str]) -> list[str]:
    """All jobs submitted: 7_0 to 7_4, in plan order."""
    submit(paths, "7", [[job_id] for job_id in ids])
    return ids
