"""A hyperparameter is added as CONTRIBUTING.md says: old ids stay, another value gives other ids."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import copy_project, follow
from tests.sweeping import ROOT
from tests.waiting import HANG_S

GRID = """
study: grown
prepare: {tiny: {dataset: cldr-pretrain}}
grid: {model: [tiny], dataset: [cldr-instruct], seed: [0, 1]}
evaluate: {benchmarks: [{name: cldr_lite, languages: [en, sw]}]}
"""
IDS = """
import json, sys, tempfile
from pathlib import Path
from tests.golden.make import job_ids, quiet_hub
with tempfile.TemporaryDirectory() as folder, quiet_hub(Path(folder)):
    print(json.dumps(job_ids(Path(folder))))
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with one more hyperparameter."""
    copy = copy_project(tmp_path_factory.mktemp("grown") / "calsweep")
    follow("Add a training option", copy)
    return copy


def python(code: Path, *arguments: str) -> str:
    """What the copy's Python prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=code, capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def tasks(code: Path, folder: Path, *overrides: str, grid: str = GRID) -> list[dict[str, Any]]:
    """What the copy's dry run would start."""
    (folder / "grid.yaml").write_text(grid)
    sweep = ["-m", "launcher.cli", "sweep", str(folder / "grid.yaml"), "--dry-run", "--json"]
    printed = json.loads(python(code, *sweep, f"outputs={folder / 'outputs'}", *overrides))
    found: list[dict[str, Any]] = printed["tasks"]
    return found


def ids(code: Path, folder: Path, *overrides: str, grid: str = GRID) -> list[str]:
    return [job for task in tasks(code, folder, *overrides, grid=grid) for job in task["jobs"]]


def test_all_golden_ids_stay(grown: Path) -> None:
    golden = json.loads((ROOT / "tests" / "golden" / "files" / "ids.json").read_text())
    assert json.loads(python(grown, "-c", IDS)) == golden


@pytest.mark.parametrize(
    "test", ["launcher/planning/test_plan.py::test_golden_plan", "study/jobs/test_specs.py"]
)
def test_the_golden_plan_stays_and_specs_are_checked(grown: Path, test: str) -> None:
    printed = python(grown, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{test}")
    assert re.search(r"\d+ passed", printed)


def test_the_neutral_value_changes_nothing_and_another_every_id_behind_it(
    grown: Path, tmp_path: Path
) -> None:
    before = ids(ROOT, tmp_path)
    assert ids(grown, tmp_path, "train.adam_epsilon=1e-8") == before
    after = ids(grown, tmp_path, "train.adam_epsilon=1e-6")
    assert len(after) == len(before)
    # the model that is made from nothing and its own two evaluations are as they were
    assert len({*before} & {*after}) == 3


def test_it_is_an_axis(grown: Path, tmp_path: Path) -> None:
    found = tasks(grown, tmp_path, "grid.adam_epsilon=[1e-8,1e-6]")
    trained = [task["name"].split()[-1] for task in found if task["kind"] == "train"]
    assert trained == ["adam_epsilon=1e-08", "adam_epsilon=1e-06"] * 2
    jobs = {job for task in found for job in task["jobs"]}
    assert len({*ids(ROOT, tmp_path)} - jobs) == 1  # the analysis, which has more to look at


def test_it_is_checked(grown: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    command = [sys.executable, "-m", "launcher.cli", "sweep", str(tmp_path / "grid.yaml"), "--dry-run"]
    done = subprocess.run(
        [*command, "train.adam_epsilon=-1"], cwd=grown, capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 2
    assert done.stderr == "calsweep: command line: train.adam_epsilon: out of range; give a positive number\n"


WRITE = """
import sys
from pathlib import Path
from launcher.planning.plan import build_plan, resolved
from study.grid.config import load_grid
from study.jobs.plan import write_plan
from study.paths import StudyPaths
grid = load_grid(Path(sys.argv[1]))
write_plan(build_plan(grid), resolved(grid), StudyPaths(Path(sys.argv[2])))
"""
READ = """
import json, sys
from pathlib import Path
from study.jobs.plan import plan_to_dict, read_plan
from study.paths import StudyPaths
paths = StudyPaths(Path(sys.argv[1]))
plan = read_plan(paths)
assert plan_to_dict(plan) == json.loads(paths.plan.read_text())
print(*{job.spec.hyper.adam_epsilon for job in plan.of_kind("train")}, len(plan.jobs))
"""


def test_a_plan_of_before_is_read_and_written_as_it_was(grown: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    study = str(tmp_path / "study")
    python(ROOT, "-c", WRITE, str(tmp_path / "grid.yaml"), study)
    assert python(grown, "-c", READ, study) == "1e-08 10\n"


OPTIMIZER = """
from torch import nn
from study.jobs.specs import Hyperparameters
from training.engine.zero import _optimizer
print(_optimizer(nn.Linear(2, 2), Hyperparameters(adam_epsilon=1e-6)).defaults["eps"])
"""


def test_it_reaches_the_optimizer(grown: Path) -> None:
    assert python(grown, "-c", OPTIMIZER) == "1e-06\n"
