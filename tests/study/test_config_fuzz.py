"""Whatever a grid holds, loading and planning it either works or says one sentence."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.cluster import load_site
from launcher.plan import build_plan
from study.config import AXES, BenchmarkConfig, EvaluateConfig, GridConfig, TrackingConfig, load_grid
from study.errors import UserError
from study.specs import Hyperparameters, Resources, Scratch
from tests.grids import write_grid, write_model

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
