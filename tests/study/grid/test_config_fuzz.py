"""Whatever a grid holds, loading and planning it either works or says one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.cli import main
from launcher.planning.plan import build_plan
from launcher.planning.sites import load_site
from study.errors import UserError
from study.grid.config import AXES, BenchmarkConfig, EvaluateConfig, GridConfig, TrackingConfig, load_grid
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters, Scratch
from tests.grids import write_grid, write_model
from tests.sweeping import SMOKE

ODD = (
    "${x}", "${study}", "${oc.env:NONE_SUCH}", "${", "${.}", "???", "", "~nobody/x", "a/b", "a b/c", "x.gguf",
    "all", "low", "cldr", "cldr_lite", "m", "*a", "1e-3", "0x10",
    "\n", "ä\u2028b", "\0", "a=b", "[1", "on", "org/n@main",
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.sampled_from(ODD),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.dates(),
    st.binary(max_size=3),
)
KEYS = st.one_of(
    st.sampled_from(("name", "seed", "model", "dataset", "train")),
    st.integers(),
    st.booleans(),
    st.text("ab.[]", max_size=3),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def _fields(schema: type[Any]) -> list[str]:
    return [entry.name for entry in dataclasses.fields(schema)]


PLACES = [
    *((name,) for name in _fields(GridConfig)),
    *(("grid", name) for name in AXES),
    *(("train", name) for name in _fields(Hyperparameters)),
    *(("train", name) for name in ("dataset",)),
    *(("evaluate", name) for name in _fields(EvaluateConfig)),
    *(("evaluate", "benchmarks", 0, name) for name in _fields(BenchmarkConfig)),
    *(("tracking", name) for name in _fields(TrackingConfig)),
    *(("resources", "train", name) for name in _fields(Resources)),
    *(("prepare", "tiny", name) for name in (*_fields(Scratch), *_fields(Hyperparameters), "dataset")),
    ("exclude", 0),
    ("exclude", 0, "seed"),
]


def _valid() -> dict[str, Any]:
    return {
        "study": "s",
        "prepare": {"tiny": {"dataset": "cldr-pretrain"}},
        "grid": {"model": ["m", "tiny"], "dataset": ["cldr-instruct"], "label_smoothing": [0.0, 0.1]},
        "exclude": [{"model": "m"}],
        "train": {"num_steps": 2},
        "evaluate": {"benchmarks": [{"name": "cldr_lite", "languages": ["en"]}]},
        "tracking": {},
        "resources": {"train": {}},
    }


def _put(values: Any, place: tuple[str | int, ...], value: Any) -> None:
    for key in place[:-1]:
        values = values[key]
    values[place[-1]] = value


def _no_hub(*_arguments: object, **_keywords: object) -> None:
    raise ConnectionError("no network in a test")


def _sentence_of(mistake: UserError) -> None:
    assert str(mistake).strip()
    assert len(str(mistake).splitlines()) == 1, str(mistake)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_of_any_known_key(place: tuple[str | int, ...], value: Any) -> None:
    values = _valid()
    _put(values, place, value)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(HfApi, "repo_info", _no_hub)
        folder = Path(name)
        patch.chdir(folder)
        write_model(folder / "m")
        path = write_grid(folder, yaml.safe_dump(values, allow_unicode=True))
        try:
            grid = load_grid(path)
            plan = build_plan(grid)
            load_site(grid)
        except UserError as error:
            _sentence_of(error)
            return
    assert plan.jobs
    assert len({job.job_id for job in plan.jobs}) == len(plan.jobs)


OVERRIDDEN = st.sampled_from(["train.seed", "grid.seed", "study", "train", "grid.model[0]", "a.b"])
WORDS = st.sampled_from([*ODD, "[1,2]", "{a: 1}", "{", "!!python/none", "&a [*a]", "- x"])


@settings(max_examples=100, deadline=None)
@given(key=OVERRIDDEN | st.text("ab.[]0", min_size=1, max_size=6), value=WORDS | st.text(max_size=6))
def test_any_override(key: str, value: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write_grid(Path(name), "study: s\ngrid: {model: [m]}\n")
        try:
            load_grid(path, [f"{key}={value}"])
        except UserError as error:
            _sentence_of(error)


SEEDS = (
    SMOKE.read_text(encoding="utf-8"),
    yaml.safe_dump(_valid()),
    "study: s\ninclude: base.yaml\ngrid: {model: [m], dataset: [cldr-instruct], seed: [0, 1]}\n"
    "zip: [[seed, label_smoothing]]\nbudget: {gpu_hours: 3}\n"
    "evaluate: {benchmarks: [cldr_lite], languages_per_task: 3}\n",
)
BASE = "grid: {label_smoothing: [0.0, 0.1]}\ntrain: &t {num_steps: 2}\ntracking: {mode: disabled}\n"
PIECES = st.one_of(
    st.sampled_from(
        [*ODD, ":", ": ", "- ", "[", "]", "{", "}", "#", "&a ", "*a", "<<: *t", "!!", "|", "\t", "  ", "'"]
    ),
    st.sampled_from(["1e400", "9" * 400, "-1", "null", ".nan", "0b1", "2026-11-25", "\ufeff", "\x07", "🙂"]),
    st.text(max_size=4),
)


@st.composite
def mutated(draw: st.DrawFn, valid: tuple[str, ...]) -> str:
    """A valid file with lines deleted, doubled, swapped or indented, and pieces of its text replaced."""
    lines = draw(st.sampled_from(valid)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["delete", "double", "swap", "indent", "cut", "put", "put", "typo"])):
            case "delete" if len(lines) > 1:
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "swap":
                other = draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case "indent":
                lines[at] = " " * draw(st.integers(1, 4)) + lines[at]
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case "typo":
                lines[at] = lines[at].replace("e", draw(st.sampled_from(["", "3", "ee", "E"])), 1)
            case _:
                start, end = sorted(draw(st.tuples(*[st.integers(0, len(lines[at]))] * 2)))
                lines[at] = lines[at][:start] + draw(PIECES) + lines[at][end:]
    return "\n".join(lines) + draw(st.sampled_from(["\n", ""]))


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=mutated(SEEDS), base=st.just(BASE) | mutated((BASE,)))
def test_two_thousand_mutated_files(text: str, base: str) -> None:
    """Each ends in a plan, or in one sentence and exit code 2."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(HfApi, "repo_info", _no_hub)
        folder = Path(name)
        patch.chdir(folder)
        write_model(folder / "m")
        (folder / "base.yaml").write_bytes(base.encode("utf-8", errors="surrogatepass"))
        (folder / "grid.yaml").write_bytes(text.encode("utf-8", errors="surrogatepass"))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["sweep", "grid.yaml", "--dry-run", "cluster=local"])
        assert code in (0, 2)
        if code == 2:
            assert len(err.getvalue().splitlines()) == 1, err.getvalue()
            assert err.getvalue().startswith("calsweep: ")
        else:
            assert " jobs (" in out.getvalue()
        assert {path.name for path in folder.iterdir()} == {"m", "base.yaml", "grid.yaml"}
