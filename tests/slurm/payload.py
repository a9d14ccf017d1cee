"""A copy of the checkout in which jobs do almost nothing; everything else is real.

A job of the copy imports no torch, so that thousands of them run on two cores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.grids import write_model
from tests.sweeping import ROOT
from tests.waiting import HANG_S

PACKAGES = ("study", "modeling", "training", "evaluation", "analysis", "launcher")

TRAIN = '''
"""Trains nothing."""
from study.files import write_json

def train(job, folder, *, model_path, tokens, resources, tracking):
    with (folder.root / "runs").open("a") as runs:
        print("run", file=runs)
    write_json(folder.done, {})
'''
SHARD = '''
"""Scores nothing."""
from study.files import write_json

def evaluate(jobs, *, model_path, revision, items, batch_tokens, tracking, check=None, on_progress=None):
    for job, folder in jobs:
        if not folder.done.exists():
            with (folder.root / "runs").open("a") as runs:
                print("run", file=runs)
            write_json(folder.done, {})
    return []
'''
TABLES = '''
"""No records, no tables."""

def write_tables(root, study):
    (root / "tables").mkdir(exist_ok=True)
'''
DIAGNOSE = '''
"""No records, no diagnoses."""
from types import SimpleNamespace

def read_study(root):
    return SimpleNamespace(study=SimpleNamespace(missing=()))

def diagnose(root, read):
    pass
'''
DASHBOARD = '''
"""No records, no dashboard."""

def write_dashboard(root, study):
    pass
'''


def payload_checkout(folder: Path, *, train: str = TRAIN, shard: str = SHARD) -> Path:
    """Copy the packages and put `train` and `shard` in place of training/train.py and evaluation/shard.py."""
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    for name, text in {
        "training/train.py": train,
        "evaluation/shard.py": shard,
        "analysis/tables/files.py": TABLES,
        "analysis/diagnoses/diagnose.py": DIAGNOSE,
        "analysis/dashboard/page.py": DASHBOARD,
    }.items():
        assert (folder / name).is_file(), f"{name} has moved: the job would import the real one"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def calsweep(checkout: Path, *arguments: str) -> list[str]:
    """The command line of the copy."""
    program = (
        f"import sys; sys.path.insert(0, {str(checkout)!r}); "
        "from launcher.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", program, *arguments]


def run_calsweep(checkout: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        calsweep(checkout, *arguments), cwd=cwd, capture_output=True, text=True, timeout=HANG_S
    )


def write_models(folder: Path, count: int) -> list[str]:
    """Folders that pass for models, each a different one."""
    return [str(write_model(folder / f"model{i}", f"weights {i}")) for i in range(count)]
