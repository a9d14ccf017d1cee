"""Read YAML files, with those they include, and find the line of a key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from study.errors import UserError

MAX_VALUES = 200_000
"""A small file of nested aliases can expand to more values than memory holds."""


def load_yaml(path: Path) -> DictConfig:
    """One file as a mapping. Raises UserError, with a line if YAML's error has one."""
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_bomb(yaml.compose(text, Loader=yaml.SafeLoader), path.name)
        # the default limit is 10,000, and one axis may hold as many seeds
        loaded = OmegaConf.load(path, max_yaml_expanded_nodes=MAX_VALUES)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(
            f"not valid YAML ({problem_of(error)})", where=f"{path.name}{line}", remedy="correct it"
        ) from None
    except OSError as error:  # also what OmegaConf raises for a file that holds one number
        if error.errno is not None:
            raise UserError("cannot be read", where=str(path), remedy=error.strerror or "") from None
        loaded = None
    if not isinstance(loaded, DictConfig):
        raise UserError("not a mapping of keys to values", where=path.name, remedy="see examples/smoke.yaml")
    return loaded


def load_with_includes(path: Path, above: Sequence[Path] = ()) -> tuple[DictConfig, list[Path]]:
    """A file merged over those that it includes, and all these files, highest precedence first.

    Mappings merge, lists and values replace; later files, and the including one, take precedence.
    Raises UserError for a missing file or a circle.
    """
    loaded = load_yaml(path)
    where = f"{path.name}: include"
    plain = OmegaConf.to_container(loaded)
    assert isinstance(plain, dict)
    named = plain.get("include", [])
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError("not a file or a list of files", where=where, remedy="e.g. include: base.yaml")
    loaded.pop("include", None)
    files, bases = [path], []
    for name in names:
        found = path.parent / os.path.expanduser(name)
        if not _is_file(found):
            raise UserError(
                f"no such file ('{name}')", where=where, remedy="give its path from this file's folder"
            )
        found = found.resolve()
        if found in (*above, path.resolve()):
            raise UserError(f"'{name}' includes this file again", where=where, remedy="break the circle")
        with errors_with_lines(found):
            base, below = load_with_includes(found, (*above, path.resolve()))
        bases.append(base)
        files[1:1] = below
    try:
        merged = OmegaConf.merge(*bases, loaded) if bases else loaded
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise UserError(
            f"does not fit what it includes ({problem_of(error)})", where=where, remedy="compare the two"
        ) from None
    assert isinstance(merged, DictConfig)
    return merged, files


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def merge_overrides(loaded: DictConfig, overrides: Sequence[str]) -> Any:
    """A file with `key=value` overrides. Raises UserError for one that is malformed or does not fit."""
    for item in overrides:
        if not re.match(r"^[A-Za-z_][\w.\-\[\]]*=", item):
            raise UserError(
                f"'{item}' is not key=value", where="command line", remedy="e.g. train.num_steps=10"
            )
    try:
        given = OmegaConf.from_dotlist(list(overrides))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(problem_of(error), where="command line", remedy="quote the value") from None
    try:
        return OmegaConf.merge(loaded, given)
    except (OmegaConfBaseException, TypeError):
        raise UserError(
            "does not fit the file",
            where="command line",
            remedy="give a list as a whole, e.g. grid.seed=[1,2]",
        ) from None


def problem_of(error: Exception) -> str:
    """The first line of an error of YAML or OmegaConf, without the lines that describe its place."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    said = getattr(error, "problem", None) or getattr(error, "msg", None) or str(error)
    return (str(said).splitlines() or [type(error).__name__])[0]


def _refuse_bomb(root: yaml.Node | None, name: str) -> None:
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        key = id(node)
        if key not in sizes:
            sizes[key] = MAX_VALUES + 1  # until it is known; an alias inside itself reads this
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            flat = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
            sizes[key] = 1 + sum(size(part) for part in flat)
        return sizes[key]

    if root is not None and size(root) > MAX_VALUES:
        raise UserError(
            f"expands to more than {MAX_VALUES:,} values", where=name, remedy="use fewer aliases in it"
        )


@contextmanager
def errors_with_lines(path: Path, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Add to UserErrors about keys, raised inside, where the value was written: the line of this YAML file or
    of one that it includes, or the command line.
    """
    try:
        yield
    except UserError as error:
        key = error.where.removeprefix(f"{path.name}: ")
        is_key = key != error.where or not re.search(r": |, line |^command line$", key)
        if not is_key or key in ("", path.name, str(path)):
            raise
        place = _place_of(key, path, overrides)
        if place is None:
            raise
        raise UserError(error.what, where=f"{place}: {key}", remedy=error.remedy) from None


def _place_of(key_path: str, path: Path, overrides: Sequence[str]) -> str | None:
    """`grid.yaml, line 7`, of the file that has most steps of the key path, or `command line`."""
    steps = re.findall(r"[^.\[\]]+", key_path)
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError):  # the error is about these
        return None
    for step in steps:
        if not isinstance(given, dict):
            return "command line"  # lists and values replace what a file says
        if step not in given:
            return _line_of(steps, path)
        given = given[step]
    if not isinstance(given, dict):
        return "command line"
    return _line_of(steps, path) or "command line"


def _line_of(steps: Sequence[str], path: Path) -> str | None:
    try:
        _, files = load_with_includes(path)
    except UserError:
        files = [path]
    best, place = 0, None
    for file in files:
        try:
            node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, OSError, RecursionError):
            continue
        depth, line, in_list = _descend(node, steps)
        if depth > best:
            best, place = depth, f"{file.name}, line {line + 1}"
        if in_list:  # a list replaces those of the other files
            break
    return place


def _descend(node: yaml.Node | None, steps: Sequence[str]) -> tuple[int, int, bool]:
    """How many steps of a key path exist below a node, the line of the last one, from 0, and whether they
    enter a list.
    """
    line, in_list = 0, False
    for depth, step in enumerate(steps):
        if isinstance(node, yaml.MappingNode):
            matches = [(key, value) for key, value in node.value if getattr(key, "value", None) == step]
            if not matches:
                return depth, line, in_list
            key, node = matches[-1]
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and step.isdecimal() and int(step) < len(node.value):
            node, in_list = node.value[int(step)], True
            line = node.start_mark.line
        else:
            return depth, line, in_list or isinstance(node, yaml.SequenceNode)
    return len(steps), line, in_list
