"""Grids as plans: a golden one, orders, and what does and does not change an id."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.planning.plan import build_plan, resolved
from study.cldr import version
from study.errors import UserError
from study.jobs.job import Job
from study.jobs.plan import ANY_MODEL, Evaluations, read_plan, write_plan, write_specs
from study.jobs.specs import Benchmark, EvalSpec, Source, TrainSpec
from study.paths import StudyPaths
from tests.grids import grid_of, plan_of, write_model
from tests.launcher.plans import BASE_ALONE, GRID, ids

GOLDEN = Path(__file__).with_name("golden_plan.json")


def test_golden_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the file knowingly: other ids orphan the finished jobs of every study on disk."""
    # the embedded data's revision follows the installed Babel; the golden plan must not
    monkeypatch.setattr(version, "revision", lambda: "c1d4" * 4)
    grid = grid_of(folder, GRID)
    paths = StudyPaths(grid.study_dir)
    write_plan(build_plan(grid), resolved(grid), paths)
    assert [job.to_dict() for job in read_plan(paths).jobs] == json.loads(GOLDEN.read_text())["jobs"]


def test_the_golden_plan_is_right() -> None:
    """Checked by hand: ids from the specs, and which job waits for which."""
    jobs: list[dict[str, Any]] = json.loads(GOLDEN.read_text())["jobs"]
    for job in jobs:  # nothing in it is a local file, whose place an id leaves out
        text = json.dumps(
            {"kind": job["kind"], "spec": job["spec"]},
            sort_keys=True, separators=(",", ":"), ensure_ascii=False,
        )  # fmt: skip
        assert job["job_id"] == hashlib.sha256(text.encode()).hexdigest()[:16]
    prepare, trains, shards, analyse = jobs[0], jobs[1:5], jobs[5:15], jobs[15]
    kinds = ["prepare", *["train"] * 4, *["evaluate"] * 10, "analyse"]
    assert [job["kind"] for job in jobs] == kinds
    tiny = prepare["job_id"]
    assert (prepare["needs"], prepare["cell"]) == ([], {"model": "tiny"})
    assert [(job["cell"]["label_smoothing"], job["cell"]["seed"]) for job in trains] == [
        (0.0, 0), (0.0, 1), (0.1, 0), (0.1, 1),
    ]  # fmt: skip
    for job in trains:
        hyper = job["spec"]["hyper"]
        assert job["needs"] == [tiny]
        assert job["spec"]["model"] == {"kind": "job", "name": tiny, "revision": tiny}
        assert job["cell"] == {
            "model": "tiny",
            "dataset": "cldr-instruct",
            "learning_rate": 1e-5,  # a default, in the cell because every table has this axis
            "label_smoothing": hyper["label_smoothing"],
            "seed": hyper["seed"],
        }
        assert (hyper["num_steps"], hyper["template"], hyper["dtype"]) == (8, "plain", "fp32")
    owners = [prepare, *trains]
    for i, job in enumerate(shards):  # the base model first; languages in the benchmark's order
        assert job["needs"] == [owners[i // 2]["job_id"]]
        assert job["cell"] == owners[i // 2]["cell"]
        assert job["spec"]["language"] == ["en", "sw"][i % 2]
    assert analyse["needs"] == [job["job_id"] for job in shards]
    assert analyse["cell"] == {}


AXES = st.fixed_dictionaries(
    {"model": st.sampled_from([["m"], ["tiny"], ["tiny", "m"], ["m", "tiny"]])},
    optional={
        "dataset": st.sampled_from([["cldr-instruct"], ["cldr-instruct", "cldr-pretrain"]]),
        "seed": st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
        "label_smoothing": st.lists(st.sampled_from([0.0, 0.1, 0.2]), min_size=1, unique=True),
    },
)


@settings(max_examples=40, deadline=None)
@given(axes=AXES, base=st.booleans(), benchmarks=st.booleans())
def test_each_job_comes_after_what_it_needs(
    tmp_path_factory: pytest.TempPathFactory, axes: dict[str, list[Any]], base: bool, benchmarks: bool
) -> None:
    folder = tmp_path_factory.mktemp("grid")
    write_model(folder / "m")
    values = {
        "study": "s",
        "prepare": {"tiny": {"dataset": "cldr-pretrain"}},
        "grid": axes,
        "evaluate": {
            "include_base": base,
            "benchmarks": [{"name": "cldr_lite", "languages": ["en"]}] if benchmarks else [],
        },
    }
    try:
        plan = plan_of(folder, json.dumps(values))  # JSON is YAML
    except UserError as error:
        if "dataset" in axes:
            raise
        assert "has training values but no dataset" in str(error) or not benchmarks  # noqa: PT017
        return
    position = {job_id: i for i, job_id in enumerate(ids(plan))}
    assert len(position) == len(plan.jobs)
    for i, job in enumerate(plan.jobs):
        assert all(position[need] < i for need in job.needs)
    cells = 1
    for name, axis in axes.items():
        cells *= len(axis) if "dataset" in axes or name == "model" else 1
    models = len(axes["model"])
    trains = cells if "dataset" in axes else 0
    assert len(plan.of_kind("train")) == trains
    shards = (trains + (models if base or not trains else 0)) if benchmarks else 0
    assert len(plan.of_kind("evaluate")) == shards
    assert len(plan.of_kind("analyse")) == bool(shards)
    wanted = "tiny" in axes["model"] and (trains or shards)
    assert len(plan.of_kind("prepare")) == bool(wanted)


# what is outside the identity


@pytest.mark.parametrize(
    "override",
    [
        "resources.train.nodes=4",
        "resources.train.micro_batch_size=1",
        "resources.train.zero_stage=3",
        "resources.evaluate.batch_tokens=64",
        "tracking.mode=disabled",
        "tracking.project=other",
        "evaluate.languages_per_task=2",
        "outputs=elsewhere",
        "study=other",
        "description=words",
        "train.num_epochs=2",  # the default, spelled out
        "grid.label_smoothing=[0,'0.1']",  # the same numbers
        "evaluate.benchmarks=[{name: cldr_lite, languages: [en, sw, en]}]",
    ],
)
def test_what_changes_no_id(folder: Path, override: str) -> None:
    assert ids(plan_of(folder, GRID, override)) == ids(plan_of(folder, GRID))


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("train.num_steps=9", "train"),
        ("train.weight_decay=0.1", "train"),
        ("evaluate.dtype=fp32", "evaluate"),
        ("evaluate.protocol=option_text", "evaluate"),
        ("evaluate.benchmarks=[{name: cldr_lite, num_items: 5, languages: [sw, en]}]", "evaluate"),
        ("prepare.tiny.num_steps=26", "prepare"),
    ],
)
def test_what_changes_ids_from_its_kind_on(folder: Path, override: str, changed: str) -> None:
    before, after = plan_of(folder, GRID), plan_of(folder, GRID, override)
    kinds = ["prepare", "train", "evaluate", "analyse"]
    for kind in kinds:
        old, new = ({job.job_id for job in plan.of_kind(kind)} for plan in (before, after))
        if kinds.index(kind) < kinds.index(changed):
            assert old == new
        elif kind == "evaluate" and changed == "train":
            assert len(old & new) == 2  # those of the base
        else:
            assert not old & new


def test_one_more_value_of_an_axis_keeps_the_other_cells(folder: Path) -> None:
    before, after = plan_of(folder, GRID), plan_of(folder, GRID, "grid.seed=[0,1,2]")
    old, new = ({job.job_id for job in plan.jobs if job.kind != "analyse"} for plan in (before, after))
    assert old < new
    assert len(new - old) == 2 * (1 + 2)


def test_a_constant_and_an_axis_of_one_value_are_the_same_jobs(folder: Path) -> None:
    constant = GRID.replace("  seed: [0, 1]\n", "").replace("train: {", "train: {seed: 1, ")
    expected = ids(plan_of(folder, GRID, "grid.seed=[1]"))
    assert ids(plan_of(folder, constant)) == expected


# cells


def cells_of(folder: Path, *overrides: str) -> list[tuple[float, int]]:
    trains = plan_of(folder, GRID, *overrides).of_kind("train")
    return [(job.cell["label_smoothing"], job.cell["seed"]) for job in trains]


def test_exclude(folder: Path) -> None:
    assert cells_of(folder, "exclude=[{seed: 1}]") == [(0.0, 0), (0.1, 0)]
    assert cells_of(folder, "exclude=[{seed: 1, label_smoothing: 0.1}]") == [(0.0, 0), (0.0, 1), (0.1, 0)]
    assert cells_of(folder, "exclude=[{seed: [0, 1], label_smoothing: 0}]") == [(0.1, 0), (0.1, 1)]
    assert cells_of(folder, "exclude=[{seed: 1}, {label_smoothing: [0.1]}]") == [(0.0, 0)]


def test_the_base_of_a_model_without_cells_is_left_out(folder: Path) -> None:
    plan = plan_of(folder, GRID, "grid.model=[tiny,m]", "exclude=[{model: m}]")
    assert {job.cell["model"] for job in plan.jobs if job.cell} == {"tiny"}


@pytest.mark.parametrize("include_base", ["true", "false"])
def test_no_training_axis_evaluates_the_base_alone(folder: Path, include_base: str) -> None:
    plan = plan_of(folder, BASE_ALONE, f"evaluate.include_base={include_base}")
    assert {job.kind for job in plan.jobs} == {"evaluate", "analyse"}
    assert all(job.cell == {"model": "m"} and not job.needs for job in plan.of_kind("evaluate"))


def test_a_constant_dataset_trains_too(folder: Path) -> None:
    plan = plan_of(folder, BASE_ALONE, "train.dataset=cldr-instruct")
    (job,) = plan.of_kind("train")
    assert isinstance(job.spec, TrainSpec)
    assert job.spec.dataset.name == job.cell["dataset"] == "cldr-instruct"


# local benchmarks, local models that move


@pytest.mark.parametrize("schema", ["global_mmlu", "mmlu_prox"])
def test_a_local_benchmark(folder: Path, schema: str) -> None:
    (folder / "items").mkdir()
    for code in ("sw", "en", "xx"):
        (folder / "items" / f"{code}.jsonl").write_text("{}\n")
    given = f"evaluate.benchmarks=[{{name: mine, path: items, schema: {schema}}}]"
    plan = plan_of(folder, BASE_ALONE, given)
    specs = [job.spec for job in plan.of_kind("evaluate")]
    assert [spec.language for spec in specs if isinstance(spec, EvalSpec)] == ["en", "sw", "xx"]
    first = specs[0]
    assert isinstance(first, EvalSpec)
    assert (first.benchmark.name, first.benchmark.schema) == ("mine", schema)
    (folder / "items").rename(folder / "moved")
    assert ids(plan_of(folder, BASE_ALONE, given.replace("items", "moved"))) == ids(plan)
    (folder / "moved" / "sw.jsonl").write_text('{"changed": 1}\n')
    assert not set(ids(plan_of(folder, BASE_ALONE, given.replace("items", "moved")))) & set(ids(plan))


def test_an_unfinished_job_finds_a_moved_model_and_a_finished_one_keeps_its_record(folder: Path) -> None:
    grid = grid_of(folder, BASE_ALONE)
    plan, paths = build_plan(grid), StudyPaths(grid.study_dir)
    write_specs(plan.jobs, paths)
    done, left = plan.of_kind("evaluate")[:2]
    paths.job(done.job_id).done.write_text("{}")
    (folder / "m").rename(folder / "n")
    grid = grid_of(folder, BASE_ALONE, "grid.model=[n]")
    moved = build_plan(grid)
    assert ids(moved) == ids(plan)
    write_specs(moved.jobs, paths)

    def model_of(job_id: str) -> str:
        name: str = json.loads(paths.job(job_id).spec.read_text())["spec"]["model"]["name"]
        return name

    assert model_of(left.job_id) == str(folder / "n")
    assert model_of(done.job_id) == str(folder / "m")


# on disk


def test_tables_of_another_plan_are_made_again(folder: Path) -> None:
    paths = StudyPaths(grid_of(folder, BASE_ALONE).study_dir)

    def planned(*overrides: str) -> Path:
        grid = grid_of(folder, BASE_ALONE, *overrides)
        plan = build_plan(grid)
        write_plan(plan, resolved(grid), paths)
        write_specs(plan.jobs, paths)
        return paths.job(plan.of_kind("analyse")[0].job_id).done

    small = planned()
    small.write_text("{}")
    assert planned() == small
    assert small.exists()  # the same plan again: its tables are there
    large = planned("evaluate.benchmarks=[{name: cldr_lite, languages: [low, en]}]")
    large.write_text("{}")
    assert planned() == small
    assert not small.exists()  # the tables on disk are those of the larger plan
    small.write_text("{}")
    assert planned("description=mine") == small
    assert not small.exists()  # the tables have the description in their heads


def test_round_trip(folder: Path) -> None:
    grid = grid_of(folder, GRID + "description: 'two\n\n  lines: [x]'\n")
    plan, paths = build_plan(grid), StudyPaths(grid.study_dir)
    write_plan(plan, resolved(grid), paths)
    assert read_plan(paths) == plan
    write_specs(plan.jobs, paths)
    for job in plan.jobs:
        assert json.loads(paths.job(job.job_id).spec.read_text()) == job.to_dict()
    # the grid as resolved plans the same study
    again = grid_of(folder, paths.grid.read_text())
    assert again.config == grid.config
    assert build_plan(again) == plan


def test_a_file_that_is_not_a_plan(folder: Path) -> None:
    grid = grid_of(folder, GRID)
    paths = StudyPaths(grid.study_dir)
    with pytest.raises(UserError, match=r"is not a study \(no plan\.json\); give <outputs>/<study>$"):
        read_plan(paths)
    write_plan(build_plan(grid), resolved(grid), paths)
    plan = json.loads(paths.plan.read_text())
    other_version = {**plan, "schema_version": 99}
    other_defaults = {**plan, "jobs": [{**job, "job_id": "f" * 16} for job in plan["jobs"]]}
    for content in ("{", "[]", "{}", json.dumps(other_version), json.dumps(other_defaults)):
        paths.plan.write_text(content)
        with pytest.raises(
            UserError, match=r"is not a plan of this version of calsweep; sweep the grid again$"
        ):
            read_plan(paths)


def test_what_evaluations_share_is_written_once(folder: Path) -> None:
    grid = grid_of(folder, GRID)
    plan, paths = build_plan(grid), StudyPaths(grid.study_dir)
    write_plan(plan, resolved(grid), paths)
    data = json.loads(paths.plan.read_text())
    assert [entry["job_id"] for entry in data["jobs"]] == ids(plan)
    assert (len(data["models"]), len(data["shards"])) == (5, 2)
    evaluations = [entry for entry in data["jobs"] if entry["kind"] == "evaluate"]
    assert [(entry["model"], entry["shard"]) for entry in evaluations] == [
        (model, shard) for model in range(5) for shard in range(2)
    ]


def test_a_plan_whose_ids_are_not_those_of_its_jobs_is_refused(folder: Path) -> None:
    grid = grid_of(folder, GRID)
    paths = StudyPaths(grid.study_dir)
    write_plan(build_plan(grid), resolved(grid), paths)
    data = json.loads(paths.plan.read_text())
    data["jobs"][-2]["shard"] = 0
    paths.plan.write_text(json.dumps(data))
    with pytest.raises(UserError, match="is not a plan of this version of calsweep; sweep the grid again"):
        read_plan(paths)


ZIPPED = """
study: s
grid: {model: [m, n], dataset: [cldr-instruct], learning_rate: [1e-5, 2e-5], seed: [0, 1]}
zip: [[model, learning_rate]]
"""


def test_what_is_left_out_may_go_with_the_dataset(folder: Path) -> None:
    """The same value twice on a zipped axis: two datasets of which nothing is left out."""
    plan = plan_of(
        folder,
        GRID,
        "grid.dataset=[cldr-instruct,alpaca@" + "a" * 40 + ",tulu3@" + "b" * 40 + "]",
        "grid.exclude_sources=[[],[],[aya]]",
        "zip=[[dataset,exclude_sources]]",
    )
    found = {}
    for job in plan.of_kind("train"):
        assert isinstance(job.spec, TrainSpec)
        found[job.spec.dataset.name] = job.spec.hyper.exclude_sources
    assert found == {"cldr-instruct": (), "tatsu-lab/alpaca": (), "allenai/tulu-3-sft-mixture": ("aya",)}


def test_zipped_axes_advance_together(folder: Path) -> None:
    write_model(folder / "n", "others")
    found = [
        (job.cell["model"], job.cell["learning_rate"], job.cell["seed"])
        for job in plan_of(folder, ZIPPED).of_kind("train")
    ]
    assert found == [("m", 1e-5, 0), ("m", 1e-5, 1), ("n", 2e-5, 0), ("n", 2e-5, 1)]
    left = plan_of(folder, ZIPPED + "exclude: [{learning_rate: 2e-5, seed: 1}]\n").of_kind("train")
    assert [(job.cell["model"], job.cell["seed"]) for job in left] == [("m", 0), ("m", 1), ("n", 0)]
    # a cell is the same job, zipped or not
    plain = plan_of(folder, ZIPPED.replace("zip:", "#")).of_kind("train")
    assert {job.job_id for job in left} < {job.job_id for job in plain}


def test_an_included_grid_lies_beneath(folder: Path) -> None:
    """Mappings merge, lists replace; the including file wins, and the command line over all."""
    base = folder / "base"
    write_model(base / "theirs", "theirs")
    (base / "more").mkdir()
    (base / "more" / "common.yaml").write_text("train: {num_steps: 3, seed: 5}\nstudy: common\n")
    (base / "base.yaml").write_text(
        "include: more/common.yaml\nstudy: base\ntrain: {num_steps: 7}\n"
        "grid: {model: [theirs], dataset: [cldr-instruct], label_smoothing: [0.0, 0.1]}\n"
    )
    text = "include: [base/base.yaml]\nstudy: s\ngrid: {label_smoothing: [0.2]}\n"
    (job,) = plan_of(folder, text).of_kind("train")
    assert isinstance(job.spec, TrainSpec)
    assert job.spec.model.name == str(base / "theirs")
    assert (job.spec.hyper.num_steps, job.spec.hyper.seed, job.spec.hyper.label_smoothing) == (7, 5, 0.2)
    (job,) = plan_of(folder, text, "train.num_steps=9").of_kind("train")
    assert isinstance(job.spec, TrainSpec)
    assert job.spec.hyper.num_steps == 9


@settings(max_examples=50)
@given(shards=st.lists(st.sampled_from(["en", "sw", "ü"]), min_size=1, max_size=3), name=st.text(max_size=9))
def test_the_quick_way_to_an_id_is_the_slow_one(shards: list[str], name: str) -> None:
    benchmark = Benchmark(name, Source("local", name, "0" * 12), "global_mmlu", num_items=3)
    specs = [EvalSpec(ANY_MODEL, benchmark, code, "letter", "fp32") for code in shards]
    for model in (Source("hub", name, "1" * 40), Source("job", "2" * 16, "2" * 16)):
        for quick in Evaluations(specs).of(model, {"model": "x"}):
            assert quick == Job(quick.kind, quick.spec, quick.needs, quick.cell)
