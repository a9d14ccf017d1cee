"""Nothing that a user has seen changes by accident: see `tests/golden/make.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.make import FILES, build, kept

NAMES = sorted(path.name for path in FILES.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return kept(build(tmp_path_factory.mktemp("golden")))


def test_no_file_is_left_out(made: dict[str, str]) -> None:
    assert sorted(made) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_as_it_was(name: str, made: dict[str, str]) -> None:
    assert made[name] == (Path(FILES) / name).read_text(encoding="utf-8")
