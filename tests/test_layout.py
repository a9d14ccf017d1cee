"""The house: which folder imports which, names that shadow nothing, a light login node, small files."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.sweeping import ROOT
from tests.waiting import HANG_S

STUDY = {
    *("study", "study/jobs", "study/models", "study/cldr", "study/grid", "study/benchmarks"),
    "study/tracking",
}
MAY_IMPORT = {
    # what a study is; no torch
    "study": set(),
    "study/jobs": {"study"},
    "study/cldr": {"study"},
    "study/models": {"study", "study/jobs"},
    "study/grid": {"study", "study/jobs", "study/models", "study/cldr"},
    "study/benchmarks": {"study", "study/jobs", "study/grid"},
    "study/tracking": {"study", "study/jobs", "study/grid"},
    # what training and evaluation share of a model
    "modeling": STUDY,
    # what a job computes; the three know nothing of each other
    "training/data": STUDY,
    "training/engine": {*STUDY, "training/data"},
    "training": {*STUDY, "modeling", "training/data", "training/engine"},
    "evaluation/items": STUDY,
    "evaluation": {*STUDY, "modeling", "evaluation/items"},
    "analysis/metrics": {"study"},
    "analysis/inference": {"study"},
    "analysis/reading": {*STUDY, "analysis/metrics", "analysis/inference"},
    "analysis/results": {"study", "study/jobs", "analysis/metrics", "analysis/inference", "analysis/reading"},
    "analysis/tables": {"study", "analysis/inference", "analysis/reading", "analysis/results"},
    "analysis/figures": {"study", "analysis/reading", "analysis/results"},
    "analysis/dashboard": {"study", "analysis/reading", "analysis/results"},
    "analysis/diagnoses": {
        *(
            "study",
            "study/jobs",
            "analysis/metrics",
            "analysis/inference",
            "analysis/reading",
            "analysis/results",
            "analysis/tables",
        )
    },
    "analysis/terminal": {
        *("study", "analysis/inference", "analysis/reading", "analysis/results", "analysis/tables"),
        "analysis/diagnoses",
    },
    "analysis/verification": {
        *("study", "analysis/reading", "analysis/results", "analysis/tables", "analysis/diagnoses")
    },
    "analysis/exchange": {
        *STUDY,
        *("analysis/reading", "analysis/results", "analysis/tables", "analysis/terminal"),
        *("analysis/figures", "analysis/dashboard"),
    },
    "analysis": {
        "study",
        *("analysis/reading", "analysis/tables", "analysis/terminal", "analysis/figures"),
        *("analysis/dashboard", "analysis/diagnoses", "analysis/verification", "analysis/exchange"),
    },
    # from a grid to jobs on a cluster
    "launcher/planning": {*STUDY, "evaluation"},
    "launcher/job": {
        *STUDY,
        *("training", "evaluation", "analysis/tables", "analysis/dashboard", "analysis/diagnoses"),
    },
    "launcher/cost": {*STUDY, "launcher/planning"},
    "launcher/cluster": {*STUDY, "launcher/planning", "launcher/job"},
    "launcher/state": {*STUDY, "launcher/planning", "launcher/job", "launcher/cluster"},
    "launcher/commands/preparation": {
        *STUDY,
        *("training", "training/engine", "analysis/terminal"),
        *("launcher/planning", "launcher/cost", "launcher/cluster", "launcher/state"),
    },
    "launcher/commands": {
        *STUDY,
        *("analysis/terminal", "launcher/commands/preparation"),
        *("launcher/planning", "launcher/job", "launcher/cost", "launcher/cluster", "launcher/state"),
    },
    "launcher": {
        *("study", "study/jobs", "analysis"),
        # the commands are imported by name, so that --help is light
        *("launcher/planning", "launcher/job", "launcher/cluster"),
    },
}
"""A folder -> the folders whose modules its own may import, beside each other."""

PACKAGES = list(dict.fromkeys(folder.partition("/")[0] for folder in MAY_IMPORT))
HANDED_ON = {"analysis.metrics", "launcher.work"}
"""Names may be imported from these although others define them: scripts and pickled tasks name them."""
MAX_MODULES = 13
"""In a folder, beside its __init__.py: more are a corridor, and no rooms."""
MAX_CHAINS = {"study": 6, "modeling": 3, "training": 8, "evaluation": 8, "analysis": 12, "launcher": 12}
"""Modules of a package that import each other, one after the other."""
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# installed or not: people have them, and a module of ours with such a name would break their scripts
NAMES_TO_AVOID = {"datasets", "evaluate", "tokenizers", "tokenizer", "accelerate", "peft", "trl", "vllm"}
HEAVY = {"torch", "transformers", "deepspeed", "datasets"}
MAX_LINES = 500


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


@functools.cache
def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of each `from module import name` in a file, in functions too; `import m` is (m, "")."""
    result = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            result += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            result += [(node.module or "", alias.name) for alias in node.names]
    return result


