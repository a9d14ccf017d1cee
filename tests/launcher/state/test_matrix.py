"""The matrix of a study: rows, columns, characters, and each failure once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from launcher.cluster.queue_cache import QueueView
from launcher.state.matrix import GLYPHS, PLAIN_GLYPHS, matrix, print_status
from launcher.state.status import STATES, JobStatus, Survey
from study.jobs.plan import Plan
from study.jobs.specs import EvalSpec
from tests.grids import plan_of, write_model

AXES = "label_smoothing: [0.0, 0.1], seed: [1, 2]"
GRID = """
study: paper
grid: {model: [llama, qwen], dataset: [cldr-instruct], AXES}
evaluate: {benchmarks: [BENCHMARKS]}
"""


def study(folder: Path, languages: str = "en, sw", axes: str = AXES, more: str = "") -> Plan:
    for name in ("llama", "qwen"):
        write_model(folder / name, name)
    benchmarks = f"{{name: cldr_lite, languages: [{languages}]}}{more}"
    return plan_of(folder, GRID.replace("AXES", axes).replace("BENCHMARKS", benchmarks))


def survey_of(plan: Plan, *, otherwise: str = "done", **of_name: str) -> Survey:
    """otherwise: the state of all jobs except those named by id."""
    states = {job.job_id: of_name.get(job.job_id, otherwise) for job in plan.jobs}
    return Survey(plan, [JobStatus(job, states[job.job_id]) for job in plan.jobs], QueueView())


def lines(found: Survey, width: int = 110, max_rows: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(matrix(found, console, max_rows=max_rows))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in shown)
    return [line.rstrip() for line in shown]


def test_rows_are_models_and_columns_are_languages(tmp_path: Path) -> None:
    plan = study(tmp_path)
    train = plan.of_kind("train")[0]
    first = [job for job in plan.of_kind("evaluate") if job.needs == (train.job_id,)]
    found = survey_of(plan, **{first[0].job_id: "running", first[1].job_id: "failed"})
    shown = lines(found)
    assert shown[0] == "study paper · dataset cldr-instruct · lr 1e-05"
    assert shown[2:] == [
        "                           cldr_lite",
        "model  ε     seed  train   en sw",
        "llama  base                ●  ●",
        "       0     1     ●       ▶  ✗",
        "             2     ●       ●  ●",
        "       0.1   1     ●       ●  ●",
        "             2     ●       ●  ●",
        "qwen   base                ●  ●",
        "       0     1     ●       ●  ●",
        "             2     ●       ●  ●",
        "       0.1   1     ●       ●  ●",
        "             2     ●       ●  ●",
    ]


def test_each_state_has_a_different_character() -> None:
    for glyphs in (GLYPHS, PLAIN_GLYPHS):
        assert set(glyphs) == set(STATES)
        assert len({*glyphs.values()}) == len(STATES)
        assert all(cell_len(glyph) == 1 for glyph in glyphs.values())
    assert "".join(PLAIN_GLYPHS.values()).isascii()


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="latin-1", errors="replace")  # as commands set it
    console = Console(file=file, width=80)
    console.print(matrix(survey_of(study(tmp_path, axes="seed: [1]"), otherwise="failed"), console))
    file.flush()
    assert raw.getvalue().decode("latin-1").splitlines()[-1].split() == ["trained", "X", "X", "X"]


def test_all_languages_fit_where_they_stand_upright(tmp_path: Path) -> None:
    plan = study(tmp_path, "all", "learning_rate: [5e-6, 1e-5], label_smoothing: [0.0, 0.1], seed: [1, 2]")
    codes = list(dict.fromkeys(job.spec.language for job in plan.jobs if isinstance(job.spec, EvalSpec)))
    assert len(codes) >= 42
    shown = lines(survey_of(plan))
    top = next(i for i, line in enumerate(shown) if "cldr_lite" in line)
    left = shown[top].index("cldr_lite")
    upright = [shown[top + 1 + i][left:].ljust(len(codes)) for i in range(max(map(len, codes)))]
    assert ["".join(letters).strip() for letters in zip(*upright, strict=True)] == codes
    rows = [line[left:] for line in shown[top + 1 + len(upright) :]]
    assert rows == ["●" * len(codes)] * 18


def test_a_narrow_terminal_gets_counts(tmp_path: Path) -> None:
    plan = study(tmp_path, "all")
    shard = plan.of_kind("evaluate")[0]
    count = len({job.spec.language for job in plan.jobs if isinstance(job.spec, EvalSpec)})
    shown = lines(survey_of(plan, **{shard.job_id: "failed"}), width=60)
    assert f"{count} languages" in shown[3]
    assert shown[4].split() == ["llama", "base", f"●{count - 1}", "✗1"]


def test_a_row_of_more_than_there_is_room_for_is_counted(tmp_path: Path) -> None:
    """The urgent ones are kept, in their order."""
    plan = study(tmp_path)
    last = plan.of_kind("evaluate")[-1]
    shown = lines(survey_of(plan, **{last.job_id: "failed"}), max_rows=2)
    assert [line.split()[-2:] for line in shown[4:6]] == [["●", "●"], ["●", "✗"]]
    assert shown[6] == "... and 8 more rows: ● 23 done"  # 7 trained rows of 3 jobs, a base one of 2


def test_how_far_trainings_are(tmp_path: Path) -> None:
    plan = study(tmp_path, axes="seed: [1]")
    statuses = [
        JobStatus(job, "running", progress={"done": 42, "total": 100, "unit": "steps"})
        if job.kind == "train"
        else JobStatus(job, "queued")
        for job in plan.jobs
    ]
    shown = lines(Survey(plan, statuses, QueueView()))
    assert sum("▶ 42%" in line for line in shown) == 2
    assert shown[0] == "study paper · dataset cldr-instruct · lr 1e-05 · ε 0 · seed 1"
    assert shown[4].split() == ["llama", "base", "○", "○"]
    assert shown[5].split() == ["trained", "▶", "42%", "○", "○"]


def test_each_benchmark_has_its_own_languages(tmp_path: Path) -> None:
    data = tmp_path / "ours"
    data.mkdir()
    (data / "xx.jsonl").write_text('{"x": 1}\n')
    plan = study(tmp_path, axes="seed: [1]", more=", {name: ours, path: ours, schema: global_mmlu}")
    shown = lines(survey_of(plan))
    heads = [
        shown[i + 1].split()[-2:] for i, line in enumerate(shown) if line.strip() in ("cldr_lite", "ours")
    ]
    assert heads == [["en", "sw"], ["train", "xx"]]


def test_a_study_without_evaluations(tmp_path: Path) -> None:
    write_model(tmp_path / "llama")
    plan = plan_of(tmp_path, "study: s\ngrid: {model: [llama], dataset: [cldr-instruct], seed: [1, 2]}\n")
    shown = lines(survey_of(plan, otherwise="queued"))
    assert shown[2:] == ["model  seed  train", "llama  1     ○", "       2     ○"]


def test_a_prepared_model(tmp_path: Path) -> None:
    grid = """
