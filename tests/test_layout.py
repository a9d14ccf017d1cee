"""The house: imports only go down a floor, names shadow nothing, the login node stays light, files small."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.sweeping import ROOT
from tests.waiting import HANG_S

FLOORS = {"study": 0, "training": 1, "evaluation": 1, "analysis": 1, "launcher": 2}
MODULES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# installed or not: people have them, and a module of ours with such a name would break their scripts
NAMES_TO_AVOID = {"datasets", "evaluate", "tokenizers", "tokenizer", "accelerate", "peft", "trl", "vllm"}
HEAVY = {"torch", "transformers", "deepspeed", "datasets"}
MAX_LINES = 350


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add((node.module or "").split(".")[0])
    return found


def modules_after(program: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `program`."""
    done = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_there_are_modules_on_every_floor() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_go_down_a_floor(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = {name for name, floor in FLOORS.items() if floor < FLOORS[package]} | {package}
    assert imported(path) & {*FLOORS, "tests"} <= allowed


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {name_of(path) for path in MODULES}
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules = {f"{node.module}.{alias.name}" for alias in node.names} & names
                targets |= modules or {node.module or ""} & names
        graph[name_of(path)] = targets
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_module_is_named_like_anybody_elses() -> None:
    needed = {re.split(r"[\[<>=~! ;]", entry)[0] for entry in PROJECT["project"]["dependencies"]}
    providers = importlib.metadata.packages_distributions()
    theirs = {name for name, owners in providers.items() if needed & set(owners)}
    assert {"torch", "wandb", "submitit"} <= theirs
    taken = sys.stdlib_module_names | theirs | NAMES_TO_AVOID | needed
    ours = {part for path in MODULES for part in name_of(path).split(".")} - {"__main__"}
    assert not ours & taken


def test_importing_the_login_nodes_packages_imports_nothing_heavy() -> None:
    names = [
        name_of(path)
        for path in MODULES
        if path.relative_to(ROOT).parts[0] in ("study", "launcher", "analysis") and path.stem != "__main__"
    ]
    found = modules_after("import " + ", ".join(names))
    assert {"study", "launcher", "analysis"} <= found
    assert not found & HEAVY


@pytest.mark.parametrize("command", ["launcher.cli", "analysis.cli"])
def test_help_answers_at_once(command: str) -> None:
    program = f"import {command} as command\ntry:\n    command.main(['--help'])\nexcept SystemExit as stop:\n"
    program += "    assert stop.code == 0"
    assert not modules_after(program) & (HEAVY | {"pyarrow", "rich", "numpy", "omegaconf", "wandb"})


def test_files_are_small() -> None:
    long = {
        name_of(path): count
        for path in MODULES
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long


def test_packages_are_the_folders_with_modules() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(folders)


def test_every_package_file_that_is_no_module_is_installed() -> None:
    """A template that is missing from package-data is missing on the machine it is installed on."""
    data: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
    left_out = [
        path.relative_to(ROOT).as_posix()
        for package in FLOORS
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(path.match(pattern) for pattern in data.get(name_of(path.parent / "__init__.py"), ()))
    ]
    assert not left_out
