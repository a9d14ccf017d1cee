"""Grids: every mistake is one sentence with its place and a remedy; defaults < file < command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.errors import UserError
from study.grid.config import checked_section, checked_value, load_grid
from study.grid.yaml_files import errors_with_lines
from study.jobs.specs import Hyperparameters
from tests.grids import grid_of

BASE = "study: s\ngrid:\n  model: [m]\n"
TRAIN_KEYS = (
    "beta1, beta2, dataset, dropout, dtype, exclude_sources, global_batch_size, label_smoothing, "
    "learning_rate, logit_softcap, logit_temperature, max_grad_norm, max_length_tokens, num_epochs, "
    "num_examples, num_steps, seed, template, warmup_ratio, weight_decay"
)
NOT_A_MAPPING = "not a mapping of keys to values; write key: value lines below it"
NOT_AN_INTEGER = "could not be converted to Integer); correct it"

IN_FILE = {
    # unknown keys, at each level
    "stduy: x": "stduy: unknown key; did you mean 'study'?",
    "seed: 1": "seed: unknown key; did you mean 'grid.seed=[...]' or 'train.seed'?",
    "tracking: {mod: offline}": "tracking.mod: unknown key; did you mean 'mode'?",
    "evaluate: {bencmarks: []}": "evaluate.bencmarks: unknown key; did you mean 'benchmarks'?",
    "evaluate: {benchmarks: [cldr, {name: x, langs: [en]}]}": (
        "evaluate.benchmarks[1].langs: unknown key; did you mean 'languages'?"
    ),
    "train: {learning_rat: 1}": "train.learning_rat: unknown key; did you mean 'learning_rate'?",
    "train: {eps: 0.1}": "train.eps: unknown key; did you mean 'label_smoothing'?",
    "train: {model: m}": f"train.model: unknown key; valid: {TRAIN_KEYS}",
    "resources: {trian: {}}": "resources.trian: unknown kind of job; did you mean 'train'?",
    "resources: {train: {nods: 2}}": "resources.train.nods: unknown key; did you mean 'nodes'?",
    # wrong types, at each level
    "tracking: 3": f"tracking: {NOT_A_MAPPING}",
    "tracking: []": f"tracking: {NOT_A_MAPPING}",
    "tracking: null": f"tracking: {NOT_A_MAPPING}",
    "evaluate: yes": f"evaluate: {NOT_A_MAPPING}",
    "train: [1]": f"train: {NOT_A_MAPPING}",
    "prepare: [1]": f"prepare: {NOT_A_MAPPING}",
    "resources: [1]": f"resources: {NOT_A_MAPPING}",
    "resources: {train: 3}": f"resources.train: {NOT_A_MAPPING}",
    "resources: {train: null}": f"resources.train: {NOT_A_MAPPING}",
    "exclude: 3": "exclude: not a list; write [3]",
    "evaluate: {benchmarks: cldr}": "evaluate.benchmarks: not a list; write [cldr]",
    "evaluate: {benchmarks: [3]}": f"evaluate.benchmarks[0]: {NOT_A_MAPPING}",
    "evaluate: {benchmarks: [{name: x, languages: en}]}": (
        "evaluate.benchmarks[0].languages: not a list; write [en]"
    ),
    "evaluate: {benchmarks: [{name: x, languages: [[en]]}]}": (
        "evaluate.benchmarks[0].languages[0]: ['en'] is not text; put it in quotes"
    ),
    "evaluate: {benchmarks: [{languages: [en]}]}": (
        "evaluate.benchmarks[0].name: is missing; give it a value"
    ),
    "evaluate: {languages_per_task: x}": (
        f"evaluate.languages_per_task: wrong type or value (Value 'x' of type 'str' {NOT_AN_INTEGER}"
    ),
    "train: {seed: 1.5}": f"train.seed: wrong type or value (Value '1.5' of type 'float' {NOT_AN_INTEGER}",
    "train: {seed: true}": f"train.seed: wrong type or value (Value 'True' of type 'bool' {NOT_AN_INTEGER}",
    "train: {seed: '${x}'}": (
        "train.seed: wrong type or value (Interpolation key 'x' not found); correct it"
    ),
    "train: {1: 2}": "train.1: wrong type or value (Key 1 (int) is incompatible with (str)); correct it",
    "resources: {train: {nodes: two}}": (
        f"resources.train.nodes: wrong type or value (Value 'two' of type 'str' {NOT_AN_INTEGER}"
    ),
    # values out of range
    "train: {learning_rate: .inf}": "train.learning_rate: out of range; give a positive number",
    "train: {max_grad_norm: .inf}": "train.max_grad_norm: out of range; give a positive number",
    "train: {weight_decay: .nan}": "train.weight_decay: out of range; give 0 or more",
    "train: {label_smoothing: 1}": "train.label_smoothing: out of range; give a number in [0, 1)",
    "train: {seed: -1}": "train.seed: out of range; give 0 or more, below 2^63",
    "train: {dataset: 3}": "train.dataset: 3 is not a name; give an id or a path",
    "train: {dtype: bf61}": "train.dtype: 'bf61' is unknown; did you mean 'bf16'?",
    'train: {template: "a\\nb"}': "train.template: 'a b' is unknown; valid: plain, tokenizer, tulu",
    "resources: {train: {nodes: 0}}": "resources.train.nodes: out of range; give 1 or more",
    "resources: {train: {mem_gib: .inf}}": "resources.train.mem_gib: out of range; give a positive number",
    "evaluate: {languages_per_task: 0}": "evaluate.languages_per_task: must be 1 or more; write 1",
    "tracking: {mode: ofline}": "tracking.mode: 'ofline' is unknown; did you mean 'offline'?",
    "tracking: {mode: off}": "tracking.mode: 'False' is unknown; valid: disabled, offline, online",
}


@pytest.mark.parametrize("line", IN_FILE)
def test_a_wrong_line_below_a_right_grid(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError) as caught:
        grid_of(tmp_path, BASE + line + "\n")
    assert str(caught.value) == f"grid.yaml: {IN_FILE[line]}"


WHOLE = {
    "": "grid.yaml: study: is missing; give it a value",
    "grid: {model: [m]}": "grid.yaml: study: is missing; give it a value",
    "study: ???\ngrid: {model: [m]}": "grid.yaml: study: is missing; give it a value",
    "study: s": "grid.yaml: grid.model: is missing; list the models, e.g. grid.model: [org/name]",
    "study: a/b\ngrid: {model: [m]}": (
        "grid.yaml: study: 'a/b' cannot name a folder; use letters, digits, - and _, at most 100"
    ),
    "study: ..\ngrid: {model: [m]}": (
        "grid.yaml: study: '..' cannot name a folder; use letters, digits, - and _, at most 100"
    ),
    "study: s\ngrid: [m]": f"grid.yaml: grid: {NOT_A_MAPPING}",
    "study: s\ngrid: {model: m}": "grid.yaml: grid.model: an axis is a list; write [m]",
    "study: s\ngrid: {model: []}": (
        "grid.yaml: grid.model: an axis must not be empty; give a value or remove the axis"
    ),
    "study: s\ngrid: {model: [a, b, a]}": "grid.yaml: grid.model: 'a' occurs twice; remove one",
    "study: s\ngrid: {model: [[a]]}": "grid.yaml: grid.model: ['a'] is not a name; give an id or a path",
    "study: s\ngrid: {model: [null]}": "grid.yaml: grid.model: None is not a name; give an id or a path",
    "study: s\ngrid: {model: [m], seed: [1, 1]}": "grid.yaml: grid.seed: 1 occurs twice; remove one",
    "study: s\ngrid: {model: [m], lr: [1]}": (
        "grid.yaml: grid.lr: unknown axis; did you mean 'learning_rate'?"
    ),
    "study: s\ngrid: {model: [m], label_smoothing: [0, 1.5]}": (
        "grid.yaml: grid.label_smoothing: out of range; give a number in [0, 1)"
    ),
    "study: s\ngrid: {model: [m], seed: [1]}\ntrain: {seed: 1}": (
        "grid.yaml: train.seed: is also an axis of the grid; keep one of them"
    ),
    "[]": "grid.yaml: not a mapping of keys to values; see examples/smoke.yaml",
    "3": "grid.yaml: not a mapping of keys to values; see examples/smoke.yaml",
    "study: s\ngrid:\n  model: a: b\n": (
        "grid.yaml, line 3: not valid YAML (mapping values are not allowed here); correct it"
    ),
    "study: s\nstudy: t\n": "grid.yaml, line 2: not valid YAML (found duplicate key study); correct it",
}


@pytest.mark.parametrize("text", WHOLE)
def test_a_wrong_grid(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as caught:
        grid_of(tmp_path, text)
    assert str(caught.value) == WHOLE[text]


COMMAND_LINE: dict[tuple[str, ...], str] = {
    ("lr=1e-5",): (
        "command line: lr: unknown key; did you mean 'grid.learning_rate=[...]' or 'train.learning_rate'?"
    ),
    ("train.lr=1e-5",): "command line: train.lr: unknown key; did you mean 'learning_rate'?",
    ("foo",): "command line: 'foo' is not key=value; e.g. train.num_steps=10",
    ("=3",): "command line: '=3' is not key=value; e.g. train.num_steps=10",
    ("grid.model=x",): "command line: grid.model: an axis is a list; write [x]",
    ("tracking.mode=on",): (
        "command line: tracking.mode: 'True' is unknown; valid: disabled, offline, online"
    ),
    ("grid.seed=[1,2",): "command line: did not find expected ',' or ']'; quote the value",
    ("grid.model.0=x",): (
        "command line: does not fit the file; give a list as a whole, e.g. grid.seed=[1,2]"
    ),
    ("tracking=offline",): f"command line: tracking: {NOT_A_MAPPING}",
    ("budget={disk_gib: -1}",): "command line: budget.disk_gib: out of range; give 0 or more",
}


@pytest.mark.parametrize("overrides", COMMAND_LINE)
def test_a_wrong_command_line(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught, errors_with_lines(tmp_path / "grid.yaml", overrides):
        grid_of(tmp_path, BASE, *overrides)
    assert str(caught.value) == COMMAND_LINE[overrides]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_grid(tmp_path / "none.yaml")
    expected = "none.yaml: no such file; give the path of a grid, e.g. examples/demo.yaml"
    assert str(caught.value) == f"{tmp_path}/{expected}"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_bytes(b"study: \xff\n")
    with pytest.raises(UserError, match=r"^grid\.yaml: not valid YAML \(.*\); correct it$"):
        load_grid(tmp_path / "grid.yaml")


def test_defaults_then_file_then_command_line(tmp_path: Path) -> None:
    text = BASE + "train: {seed: 1, num_steps: 5}\nevaluate: {languages_per_task: 2}\n"
    plain = grid_of(tmp_path, text).config
    assert plain.tracking.mode == "offline"  # a default
    assert plain.evaluate.languages_per_task == 2
    assert plain.train == {"seed": 1, "num_steps": 5}
    loaded = grid_of(
        tmp_path,
        text,
        "train.seed=7",
        "grid.model=[a,b]",
        "grid.learning_rate=[1e-3,2e-5]",
        "train.warmup_ratio=1e-3",
        "evaluate.benchmarks=[cldr]",
        "tracking.mode=disabled",
    )
    assert loaded.config.train == {"seed": 7, "num_steps": 5, "warmup_ratio": 0.001}
    assert loaded.config.grid == {"model": ["a", "b"], "learning_rate": [0.001, 2e-5]}
    assert [benchmark.name for benchmark in loaded.benchmarks] == ["cldr"]
    assert loaded.config.tracking.mode == "disabled"
    assert loaded.config.evaluate.languages_per_task == 2


def test_a_number_in_quotes_is_that_number(tmp_path: Path) -> None:
    text = "study: s\ngrid: {model: [m], label_smoothing: [0.1, '0.1']}\n"
    with pytest.raises(
        UserError, match=r"^grid\.yaml: grid\.label_smoothing: 0\.1 occurs twice; remove one$"
    ):
        grid_of(tmp_path, text)


NUMBERS = st.integers(-3, 3) | st.integers() | st.floats() | st.sampled_from([10**400, 2**63, True, "1"])


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from([f.name for f in dataclasses.fields(Hyperparameters)]), value=NUMBERS)
def test_the_quick_check_of_a_number_is_the_slow_one(key: str, value: Any) -> None:
    def outcome(check: Callable[[], Any]) -> tuple[type[Any], str]:
        try:
            found = check()
        except UserError as error:
            return UserError, str(error)
        return type(found), repr(found)

    assert outcome(lambda: checked_value(key, value, "g.yaml: grid")) == outcome(
        lambda: getattr(checked_section(Hyperparameters, {key: value}, "g.yaml: grid"), key)
    )


@pytest.mark.slow
def test_a_long_axis(tmp_path: Path) -> None:
    """As many seeds in one list as a big study has cells."""
    seeds = list(range(10_000))
    assert grid_of(tmp_path, f"{BASE}  seed: {seeds}\n").config.grid["seed"] == seeds
    with pytest.raises(UserError, match=r"^grid\.yaml: grid\.seed: 9999 occurs twice; remove one$"):
        grid_of(tmp_path, f"{BASE}  seed: {[*seeds, 9999]}\n")


def test_outputs_is_relative_to_the_working_directory_and_models_to_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    grid = grid_of(tmp_path, BASE)
    assert grid.study_dir == here / "outputs" / "s"
    (tmp_path / "beside").mkdir()
    (here / "local").mkdir()
    assert grid.find("beside") == tmp_path / "beside"
    assert grid.find("local") == here / "local"
    assert grid.find("none") is None
    assert grid.find("~nobody-of-that-name/x") is None
    assert grid.find("x" * 5000) is None
