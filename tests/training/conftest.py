"""Undisturbed runs, made once: what every stopped and resumed one must equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.attempts import finish, make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Callable[..., Path]:
    """(dtype, ranks, zero_stage) -> the folder of such a run."""
    made: dict[tuple[str, int, int], Path] = {}

    def run(dtype: str = "fp32", ranks: int = 1, zero_stage: int = 1) -> Path:
        key = dtype, ranks, zero_stage
        if key not in made:
            made[key] = tmp_path_factory.mktemp("undisturbed")
            finish(made[key], inputs, dtype=dtype, ranks=ranks, zero_stage=zero_stage)
        return made[key]

    return run
