"""What tests of a grid's names share."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from study.grid.config import Grid
from tests.grids import grid_of
from tests.study.fake_hub import FakeHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(HfApi, "repo_info", lambda _self, name, **options: fake.repo_info(name, **options))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return fake


@pytest.fixture
def grid(tmp_path: Path, hub: FakeHub) -> Grid:
    return grid_of(tmp_path, "study: s\ngrid: {model: [m]}\n")