study: s
prepare: {tiny: {dataset: cldr-pretrain}}
grid: {model: [tiny], dataset: [cldr-instruct], seed: [1]}
evaluate: {include_base: BASE, benchmarks: [{name: cldr_lite, languages: [en]}]}
"""
    for base, rows in (
        ("true", [["tiny", "base", "●", "●"], ["trained", "●", "●"]]),
        ("false", [["tiny", "prepared", "●"], ["trained", "●", "●"]]),
    ):
        shown = lines(survey_of(plan_of(tmp_path, grid.replace("BASE", base))))
        row_texts = [line.split() for line in shown[4:]]
        assert row_texts == rows


def test_splits_of_a_benchmark_are_separate_blocks(tmp_path: Path) -> None:
    """One to choose the learning rate by, one to report: each has its own shards."""
    plan = study(tmp_path, more=", {name: cldr_lite, split: dev, languages: [en]}")
    assert all(job.spec.benchmark.split for job in plan.of_kind("evaluate") if isinstance(job.spec, EvalSpec))
    failed = [
        job.job_id
        for job in plan.of_kind("evaluate")
        if isinstance(job.spec, EvalSpec) and job.spec.benchmark.split == "test" and job.spec.language == "en"
    ]
    shown = lines(survey_of(plan, **dict.fromkeys(failed, "failed")))
    assert sum(line.count("✗") for line in shown) == len(failed) == 10
    assert [line.strip() for line in shown if "cldr_lite" in line] == ["cldr_lite", "cldr_lite dev"]


def test_failures_are_shown_once_with_the_command_that_explains_them(tmp_path: Path) -> None:
    plan = study(tmp_path, axes="seed: [1]")
    statuses = [
        # brackets are rich's markup, and must neither disappear nor raise
        JobStatus(job, "failed", message="no [x] in [/scratch/x]", cause="error")
        if job.kind == "train"
        else JobStatus(job, "blocked" if job.needs and job.kind == "evaluate" else "done")
        for job in plan.jobs
    ]
    console = Console(file=io.StringIO(), width=110)
    print_status(
        Survey(plan, statuses, QueueView(trouble="SLURM does not answer: [x]")), "out/paper", console
    )
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    first = plan.of_kind("train")[0]
    at = shown.index("11 jobs  ● 5 done  ✗ 2 failed  ⊘ 4 blocked")
    assert shown[at + 1 :] == [
        "analysis  ● done",
        "SLURM does not answer: [x]; all states are from the jobs' own files",
        f"failed train {first.name} ({first.job_id}) and 1 more: error: no [x] in [/scratch/x]",
        f"  calsweep explain out/paper {first.job_id}",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 110, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    plan = study(tmp_path, "all", "learning_rate: [5e-6, 1e-5], label_smoothing: [0.0, 0.1], seed: [1, 2]")
    assert lines(survey_of(plan), width)
