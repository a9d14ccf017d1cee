"""`methods`: every number is one of the study's files, what is missing is said, and the LaTeX is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.cli import main
from launcher.planning.plan import build_plan, resolved
from study import journal
from study.files import write_json
from study.grid.config import load_grid
from study.jobs.plan import write_plan, write_specs
from study.paths import ROOT, StudyPaths

CONSTANTS = {"95", "1,000", "0.05", "0.01", "15", "0", "2"}
"""Numbers of the inference text, the bins and headings."""


def planned(folder: Path, *overrides: str) -> StudyPaths:
    grid = load_grid(ROOT / "examples" / "demo.yaml", [f"outputs={folder}", *overrides])
    plan, paths = build_plan(grid), StudyPaths(folder / "demo")
    write_plan(plan, resolved(grid), paths)
    write_specs(plan.jobs, paths)
    return paths


def test_every_number_is_in_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = planned(tmp_path, "grid.label_smoothing=[0.0,0.07]", "train.num_steps=137")
    assert main(["methods", str(paths.root)]) == 0
    said = capsys.readouterr().out
    assert said == (paths.tables / "methods.md").read_text(encoding="utf-8")
    plan = paths.plan.read_text(encoding="utf-8")
    assert "137 steps of 32 examples" in said
    assert "label smoothing 0, 0.07" in said
    assert "seeds 3 (0, 1, 2): 6 trainings" in said
    assert "13 languages (am, ar, de," in said
    assert "| missing | 91 of 91 evaluations (cldr-tiny on cldr_lite test letter: am ar de " in said
    assert "; and of 2 more cells) |" in said
    counted = {"3", "6", "13", "91"}  # seeds, trainings, languages, evaluations; of them 5 cells are named
    for number in re.findall(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d(?![\w.])", said):
        assert number in CONSTANTS | counted or number in plan, number


def test_hours_are_those_of_the_journals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two trainings of two hours on four GPUs; an evaluation task of half an hour, whose jobs share it."""
    paths = planned(tmp_path)
    plan = build_plan(load_grid(ROOT / "examples" / "demo.yaml"))
    gpus = {"resources": {"gpus_per_node": 4, "nodes": 1}}
    for k, job in enumerate(plan.of_kind("train")[:2]):
        ended(paths, job.job_id, f"train{k}", 1000.0, 8200.0, gpus)
    for job in plan.of_kind("evaluate")[:3]:
        ended(paths, job.job_id, "evaluate", 1000.0, 2800.0, {"resources": {"gpus_per_node": 1, "nodes": 1}})
    assert main(["methods", str(paths.root)]) == 0
    assert (
        "| compute | 0.50 GPU-hours of evaluation, 16.00 GPU-hours of training |" in capsys.readouterr().out
    )


def test_waiting_for_a_requeue_is_no_compute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A requeued task keeps its name: an hour, nine hours in the queue, an hour."""
    paths = planned(tmp_path)
    job = build_plan(load_grid(ROOT / "examples" / "demo.yaml")).of_kind("train")[0]
    for began in (0.0, 36000.0):
        ended(
            paths, job.job_id, "7_0", began, began + 3600.0, {"resources": {"gpus_per_node": 1, "nodes": 1}}
        )
    assert main(["methods", str(paths.root)]) == 0
    assert "| compute | 2.00 GPU-hours of training |" in capsys.readouterr().out


def test_files_that_a_kill_cut_off_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = planned(tmp_path)
    job = build_plan(load_grid(ROOT / "examples" / "demo.yaml")).of_kind("train")[0]
    ended(paths, job.job_id, "7_0", 0.0, 3600.0, {"resources": {"gpus_per_node": 1, "nodes": 1}})
    for file in (paths.job(job.job_id).execution, paths.job(job.job_id).env):
        file.write_text('{"resources": {"gp')
    assert main(["methods", str(paths.root)]) == 0
    said = capsys.readouterr().out
    assert "| compute | 1.00 core-hours of training |" in said
    assert "| software | unknown: no job says |" in said


def ended(
    paths: StudyPaths, job_id: str, task: str, began: float, end: float, execution: dict[str, dict[str, int]]
) -> None:
    folder = paths.job(job_id)
    write_json(folder.execution, execution)
    journal.append(folder.attempts, {"time": began, "event": "begin", "attempt": "a", "task": task})
    journal.append(folder.attempts, {"time": end, "event": "end", "attempt": "a", "outcome": "done"})


def test_one_seed_compares_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = planned(tmp_path, "grid.seed=[7]")
    assert main(["methods", str(paths.root)]) == 0
    assert "1 (7); the study compares checkpoints, not methods" in capsys.readouterr().out


def test_latex_is_whole(tmp_path: Path) -> None:
    paths = planned(tmp_path)
    assert main(["methods", str(paths.root)]) == 0
    text = (paths.tables / "methods.tex").read_text(encoding="utf-8")
    body = re.sub(r"\\[&%$#_{}]", "", text)
    assert body.count("{") == body.count("}")
    assert "cldr\\_lite" in text
    assert not re.search(r"(?<!\\)_", text)


def test_what_is_no_study_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", str(tmp_path)]) == 2
    assert "is not a study (no plan.json)" in capsys.readouterr().err