def ours(path: Path) -> set[str]:
    """The modules of the project that a file imports."""
    both = {name for module, name in imports(path) for name in (f"{module}.{name}", module)}
    return {name for name in both & set(NAMES) if (NAMES[name].stem != "__init__" or name in HANDED_ON)}


def folder_of(path: Path) -> str:
    return path.parent.relative_to(ROOT).as_posix()


@functools.cache
def defined_in(path: Path) -> set[str]:
    """Names that a module defines at its top, also under a condition."""
    names: set[str] = set()
    nodes: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            nodes += ast.iter_child_nodes(node)
    return names


def longest_chain(graph: Mapping[str, set[str]]) -> list[str]:
    chains: dict[str, list[str]] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():  # raises CycleError, which names the circle
        below = [chains[other] for other in graph.get(name, ())]
        chains[name] = [name, *max(below, key=len, default=[])]
    return max(chains.values(), key=len)


def modules_after(program: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `program`."""
    done = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_every_folder_with_modules_has_its_line() -> None:
    assert {folder_of(path) for path in MODULES} == set(MAY_IMPORT)


def test_folders_may_not_import_each_other_in_a_circle() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_folder_imports_only_what_it_may(path: Path) -> None:
    assert not {module for module, _ in imports(path) if module.split(".")[0] == "tests"}
    folders = {folder_of(NAMES[name]) for name in ours(path)} - {folder_of(path)}
    assert folders <= MAY_IMPORT[folder_of(path)]


def test_a_folder_may_import_nothing_that_it_does_not() -> None:
    """A line that nobody needs would let the next import through unseen."""
    unused = {folder: allowed - STUDY for folder, allowed in MAY_IMPORT.items()}
    for path in MODULES:
        unused[folder_of(path)] -= {folder_of(NAMES[name]) for name in ours(path)}
    assert not {folder: names for folder, names in unused.items() if names}


@pytest.mark.parametrize("package", PACKAGES)
def test_chains_of_imports_are_short(package: str) -> None:
    members = {name: path for name, path in NAMES.items() if name.split(".")[0] == package}
    graph = {name: ours(path) & set(members) - {name} for name, path in members.items()}
    assert len(chain := longest_chain(graph)) <= MAX_CHAINS[package], chain


def test_chains_of_folders_are_short() -> None:
    graph: dict[str, set[str]] = {folder: set() for folder in MAY_IMPORT if folder.startswith("analysis")}
    for path in MODULES:
        if (folder := folder_of(path)) in graph:
            graph[folder] |= {folder_of(NAMES[name]) for name in ours(path)} & set(graph) - {folder}
    assert len(chain := longest_chain(graph)) <= 8, chain


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_name_is_imported_from_where_it_is_defined(path: Path) -> None:
    """No front doors: a name has one address."""
    elsewhere = {
        f"{module}.{name}"
        for module, name in imports(path)
        if name and module in NAMES and module not in HANDED_ON and f"{module}.{name}" not in NAMES
        and name not in defined_in(NAMES[module])
    }  # fmt: skip
    assert not elsewhere


def test_a_package_says_what_it_is_and_defines_nothing() -> None:
    for path in MODULES:
        if path.stem == "__init__" and name_of(path) not in HANDED_ON:
            (only,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert isinstance(only, ast.Expr), path


def test_folders_are_small() -> None:
    counts = Counter(folder_of(path) for path in MODULES if path.stem != "__init__")
    assert not {folder: count for folder, count in counts.items() if count > MAX_MODULES}


def test_no_module_is_named_like_anybody_elses() -> None:
    needed = {re.split(r"[\[<>=~! ;]", entry)[0] for entry in PROJECT["project"]["dependencies"]}
    providers = importlib.metadata.packages_distributions()
    theirs = {name for name, owners in providers.items() if needed & set(owners)}
    assert {"torch", "wandb", "submitit"} <= theirs
    taken = sys.stdlib_module_names | theirs | NAMES_TO_AVOID | needed
    parts = {part for path in MODULES for part in name_of(path).split(".")} - {"__main__"}
    assert not parts & taken


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
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(path.match(pattern) for pattern in data.get(name_of(path.parent / "__init__.py"), ()))
    ]
    assert not left_out
