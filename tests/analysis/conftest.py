"""Fixtures of the analysis tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .studies import StudyFolder


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """An empty study."""
    root = tmp_path / "tiny"
    root.mkdir()
    return StudyFolder(root)
