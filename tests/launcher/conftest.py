"""A working directory with a local model in it, for plans and commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grids import write_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m")
    return tmp_path
