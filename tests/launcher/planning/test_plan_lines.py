"""Where a mistake is: the line of a file, or the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.planning.plan import build_plan
from launcher.planning.sites import load_site
from study.errors import UserError
from study.grid.config import load_grid
from study.grid.yaml_files import errors_with_lines
from tests.grids import write_grid

LINES = """\
study: s
grid:
  model: [m]
  dataset: [cldr-instruct]
  seed: [1, -2]
train:
  num_steps: 3
evaluate:
  benchmarks:
    - {name: cldr_lite, languages: [en]}
    - name: cldr_lite
      languages: [sw, xx]
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("", "", "grid.yaml, line 5: grid.seed: out of range; give 0 or more, below 2^63"),
        ("-2", "2", "grid.yaml, line 12: evaluate.benchmarks[1].languages: "),
        (
            "-2]\ntrain:\n  num_steps",
            "2]\ntrain:\n  num_stepz",
            "grid.yaml, line 7: train.num_stepz: unknown key; did you mean 'num_steps'?",
        ),
        (
            "grid:\n  model: [m]\n  dataset: [cldr-instruct]\n  seed: [1, -2]",
            "include: base.yaml\ngrid:\n  model: [m]\n  dataset: [cldr-instruct]\n  seed: [1, 2]",
            "base.yaml, line 2: train.template: 'none' is unknown; ",
        ),
        (
            "study: s",
            "budget:\n  gpu_hours: -1\nstudy: s",
            "grid.yaml, line 2: budget.gpu_hours: out of range; give 0 or more",
        ),
        ("study: s", "name: s", "grid.yaml, line 1: name: unknown key; "),
        ("study: s\n", "", "grid.yaml: study: is missing; give it a value"),
    ],
)
def test_the_line_is_named(folder: Path, old: str, new: str, sentence: str) -> None:
    (folder / "base.yaml").write_text("train:\n  template: none\n")
    path = write_grid(folder, LINES.replace(old, new, 1) if old else LINES)
    with pytest.raises(UserError) as caught, errors_with_lines(path):
        build_plan(load_grid(path))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["grid.seed=[1]", "train.num_steps=0"], "command line: train.num_steps: out of range; "),
        (["grid.seed=[1]", "train={num_epochs: 0}"], "command line: train.num_epochs: out of range; "),
        # the last value of a key counts, wherever else it or its neighbours are
        (
            ["grid.seed=[1]", "train={num_epochs: 1}"],
            "grid.yaml, line 12: evaluate.benchmarks[1].languages: ",
        ),
        (["grid.seed=[1]", "grid.model=[none]"], "command line: grid.model: 'none' is unknown; "),
        (
            ["grid.seed=[1]", "evaluate.benchmarks=[{name: cldr, languages: [xx]}]"],
            "command line: evaluate.benchmarks[0].languages: unknown language 'xx'; ",
        ),
        (
            ["grid.seed=[1, 2]", "zip=[[seed, mode]]"],
            "command line: zip[0]: 'mode' is not an axis of this grid; ",
        ),
        (["tracking.mod.e=1"], "command line: tracking.mod"),
    ],
)
def test_a_value_of_the_command_line_has_no_line(folder: Path, overrides: list[str], sentence: str) -> None:
    path = write_grid(folder, LINES)
    with pytest.raises(UserError) as caught, errors_with_lines(path, overrides):
        build_plan(load_grid(path, overrides))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        # the value that is used is the later file's
        (
            {"a.yaml": "train: {num_steps: 0}\n", "b.yaml": "\ntrain: {num_steps: 0}\n"},
            "b.yaml, line 2: train.num_steps: out of range; ",
        ),
        # a list replaces the included list with all its contents
        (
            {"a.yaml": "", "b.yaml": "evaluate: {benchmarks: [{name: cldr, schema: x}]}\n"},
            "grid.yaml, line 3: evaluate.benchmarks[0].schema: is missing; ",
        ),
        (
            {"a.yaml": "\ninclude: c.yaml\n", "b.yaml": ""},
            "a.yaml, line 2: include: no such file ('c.yaml'); ",
        ),
        ({"a.yaml": "", "b.yaml": "\nstudy: [\n"}, "b.yaml, line 3: not valid YAML ("),
        ({"a.yaml": "", "b.yaml": "study: " + "[" * 3000}, "b.yaml: not valid YAML (nested too deeply); "),
    ],
)
def test_the_line_in_one_of_several_files(folder: Path, files: dict[str, str], sentence: str) -> None:
    for name, text in files.items():
        (folder / name).write_text(text or "description: x\n")
    path = write_grid(
        folder,
        "include: [a.yaml, b.yaml]\nstudy: s\nevaluate: {benchmarks: [{name: o, path: m}]}\n"
        "grid: {model: [m]}\n",
    )
    with pytest.raises(UserError) as caught, errors_with_lines(path):
        build_plan(load_grid(path))
    assert str(caught.value).startswith(sentence)


def test_a_file_of_too_many_levels(folder: Path) -> None:
    path = write_grid(folder, LINES + "description: " + "[" * 300 + "]" * 300)
    with pytest.raises(UserError) as caught, errors_with_lines(path):
        load_grid(path)
    assert str(caught.value) == "grid.yaml: not valid YAML (nested too deeply); correct it"


def test_the_line_of_a_profile_is_named(folder: Path) -> None:
    (folder / "site.yaml").write_text("partition: gpu\nacount: x\n")
    path = write_grid(folder, "cluster: site.yaml\n" + LINES.replace("-2", "2"))
    with pytest.raises(UserError, match=r"^site\.yaml, line 2: acount: unknown key"), errors_with_lines(path):
        load_site(load_grid(path))
