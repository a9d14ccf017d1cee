"""Resources that a training cannot use are refused by the sweep, not by each job hours later."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cli import main
from tests.grids import write_grid
from tests.launcher.plans import GRID

NO_FP32 = "flash_attention_2 does not support fp32; write dtype: bf16, or attention: sdpa"
TOO_FEW = "request as many GPUs as tasks_per_node, or fewer tasks"


def planned(folder: Path, *overrides: str) -> int:
    return main(["sweep", str(write_grid(folder, GRID)), "--dry-run", f"outputs={folder}", *overrides])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["resources.train.gpus_per_node=1", "resources.train.tasks_per_node=4"],
            f"resources.train.gpus_per_node: 4 ranks per node cannot share 1 GPUs; {TOO_FEW}",
        ),
        (
            ["resources.prepare.gpus_per_node=3", "resources.prepare.tasks_per_node=4"],
            f"resources.prepare.gpus_per_node: 4 ranks per node cannot share 3 GPUs; {TOO_FEW}",
        ),
        (
            ["resources.train.attention=flash_attention_2"],
            f"resources.train.attention: {NO_FP32}",
        ),
        (
            ["resources.prepare.attention=flash_attention_2", "train.dtype=bf16"],
            f"resources.prepare.attention: {NO_FP32}",
        ),
        (
            ["resources.train.tasks_per_node=4", "train.global_batch_size=3"],
            "resources.train: 4 ranks cannot share a global batch of 3 examples; "
            "request fewer tasks, or raise global_batch_size",
        ),
    ],
)
def test_what_no_job_could_do_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], sentence: str
) -> None:
    assert planned(folder, *overrides) == 2
    assert capsys.readouterr().err == f"calsweep: command line: {sentence}\n"


@pytest.mark.parametrize(
    "overrides",
    [
        ["resources.train.gpus_per_node=4", "resources.train.tasks_per_node=2"],
        ["resources.train.gpus_per_node=0", "resources.train.tasks_per_node=2"],
        ["resources.train.attention=flash_attention_2", "train.dtype=bf16"],
        ["resources.evaluate.attention=flash_attention_2"],  # an evaluation does not use it
    ],
)
def test_what_they_can_do_is_planned(folder: Path, overrides: list[str]) -> None:
    assert planned(folder, *overrides) == 0
