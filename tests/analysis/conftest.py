"""Fixtures of the analysis tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.tables.files import write_tables
from tests.analysis.studies import StudyFolder, sweep


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """An empty study."""
    root = tmp_path / "tiny"
    root.mkdir()
    return StudyFolder(root)


@pytest.fixture
def both(tmp_path: Path) -> tuple[StudyFolder, StudyFolder]:
    """Two empty studies."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return StudyFolder(tmp_path / "a"), StudyFolder(tmp_path / "b")


@pytest.fixture
def written(folder: StudyFolder) -> StudyFolder:
    """A sweep with its tables in every format; one shard failed and one is not done."""
    sweep(folder, seeds=2, skip=[(0.1, 0, "sw"), (0.1, 1, "de")])
    write_tables(folder.root)
    return folder
