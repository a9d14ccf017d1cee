"""Grids that cannot be planned: one sentence each, with the place and a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from study.jobs.specs import EvalSpec
from tests.grids import plan_of
from tests.launcher.plans import BASE_ALONE, GRID, mistake


@pytest.mark.parametrize(
    ("exclude", "sentence"),
    [
        ("[{seed: 7}]", "exclude[0]: matches no cell; correct it or remove it"),
        (
            "[{seed: 1}, {seed: 1, label_smoothing: 7}]",
            "exclude[1]: matches no cell; correct it or remove it",
        ),
        ("[{sed: 1}]", "exclude[0].sed: is not an axis of this grid; did you mean 'seed'?"),
        (
            "[{1: 1}]",
            "exclude[0].1: is not an axis of this grid; valid: dataset, label_smoothing, model, seed",
        ),
        ("[seed]", "exclude[0]: not a mapping of axes; e.g. {model: x, seed: 1}"),
        ("[{}]", "exclude[0]: not a mapping of axes; e.g. {model: x, seed: 1}"),
        ("[{seed: [0, 1]}]", "exclude: leaves no cell; remove a rule"),
    ],
)
def test_wrong_excludes(folder: Path, exclude: str, sentence: str) -> None:
    assert mistake(folder, GRID, f"exclude={exclude}") == f"grid.yaml: {sentence}"


def test_training_values_without_a_dataset(folder: Path) -> None:
    said = (
        "has training values but no dataset; add grid.dataset, or remove them to evaluate base models alone"
    )
    assert mistake(folder, BASE_ALONE, "train.seed=1") == f"grid.yaml: train.seed: {said}"
    assert mistake(folder, BASE_ALONE, "grid.seed=[1]") == f"grid.yaml: grid.seed: {said}"
    assert mistake(folder, BASE_ALONE, "exclude=[{model: m}]") == (
        "grid.yaml: exclude: applies to training cells, and this grid has none; "
        "remove it, or leave models out of grid.model"
    )


def test_a_grid_that_asks_for_nothing(folder: Path) -> None:
    assert mistake(folder, "study: s\ngrid: {model: [m]}\n") == (
        "grid.yaml: has no training and no evaluation; add evaluate.benchmarks"
    )


# two names of one thing


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("grid.model=[m,./m]", "grid.model: 'm' and './m' are the same model; remove one"),
        (
            "evaluate.benchmarks=[{name: cldr_lite, languages: [en]}, cldr_lite]",
            "evaluate.benchmarks[1]: test of cldr_lite is in evaluate.benchmarks[0] already, for en; "
            "remove one, or give it a study of its own",
        ),
        (  # other items, and yet one test: its rows in the tables would be means over both
            "evaluate.benchmarks=[cldr_lite, {name: cldr, num_items: 20, languages: [sw, en]}, "
            "{name: cldr, num_items: 40, languages: [de, sw, en]}]",
            "evaluate.benchmarks[2]: test of cldr is in evaluate.benchmarks[1] already, for en, sw; "
            "remove one, or give it a study of its own",
        ),
        (  # of one name, wherever they lie
            "evaluate.benchmarks=[{name: x, path: one, schema: global_mmlu}, "
            "{name: x, path: other, schema: global_mmlu}]",
            "evaluate.benchmarks[1]: test of x is in evaluate.benchmarks[0] already, for en; "
            "remove one, or give it a study of its own",
        ),
    ],
)
def test_two_names_of_one_thing(folder: Path, override: str, sentence: str) -> None:
    for name in ("one", "other"):
        (folder / name).mkdir()
        (folder / name / "en.jsonl").write_text(f'{{"question": "{name}"}}\n')
    assert mistake(folder, BASE_ALONE, override) == f"grid.yaml: {sentence}"


def test_a_benchmark_may_be_listed_again_for_what_is_another_test(folder: Path) -> None:
    listed = (
        "evaluate.benchmarks=[{name: cldr, languages: [en]}, {name: cldr, languages: [sw], num_items: 9}, "
        "{name: cldr, languages: [en], split: dev}, {name: cldr_lite, languages: [en]}]"
    )
    jobs = plan_of(folder, BASE_ALONE, listed).of_kind("evaluate")
    specs = [job.spec for job in jobs if isinstance(job.spec, EvalSpec)]
    tests = [(spec.benchmark.name, spec.benchmark.split, spec.language) for spec in specs]
    assert tests == [
        ("cldr", "test", "en"), ("cldr", "test", "sw"), ("cldr", "dev", "en"), ("cldr_lite", "test", "en"),
    ]  # fmt: skip


def test_two_datasets_that_are_one_and_two_prepared_models_that_are_one(folder: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text("{}\n")
    said = mistake(folder, BASE_ALONE, "grid.dataset=[a.jsonl,b.jsonl]")
    assert said == (
        "grid.yaml: grid: 'm/a.jsonl lr=1e-05 ε=0 seed=42' and "
        "'m/b.jsonl lr=1e-05 ε=0 seed=42' are the same job; remove one"
    )
    twins = GRID.replace("grid:\n  model: [tiny]", "  twin: {dataset: cldr-pretrain}\ngrid:\n  model: [tiny]")
    assert len(plan_of(folder, twins).of_kind("prepare")) == 1  # no cell uses the other
    same = "prepare.twin=" + GRID.split("\n")[3].removeprefix("  tiny: ")
    assert len(plan_of(folder, GRID, same).of_kind("prepare")) == 1
    assert mistake(folder, GRID, same, "grid.model=[tiny,twin]") == (
        "grid.yaml: grid.model: 'tiny' and 'twin' are the same model; remove one"
    )


# wrong names and values


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "evaluate.benchmarks=[cldr,{name: cldr_lite, languages: [ne, swahili]}]",
            "evaluate.benchmarks[1].languages: unknown language 'swahili'; did you mean 'sw'?",
        ),
        (
            "evaluate.benchmarks=[{name: cldr_lite, languages: []}]",
            "evaluate.benchmarks[0].languages: no language is chosen; "
            "list codes, buckets, scripts, families, or all",
        ),
        (
            "evaluate.benchmarks=[cldr_lit]",
            "evaluate.benchmarks[0].name: 'cldr_lit' is unknown; did you mean 'cldr_lite'? "
            "(or give path and schema)",
        ),
        (
            "evaluate.benchmarks=[{name: cldr, num_items: 0}]",
            "evaluate.benchmarks[0].num_items: out of range; give 1 or more",
        ),
        (
            "evaluate={num_shots: 2, benchmarks: [cldr, {name: cldr, split: dev, languages: [en]}]}",
            "evaluate.benchmarks[1].split: is 'dev', from which the shots of cldr come; "
            "leave it out, or write evaluate.num_shots: 0",
        ),
        ("evaluate.protocol=leter", "evaluate.protocol: 'leter' is unknown; did you mean 'letter'?"),
        ("evaluate.dtype=bf61", "evaluate.dtype: 'bf61' is unknown; did you mean 'bf16'?"),
        (
            "grid.model=[empty]",
            "grid.model: 'empty' has no config.json; give a Hugging Face model folder or a GGUF file",
        ),
        (
            "grid.dataset=[cldr-instuct]",
            "grid.dataset: 'cldr-instuct' is unknown; did you mean 'cldr-instruct'?",
        ),
        ("train.dataset=alpac", "train.dataset: 'alpac' is unknown; did you mean 'alpaca'?"),
    ],
)  # fmt: skip
def test_wrong_names(folder: Path, override: str, sentence: str) -> None:
    (folder / "empty").mkdir()
    assert mistake(folder, BASE_ALONE, override) == f"grid.yaml: {sentence}"


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("3", "prepare.tiny: not a mapping; give its architecture and dataset"),
        ("{}", "prepare.tiny.dataset: is missing; e.g. cldr-pretrain"),
        (
            "{dataset: cldr-instruct}",
            "prepare.tiny.dataset: only cldr-pretrain trains a model from scratch yet; write cldr-pretrain",
        ),
        (
            "{dataset: cldr-pretrain, hiden_size: 4}",
            "prepare.tiny.hiden_size: unknown key; did you mean 'hidden_size'?",
        ),
        (
            "{dataset: cldr-pretrain, hidden_size: 130}",
            "prepare.tiny.hidden_size: out of range; make it a multiple of num_heads",
        ),
        (
            "{dataset: cldr-pretrain, learning_rate: 0}",
            "prepare.tiny.learning_rate: out of range; give a positive number",
        ),
    ],
)
def test_wrong_prepared_models(folder: Path, section: str, sentence: str) -> None:
    text = GRID.replace(GRID.split("\n")[3], f"  tiny: {section}")
    assert mistake(folder, text) == f"grid.yaml: {sentence}"


@pytest.mark.parametrize(
    ("zipped", "sentence"),
    [
        ("[[seed]]", "zip[0]: not a list of two axes or more; e.g. zip: [[model, learning_rate]]"),
        ("[seed]", "zip[0]: not a list of two axes or more; e.g. zip: [[model, learning_rate]]"),
        ("[[seed, sed]]", "zip[0]: 'sed' is not an axis of this grid; did you mean 'seed'?"),
        (
            "[[seed, label_smoothing], [seed, dataset]]",
            "zip[1]: 'seed' is zipped twice; name it once",
        ),
        (
            "[[seed, dataset]]",
            "zip[0]: zipped axes must have the same number of values (seed 2, dataset 1); "
            "add or remove values",
        ),
    ],
)
def test_wrong_zips(folder: Path, zipped: str, sentence: str) -> None:
    assert mistake(folder, GRID, f"zip={zipped}") == f"grid.yaml: {sentence}"


@pytest.mark.parametrize(
    ("include", "sentence"),
    [
        ("none.yaml", "no such file ('none.yaml'); give its path from this file's folder"),
        ("grid.yaml", "'grid.yaml' includes this file again; break the circle"),
        ("{a: 1}", "not a file or a list of files; e.g. include: base.yaml"),
        ("[1]", "not a file or a list of files; e.g. include: base.yaml"),
    ],
)
def test_wrong_includes(folder: Path, include: str, sentence: str) -> None:
    text = GRID.replace("study: golden", f"study: golden\ninclude: {include}")
    assert mistake(folder, text) == f"grid.yaml: include: {sentence}"


def test_a_circle_over_two_files(folder: Path) -> None:
    (folder / "other.yaml").write_text("include: grid.yaml\n")
    text = GRID.replace("study: golden", "study: golden\ninclude: other.yaml")
    assert mistake(folder, text) == (
        "other.yaml, line 1: include: 'grid.yaml' includes this file again; break the circle"
    )


@pytest.mark.slow
def test_more_jobs_than_anybody_means(folder: Path) -> None:
    seeds = "grid.seed=[" + ",".join(map(str, range(1000))) + "]"

    def rates(count: int) -> str:
        return "grid.learning_rate=[" + ",".join(f"{i}e-6" for i in range(1, count + 1)) + "]"

    assert mistake(folder, GRID, seeds, rates(200)) == (
        "grid.yaml: grid: has more than 200,000 cells; shorten some axes"
    )
    every = "evaluate.benchmarks=[{name: cldr}, {name: cldr_lite}]"
    assert re.fullmatch(
        r"grid\.yaml: grid: has 2,\d\d\d,\d\d\d jobs, and a study may have 2,000,000 at most; "
        "split it into several studies",
        mistake(folder, GRID, seeds, rates(12), every),
    )


def test_a_file_that_stands_for_more_than_it_holds(folder: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 8))
    assert mistake(folder, bomb + GRID) == (
        "grid.yaml: expands to more than 200,000 values; use fewer aliases in it"
    )
    assert mistake(folder, "a: &a [*a]\n" + GRID) == (
        "grid.yaml: expands to more than 200,000 values; use fewer aliases in it"
    )
