"""Small grids for tests, each a file in a separate folder, with local models that need no network."""

from __future__ import annotations

import json
from pathlib import Path

from launcher.planning.plan import build_plan
from study.grid.config import Grid, load_grid
from study.jobs.plan import Plan


def write_grid(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def write_model(folder: Path, content: str = "weights") -> Path:
    """A folder that looks like a model to the launcher, which never reads weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_text(content)
    return folder


def grid_of(folder: Path, text: str, *overrides: str) -> Grid:
    return load_grid(write_grid(folder, text), overrides)


def plan_of(folder: Path, text: str, *overrides: str) -> Plan:
    return build_plan(grid_of(folder, text, *overrides))
