"""Jobs that resume with other ranks or at another stage end as if nothing had happened, but for rounding."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.training import accidents
from tests.training.attempts import STEPS, attempt, checkpoints, finish, logged, paths_of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> list[list[float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder, inputs, dropout=0.0)
    return numbers(folder)


def numbers(folder: Path) -> list[list[float]]:
    return [[float(value) for value in row] for row in logged(folder)]


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 2), (1, 2)), ((1, 2), (2, 1)), ((2, 3), (1, 3)), ((1, 3), (2, 3))],
    ids=lambda place: f"{place[0]} ranks, stage {place[1]}",
)
def test_other_ranks_resume_from_a_checkpoint(
    tmp_path: Path,
    inputs: Path,
    undisturbed: list[list[float]],
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    """fp32: Adam's moments must be restored, and each parameter's own count of steps.

    With that count shared, which is what DeepSpeed loads at stage 3, the loss is off by more than 1e-4 here.
    """
    stopped = partial(accidents.signal_at, step=4, ranks=tuple(range(before[0])))
    attempt(tmp_path, inputs, ranks=before[0], zero_stage=before[1], dropout=0.0, accident=stopped)
    first, *_ = finish(tmp_path, inputs, ranks=after[0], zero_stage=after[1], dropout=0.0)
    assert f"converted the checkpoint of {before[0]} ranks at stage {before[1]}" in first.log
    actual = numbers(tmp_path)
    assert len(actual) == STEPS
    for row, want in zip(actual, undisturbed, strict=True):
        assert row == pytest.approx(want, rel=5e-6)
    assert checkpoints(tmp_path) == ["step-00000004"]
    assert [path.name for path in paths_of(tmp_path).checkpoints.iterdir()] == ["step-00000004"]
