"""A benchmark that changes while its evaluations wait: they fail, and those of the others are scored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from launcher.job.work import run_job
from launcher.planning.plan import build_plan, resolved
from launcher.planning.tasks import missing_tasks
from study import stopping
from study.errors import JobError
from study.files import read_json, write_json
from study.jobs.plan import write_plan, write_specs
from study.jobs.resources import Resources
from study.jobs.specs import EvalSpec
from study.paths import StudyPaths
from study.records import read_predictions
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.grids import grid_of

GRID = """
study: s
grid: {model: [m]}
evaluate:
  languages_per_task: 4
  dtype: fp32
  benchmarks: [{name: x, path: x, schema: global_mmlu}, {name: y, path: y, schema: global_mmlu}]
tracking: {mode: disabled}
"""


def write_rows(folder: Path, question: str) -> None:
    folder.mkdir(exist_ok=True)
    row = {"subject": "s", "question": question, **{f"option_{k}": k for k in "abcd"}, "answer": "A"}
    text = "".join(json.dumps({"sample_id": f"{i}", **row}) + "\n" for i in range(3))
    for language in ("en", "sw"):
        (folder / f"{language}.jsonl").write_text(text)


@pytest.mark.parametrize(("changed", "other"), ["xy", "yx"])
def test_only_the_benchmark_that_changed_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, other: str
) -> None:
    for name in ("SLURM_PROCID", "SLURM_ARRAY_JOB_ID", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping, "listen", lambda: None)  # signals are the main thread's
    save(make_llama(), make_tokenizer(), tmp_path / "m")
    for name in "xy":
        write_rows(tmp_path / name, "old")
    grid = grid_of(tmp_path, GRID)
    plan, paths = build_plan(grid), StudyPaths(grid.study_dir)
    write_plan(plan, resolved(grid), paths)
    write_specs(plan.jobs, paths)
    execution = {"resources": dataclasses.asdict(Resources()), "tracking": {"mode": "disabled"}}
    for job in plan.jobs:
        write_json(paths.job(job.job_id).execution, execution)
    (task,) = [task for task in missing_tasks(plan, paths, 4) if task.kind == "evaluate"]
    write_rows(tmp_path / changed, "a much longer and altogether different question")
    with pytest.raises(JobError, match=rf"/{changed} has changed .* \(and 1 more\)$"):
        run_job(str(paths.root), *task.job_ids)
    found = []
    for job in task.jobs:
        assert isinstance(job.spec, EvalSpec)
        folder, name = paths.job(job.job_id), job.spec.benchmark.name
        found.append((name, job.spec.language))
        if name == other:
            table, _ = read_predictions(folder.predictions)
            prompt = make_tokenizer()("old\nA. a\nB. b\nC. c\nD. d\nAnswer:")["input_ids"]
            assert table["num_prompt_tokens"].to_pylist() == [len(prompt)] * 3
            assert folder.done.is_file()
        else:
            sentence = f"{tmp_path / changed} has changed since it was planned: sweep again, or restore it"
            assert read_json(folder.failed)["message"] == sentence
            assert not folder.done.exists()
            assert not list(folder.predictions.glob("*"))
    assert sorted(found) == [("x", "en"), ("x", "sw"), ("y", "en"), ("y", "sw")]
