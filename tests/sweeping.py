"""Runs sweeps and commands as a user does, each in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "examples" / "smoke.yaml"


def sweep_command(outputs: Path, *more: str, grid: Path = SMOKE) -> list[str]:
    return [sys.executable, str(ROOT / "launcher" / "sweep.py"), str(grid), f"outputs={outputs}", *more]


def sweep(outputs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Sweep examples/smoke.yaml from a folder that is not the project's."""
    return run(sweep_command(outputs, *more), cwd=outputs)


def run(command: Sequence[str], *, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=540)


def status(study_dir: Path) -> dict[str, Any]:
    """The output of `calsweep status --json`."""
    done = run([sys.executable, "-m", "launcher.cli", "status", str(study_dir), "--json", "--fresh"])
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
