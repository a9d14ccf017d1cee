"""grid.yaml and its overrides as frozen dataclasses: defaults < file < command line.

OmegaConf merges and checks types; this file turns its errors into one sentence with the key path and the
nearest valid key.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    OmegaConfBaseException,
)

from study.errors import UserError, nearest
from study.grid.yaml_files import load_with_includes, load_yaml, merge_overrides, problem_of
from study.jobs.contrasts import EQUIVALENCE_MARGIN
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters

MODES = ("disabled", "offline", "online")
KINDS_WITH_RESOURCES = ("prepare", "train", "evaluate", "analyse")
TRAINING_AXES = ("dataset", *(f.name for f in dataclasses.fields(Hyperparameters)))
AXES = ("model", *TRAINING_AXES)
ABBREVIATIONS = {
    "lr": "learning_rate",
    "eps": "label_smoothing",
    "epsilon": "label_smoothing",
    "smoothing": "label_smoothing",
}


@dataclass(frozen=True)
class BenchmarkConfig:
    """name: of a file in study/benchmarks, with `@<commit>` to pin it; or any name, with `path` and `schema`.
    path: a folder with <language>.parquet or <language>.jsonl.
    schema: the benchmark whose columns those files have, e.g. `global_mmlu`.
    languages: codes, buckets (`low`, `mid`, `high`), scripts, families, or `all` that the benchmark has.
    num_items: the first so many rows of each language; None for all.
    """

    name: str
    path: str | None = None
    schema: str | None = None
    languages: list[str] = field(default_factory=lambda: ["all"])
    split: str = "test"
    num_items: int | None = None

    def __post_init__(self) -> None:
        require_texts(self.languages, "languages")


@dataclass(frozen=True)
class EvaluateConfig:
    """include_base: also evaluate each base model. languages_per_task: languages that share one model load.
    benchmarks: each a `BenchmarkConfig`, or a name.
    protocol: `letter` scores the options' letters, `option_text` their texts.
    scaffold, num_shots, option_order, too_long: see `study.jobs.specs.Prompting`.
    dtype: of the forward pass; log-probabilities are always float32.
    """

    include_base: bool = True
    benchmarks: list[Any] = field(default_factory=list)
    protocol: str = "letter"
    scaffold: str = "english"
    num_shots: int = 0
    option_order: str = "original"
    too_long: str = "refuse"
    dtype: str = "bf16"
    languages_per_task: int = 1


@dataclass(frozen=True)
class TrackingConfig:
    """mode: `disabled`, `offline` (for `calsweep sync`) or `online`. Outside identity."""

    mode: str = "offline"
    project: str = "calsweep"
    entity: str | None = None


@dataclass(frozen=True)
class BudgetConfig:
    """What a study may cost, by the forecast; None for no limit. Above it nothing is submitted: exit code 3.

    gpu_hours: of all jobs that are left to run. disk_gib: of their outputs.
    """

    gpu_hours: float | None = None
    disk_gib: float | None = None

    def __post_init__(self) -> None:
        for name in ("gpu_hours", "disk_gib"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                # the section is named here, since the check runs as part of the whole grid's
                raise UserError("out of range", where=f"budget.{name}", remedy="give 0 or more")


@dataclass(frozen=True)
class GridConfig:
    """A grid file; its key `include` names files that it is merged over.

    grid: axes, whose product is the cells. zip: groups of axes that advance together. exclude: cells to leave
    out. train: constants, with the names of axes. contrasts: see `study.jobs.contrasts`; outside identity.
    equivalence_margin: a change below it counts as none, in equivalence tests; outside identity.
    """

    study: str
    description: str | None = None
    prepare: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    zip: list[Any] = field(default_factory=list)
    exclude: list[Any] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    contrasts: list[Any] = field(default_factory=list)
    equivalence_margin: float = EQUIVALENCE_MARGIN
    cluster: str = "local"
    resources: dict[str, Any] = field(default_factory=dict)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    outputs: str = "outputs"


@dataclass(frozen=True)
class Grid:
    """A loaded grid: configuration, benchmarks, its file, and the folders of this file and those it includes.

    only_looked_at: nothing will run, so revisions may stay open where the hub does not answer.
    """

    config: GridConfig
    benchmarks: tuple[BenchmarkConfig, ...]
    path: Path
    folders: tuple[Path, ...]
    only_looked_at: bool = False

    @property
    def study_dir(self) -> Path:
        """`outputs` is relative to the working directory, as outputs of commands usually are."""
        return Path(os.path.expanduser(self.config.outputs), self.config.study).resolve()

    def find(self, name: str) -> Path | None:
        """An existing file or folder: absolute, or relative to the grid's folder, to those of the grids it
        includes, or to the working directory.
        """
        plain = os.path.expanduser(name)  # unlike Path's, it keeps an unknown ~user
        for folder in (*self.folders, Path.cwd()):
            candidate = folder / plain  # an absolute `plain` wins in a join
            if os.path.exists(candidate):  # unlike Path's, it accepts a name that is too long
                return candidate.resolve()
        return None


def load_grid(path: Path, overrides: Sequence[str] = ()) -> Grid:
    """Read, merge and check a grid.

    Raises UserError for a missing or unreadable file, an unknown key, a wrong type, an axis that is not
    a list, is empty or holds a value twice.
    """
    if not path.is_file():
        raise UserError(
            "no such file", where=str(path), remedy="give the path of a grid, e.g. examples/demo.yaml"
        )
    loaded, files = load_with_includes(path)
    config: GridConfig = _checked(GridConfig, merge_overrides(loaded, overrides), path.name)
    _check_grid(config, path.name)
    benchmarks = tuple(
        checked_section(
            BenchmarkConfig,
            {"name": b} if isinstance(b, str) else b,
            f"{path.name}: evaluate.benchmarks[{i}]",
        )
        for i, b in enumerate(config.evaluate.benchmarks)
    )
    folders = tuple(dict.fromkeys(file.resolve().parent for file in files))
    return Grid(config=config, benchmarks=benchmarks, path=path.resolve(), folders=folders)


def load_checked(schema: type[Any], path: Path) -> Any:
    """A YAML file as the dataclass `schema`; raises UserError like `load_grid`."""
    return _checked(schema, load_yaml(path), path.name)


def require_texts(values: Sequence[Any], where: str) -> None:
    """Raise UserError for a list or mapping (from an unquoted colon), which OmegaConf accepts as a str."""
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"{value!r} is not text", where=f"{where}[{i}]", remedy="put it in quotes")


def checked_section(schema: type[Any], values: Any, where: str) -> Any:
    """`values` as the dataclass `schema`, with OmegaConf's type checks; UserErrors name `where.key`."""
    if not isinstance(values, dict):
        raise UserError(
            "not a mapping of keys to values", where=where, remedy="write key: value lines below it"
        )
    try:
        created = OmegaConf.create(values)
    except OmegaConfBaseException as error:
        raise UserError(
            f"wrong type or value ({problem_of(error)})", where=where, remedy="correct it"
        ) from None
    return _checked(schema, created, where)


