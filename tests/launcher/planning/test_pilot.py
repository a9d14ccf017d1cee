"""The pilot: a small copy of one cell; then really run, and its measurements used in the forecast."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from launcher.cost.forecast import forecast
from launcher.cost.throughput import measured, steady_tokens_per_s
from launcher.planning.pilot import NUM_ITEMS, NUM_STEPS, pilot_grid
from launcher.planning.plan import build_plan
from launcher.planning.sites import ClusterProfile, LocalSite, SlurmSite, load_site
from launcher.planning.tasks import missing_tasks
from study.errors import UserError
from study.grid.config import Grid, load_grid
from study.jobs.job import KINDS, Job
from study.jobs.plan import Plan
from study.jobs.resources import Resources
from study.jobs.specs import EvalSpec, TrainSpec
from study.paths import StudyPaths
from tests.grids import grid_of
from tests.launcher.plans import GRID
from tests.sweeping import SMOKE, run, sweep_command


def pilot_of(folder: Path, text: str, *overrides: str) -> tuple[Grid, Plan, Plan]:
    """The pilot's grid, its plan, and the study's."""
    grid = grid_of(folder, text, *overrides)
    plan = build_plan(grid)
    small = pilot_grid(grid, plan)
    return small, build_plan(small), plan


def hyper_of(job: Job) -> Any:
    assert isinstance(job.spec, TrainSpec)
    return job.spec.hyper


def test_the_pilot_is_one_cell_with_few_steps_in_the_studys_folder(folder: Path) -> None:
    small, pilot, plan = pilot_of(folder, GRID)
    assert small.study_dir == folder / "outputs" / "golden" / "pilot"
    assert [job.kind for job in pilot.jobs] == ["prepare", "train", "evaluate", "analyse"]
    train, whole = pilot.of_kind("train")[0], plan.of_kind("train")[0]
    assert train.cell == whole.cell
    assert hyper_of(train).num_steps == hyper_of(pilot.of_kind("prepare")[0]).num_steps == NUM_STEPS
    for name in (
        "global_batch_size",
        "max_length_tokens",
        "template",
        "dtype",
        "num_examples",
        "learning_rate",
    ):
        assert getattr(hyper_of(train), name) == getattr(hyper_of(whole), name)
    evaluation = pilot.of_kind("evaluate")[0]
    assert isinstance(evaluation.spec, EvalSpec)
    assert evaluation.needs == (train.job_id,)
    assert evaluation.spec.benchmark.num_items == NUM_ITEMS
    assert small.config.tracking.mode == "disabled"


def test_its_jobs_are_never_the_studys(folder: Path) -> None:
    _, pilot, plan = pilot_of(folder, GRID)
    assert not {job.job_id for job in pilot.jobs} & {job.job_id for job in plan.jobs}


def test_the_first_cell_is_one_that_the_plan_has(folder: Path) -> None:
    _, pilot, plan = pilot_of(
        folder, GRID + "exclude: [{label_smoothing: 0.0}, {label_smoothing: 0.1, seed: 0}]\n"
    )
    (train,) = pilot.of_kind("train")
    assert train.cell == plan.of_kind("train")[0].cell
    assert (train.cell["label_smoothing"], train.cell["seed"]) == (0.1, 1)


def test_axes_that_advance_together_are_cut_together(folder: Path) -> None:
    _, pilot, plan = pilot_of(folder, GRID + "zip: [[label_smoothing, seed]]\n")
    assert len(plan.of_kind("train")) == 2
    assert [job.cell for job in pilot.of_kind("train")] == [plan.of_kind("train")[0].cell]


@pytest.mark.parametrize("override", ["grid.num_steps=[100,200]", "grid.num_epochs=[3,4]"])
def test_steps_that_are_an_axis_are_few_too(folder: Path, override: str) -> None:
    text = GRID.replace("num_steps: 8, ", "")
    _, pilot, plan = pilot_of(folder, text, override)
    assert hyper_of(pilot.of_kind("train")[0]).num_steps == NUM_STEPS
    assert len(pilot.of_kind("train")) == 1
    assert not {job.job_id for job in pilot.jobs} & {job.job_id for job in plan.jobs}


def test_every_benchmark_is_measured_in_one_language(folder: Path) -> None:
    benchmarks = (
        "evaluate.benchmarks=[{name: cldr_lite, languages: [sw]}, {name: cldr_lite, languages: [de]}, cldr]"
    )
    _, pilot, _ = pilot_of(folder, GRID, benchmarks)
    shards = [job.spec for job in pilot.of_kind("evaluate") if isinstance(job.spec, EvalSpec)]
    assert [(spec.benchmark.name, spec.language) for spec in shards] == [("cldr_lite", "sw"), ("cldr", "af")]


def test_every_split_is_measured_separately(folder: Path) -> None:
    for language in ("en", "sw"):
        rows = [{"question": "q", "split": split} for split in ("test", "validation")]
        (folder / "b").mkdir(exist_ok=True)
        (folder / "b" / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = f"name: own, path: {folder / 'b'}, schema: global_mmlu"
    text = "study: s\ngrid: {model: [m]}\nevaluate:\n  benchmarks:\n"
    text += (
        f"    - {{{benchmark}, languages: [sw]}}\n    - {{{benchmark}, split: validation, languages: [en]}}\n"
    )
    small, pilot, _ = pilot_of(folder, text)
    shards = [job.spec for job in pilot.of_kind("evaluate") if isinstance(job.spec, EvalSpec)]
    assert [(spec.benchmark.split, spec.language) for spec in shards] == [
        ("test", "sw"),
        ("validation", "en"),
    ]
    paths = StudyPaths(small.study_dir)
    found = forecast(pilot, missing_tasks(pilot, paths, 1), paths, load_site(small))
    assert [line.data for line in found.lines] == ["own", "own validation"]


def test_a_benchmark_that_is_listed_again_is_measured_where_its_first_language_lies(folder: Path) -> None:
    entries = []
    for language in ("de", "fr"):
        path = folder / language
        path.mkdir()
        (path / f"{language}.jsonl").write_text(json.dumps({"question": "q", "split": "test"}) + "\n")
        entries.append(f"{{name: own, path: {path}, schema: global_mmlu, languages: [{language}]}}")
    text = "study: s\ngrid: {model: [m]}\nevaluate:\n  benchmarks: [" + ", ".join(entries) + "]\n"
    _, pilot, _ = pilot_of(folder, text)
    shards = [job.spec for job in pilot.of_kind("evaluate") if isinstance(job.spec, EvalSpec)]
    assert [(spec.benchmark.source.name, spec.language) for spec in shards] == [(str(folder / "de"), "de")]


def test_a_study_of_base_models_alone_measures_one_of_them(folder: Path) -> None:
    text = "study: s\ngrid: {model: [m]}\nevaluate: {benchmarks: [{name: cldr, num_items: 7}]}\n"
    _, pilot, _ = pilot_of(folder, text)
    assert [job.kind for job in pilot.jobs] == ["evaluate", "analyse"]
    assert isinstance(pilot.jobs[0].spec, EvalSpec)
    assert pilot.jobs[0].spec.benchmark.num_items == 7


def test_a_budget_never_refuses_what_is_to_measure_it(folder: Path) -> None:
    small, _, _ = pilot_of(folder, GRID + "budget: {gpu_hours: 0}\n")
    assert small.config.budget.gpu_hours is None


def test_a_study_without_work_has_no_pilot(folder: Path) -> None:
    grid = grid_of(folder, GRID)
    with pytest.raises(UserError, match="has nothing to measure"):
        pilot_grid(grid, Plan("s", None, ()))


def test_the_steady_rate_leaves_out_the_first_step() -> None:
    # 50 tokens a step; the first takes 10 s, each later one 2 s
    lines = [{"step": n, "tokens_per_s": 50 * n / (10 + 2 * (n - 1))} for n in (1, 10, 20, 25)]
    assert steady_tokens_per_s(lines) is not None
    rate = steady_tokens_per_s(lines)
    # of 24 steps in 48 s, in units of tokens a step: it is the tokens that cancel
    assert rate == pytest.approx(50 / 2)
    assert steady_tokens_per_s(lines[:1]) is None
    assert steady_tokens_per_s([]) is None
    # resumed at step 24 of 25: the last line is of one slow step alone
    assert steady_tokens_per_s([{"step": 1, "tokens_per_s": 1}, {"step": 25, "tokens_per_s": 50}]) == 50


@pytest.fixture(scope="module")
def piloted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, Plan, StudyPaths]:
    """The smoke study after only its pilot has run, by the ordinary command."""
    outputs = tmp_path_factory.mktemp("piloted")
    grid = load_grid(SMOKE, [f"outputs={outputs}"])
    plan = build_plan(grid)
    file = outputs / "pilot.yaml"
    small = pilot_grid(grid, plan)
    file.write_text(OmegaConf.to_yaml(OmegaConf.structured(small.config)), encoding="utf-8")
    done = run(sweep_command(outputs, f"outputs={small.config.outputs}", grid=file), cwd=outputs)
    assert done.returncode == 0, done.stdout + done.stderr
    return grid, plan, StudyPaths(grid.study_dir)


@pytest.mark.slow
def test_a_real_pilot_measures_training_and_evaluation(piloted: tuple[Grid, Plan, StudyPaths]) -> None:
    grid, plan, paths = piloted
    assert not paths.plan.exists()  # the study itself has not begun
    found = measured(plan, paths, load_site(grid))
    assert found.training.keys() == {"cldr-tiny"}
    assert found.evaluation.keys() == {("cldr-tiny", "cldr_lite")}
    assert {rows for rows, _ in found.lengths.values()} == {3200, 128}  # all rows, though few steps
    pilot = StudyPaths(paths.pilot)
    for job in build_plan(pilot_grid(grid, plan)).of_kind("evaluate"):
        progress = json.loads(pilot.job(job.job_id).progress.read_text())
        assert (progress["done"], progress["items_per_s"]) == (
            NUM_ITEMS,
            found.evaluation["cldr-tiny", "cldr_lite"],
        )


@pytest.mark.slow
def test_the_forecast_uses_what_the_pilot_measured(piloted: tuple[Grid, Plan, StudyPaths]) -> None:
    grid, plan, paths = piloted
    site = load_site(grid)
    result = forecast(plan, missing_tasks(plan, paths, site.languages_per_task), paths, site)
    assert [(line.kind, line.speed, line.unknown) for line in result.lines] == [
        (kind, "measured", ()) for kind in ("prepare", "train", "evaluate")
    ]
    speeds = measured(plan, paths, site)
    prepare, train, evaluation = result.lines
    assert prepare.num_jobs == train.num_jobs == 1
    lengths = dict(speeds.lengths.values())
    assert train.tokens == pytest.approx(8 * 32 * lengths[128])
    assert train.task_hours == pytest.approx(8 * 32 * lengths[128] / speeds.training["cldr-tiny"] / 3600)
    items_per_s = speeds.evaluation["cldr-tiny", "cldr_lite"]
    assert evaluation.task_hours == pytest.approx(2 * 205 / items_per_s / 3600)  # two languages in a task
    assert result.hours("core") == pytest.approx(
        prepare.task_hours + train.task_hours + 2 * evaluation.task_hours  # type: ignore[operator]
    )
    assert "cldr-pretrain" not in " ".join(prepare.estimates)  # it was measured


@pytest.mark.slow
def test_a_speed_on_cores_says_nothing_about_gpus(piloted: tuple[Grid, Plan, StudyPaths]) -> None:
    _, plan, paths = piloted
    site = SlurmSite(ClusterProfile(), {kind: Resources(gpus_per_node=1) for kind in KINDS})
    found = measured(plan, paths, site)
    assert not found.training
    assert not found.evaluation
    assert found.lengths  # how long the data are is the same everywhere
    result = forecast(plan, missing_tasks(plan, paths, 2), paths, site)
    assert {line.speed for line in result.lines} == {"unknown"}


@pytest.mark.slow
def test_ranks_share_the_tokens(piloted: tuple[Grid, Plan, StudyPaths]) -> None:
    grid, plan, paths = piloted
    site = load_site(grid)
    more = {**site.resources, "train": Resources(tasks_per_node=4, cpus_per_task=2)}
    tasks = missing_tasks(plan, paths, 2)
    (one,) = [line for line in forecast(plan, tasks, paths, site).lines if line.kind == "train"]
    (four,) = [line for line in forecast(plan, tasks, paths, LocalSite(more)).lines if line.kind == "train"]
    assert one.task_hours is not None
    assert four.task_hours == pytest.approx(one.task_hours / 4)
    assert four.device_hours == pytest.approx(one.task_hours * 2)  # a quarter of the time on eight cores


@pytest.mark.slow
def test_what_the_study_measured_itself_comes_before_its_pilot(smoke_outputs: Path) -> None:
    grid = load_grid(SMOKE, [f"outputs={smoke_outputs}"])
    plan, paths = build_plan(grid), StudyPaths(grid.study_dir)
    found = measured(plan, paths, load_site(grid))
    assert found.training.keys() == {"cldr-tiny"}
    assert found.evaluation.keys() == {("cldr-tiny", "cldr_lite")}
    assert not paths.pilot.exists()
    (train,) = plan.of_kind("train")
    done = json.loads(paths.job(train.job_id).done.read_text())
    assert done["tokens"] / done["examples"] in {tokens for _, tokens in found.lengths.values()}


@pytest.mark.slow
def test_a_model_that_was_not_measured_is_scaled_by_its_size(piloted: tuple[Grid, Plan, StudyPaths]) -> None:
    grid, _, paths = piloted
    tiny = grid.config.prepare["cldr-tiny"]
    wide = {**tiny, "hidden_size": 512, "intermediate_size": 1024, "seed": 1}
    config = dataclasses.replace(
        grid.config,
        prepare={"cldr-tiny": tiny, "cldr-wide": wide},
        grid={**grid.config.grid, "model": ["cldr-tiny", "cldr-wide"]},
    )
    both = dataclasses.replace(grid, config=config)
    plan = build_plan(both)
    result = forecast(plan, missing_tasks(plan, paths, 2), paths, load_site(both))
    for kind in ("train", "evaluate"):
        measured_one, scaled = (line for line in result.lines if line.kind == kind)
        assert (measured_one.speed, scaled.speed) == ("measured", "measured on cldr-tiny")
        assert measured_one.parameters is not None
        assert scaled.parameters is not None
        assert measured_one.task_hours is not None
        ratio = scaled.parameters / measured_one.parameters
        assert ratio > 4
        assert scaled.task_hours == pytest.approx(measured_one.task_hours * ratio)