_structures: dict[type[Any], Any] = {}
"""The types and defaults of each dataclass, as OmegaConf wants them; its `merge` copies them."""


def _checked(schema: type[Any], values: Any, where: str) -> Any:
    def place(key: str) -> str:
        # a key follows a file's name after ": ", and a key path after "."
        return (f"{where}.{key}" if ": " in where else f"{where}: {key}") if key else where

    try:
        if schema not in _structures:
            _structures[schema] = OmegaConf.structured(schema)
        structure = _structures[schema]
        _check_shapes(OmegaConf.to_container(structure), OmegaConf.to_container(values))
        merged = OmegaConf.merge(structure, values)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise UserError("is missing", where=missing[0], remedy="give it a value")
        return OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        # in a section it is the section's own type that lacks the key
        remedy = _suggest_key(error.object_type or schema, key.rpartition(".")[2])
        raise UserError("unknown key", where=place(key), remedy=remedy) from None
    except (OmegaConfBaseException, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(
            f"wrong type or value ({problem_of(error)})",
            where=place(str(getattr(error, "full_key", None) or "")),
            remedy="correct it",
        ) from None
    except UserError as error:  # a missing value, or a range check of the dataclass itself
        raise UserError(error.what, where=place(error.where), remedy=error.remedy) from None


def _check_shapes(defaults: Any, given: Any, above: str = "") -> None:
    """Raise UserError unless mappings and lists are where the schema has them; OmegaConf names no key."""
    for key, default in defaults.items():
        value = given.get(key, default)
        if isinstance(default, dict):
            if not isinstance(value, dict):
                raise UserError(
                    "not a mapping of keys to values",
                    where=above + key,
                    remedy="write key: value lines below it",
                )
            _check_shapes(default, value, f"{above}{key}.")
        elif isinstance(default, list) and not isinstance(value, list):
            raise UserError("not a list", where=above + key, remedy=f"write [{value}]")


def _suggest_key(schema: type[Any], key: str) -> str:
    key = ABBREVIATIONS.get(key, key)
    if schema is GridConfig and key in AXES:
        return f"did you mean 'grid.{key}=[...]' or 'train.{key}'?"
    return nearest(key, (f.name for f in dataclasses.fields(schema)))


def _check_grid(config: GridConfig, where: str) -> None:
    if not 0.0 < config.equivalence_margin < 1.0:
        raise UserError(
            "out of range", where=f"{where}: equivalence_margin", remedy="give a change between 0 and 1"
        )
    if not re.fullmatch(r"[A-Za-z0-9][\w.\-]{0,99}", config.study):
        raise UserError(
            f"'{config.study}' cannot name a folder",
            where=f"{where}: study",
            remedy="use letters, digits, - and _, at most 100",
        )
    if config.tracking.mode not in MODES:
        raise UserError(
            f"'{config.tracking.mode}' is unknown",
            where=f"{where}: tracking.mode",
            remedy=nearest(config.tracking.mode, MODES),
        )
    if config.evaluate.languages_per_task < 1:
        raise UserError("must be 1 or more", where=f"{where}: evaluate.languages_per_task", remedy="write 1")
    zipped = {
        axis for group in config.zip if isinstance(group, list) for axis in group if isinstance(axis, str)
    }
    for axis, values in config.grid.items():
        place = f"{where}: grid.{axis}"
        if axis not in AXES:
            raise UserError("unknown axis", where=place, remedy=nearest(ABBREVIATIONS.get(axis, axis), AXES))
        if not isinstance(values, list):
            raise UserError("an axis is a list", where=place, remedy=f"write [{values}]")
        if not values:
            raise UserError(
                "an axis must not be empty", where=place, remedy="give a value or remove the axis"
            )
        values = [checked_value(axis, value, f"{where}: grid") for value in values]
        seen: set[Any] = set()
        for value in values:
            if value in seen and axis not in zipped:  # in a zip group a value may occur beside several others
                raise UserError(f"{value!r} occurs twice", where=place, remedy="remove one")
            seen.add(value)
    for key, value in config.train.items():
        if key not in TRAINING_AXES:
            raise UserError(
                "unknown key",
                where=f"{where}: train.{key}",
                remedy=nearest(ABBREVIATIONS.get(key, key), TRAINING_AXES),
            )
        if key in config.grid:
            raise UserError(
                "is also an axis of the grid", where=f"{where}: train.{key}", remedy="keep one of them"
            )
        checked_value(key, value, f"{where}: train")
    if "model" not in config.grid:
        raise UserError(
            "is missing", where=f"{where}: grid.model", remedy="list the models, e.g. grid.model: [org/name]"
        )
    check_resources(config.resources, where)


def checked_value(key: str, value: Any, where: str) -> Any:
    """One value of an axis or a constant, with the type of its field: "0.1" becomes 0.1."""
    if key in ("model", "dataset"):
        if not isinstance(value, str) or not value:
            raise UserError(f"{value!r} is not a name", where=f"{where}.{key}", remedy="give an id or a path")
        return value
    if type(value) in (int, float) and type(value) is type(getattr(Hyperparameters, key)):
        # nothing to convert; OmegaConf would take seconds for an axis of thousands of seeds
        try:
            return getattr(Hyperparameters(**{key: value}), key)
        except UserError as error:
            raise UserError(error.what, where=f"{where}.{error.where}", remedy=error.remedy) from None
    return getattr(checked_section(Hyperparameters, {key: value}, where), key)


def check_resources(resources: dict[str, Any], where: str) -> None:
    """Raises UserError for an unknown kind of job, an unknown key or a value out of range."""
    for kind, values in resources.items():
        if kind not in KINDS_WITH_RESOURCES:
            raise UserError(
                "unknown kind of job",
                where=f"{where}: resources.{kind}",
                remedy=nearest(kind, KINDS_WITH_RESOURCES),
            )
        checked_section(Resources, values, f"{where}: resources.{kind}")
