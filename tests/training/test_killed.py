"""SIGKILL at random moments, in the middle of saves too: the run ends as if nothing had happened."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from tests.training import accidents
from tests.training.attempts import KILLED, assert_same_run, end, finish, paths_of, start
from tests.waiting import eventually

STEPS = 90
"""A run of 30 steps, a tenth of a second each, was at times complete before the last kill."""
KILLS = 10
UP_TO_S = 0.5
SAVE_S = 0.03
"""What a save takes at least, roughly."""


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_ranks_that_are_killed_ten_times(tmp_path: Path, inputs: Path, zero_stage: int) -> None:
    """At any moment once the run is under way; every second time, in a save."""
    how: dict[str, Any] = {"ranks": 2, "zero_stage": zero_stage, "steps": STEPS}
    finish(tmp_path / "undisturbed", inputs, **how)
    killed = tmp_path / "killed"
    moments = random.Random(zero_stage)
    in_a_save = 0
    for number in range(KILLS):
        started = start(killed, inputs, **how, every_min=1e-9, accident=accidents.slow_steps)
        wait_for_the_loop(killed, started)
        if number % 2:
            wait_until(lambda: any(saves(killed)), started)
            time.sleep(moments.uniform(0, SAVE_S))
        else:
            time.sleep(moments.uniform(0, UP_TO_S))
        for process in started:  # as SLURM does: one that is left would wait for the other
            process.kill()
        assert [outcome.exit_code for outcome in end(killed, started)] == [KILLED, KILLED]
        in_a_save += any(saves(killed))
    finish(killed, inputs, **how)
    assert_same_run(killed, tmp_path / "undisturbed", STEPS)
    assert in_a_save, "no kill fell into a save: the test has not tested what it says"


def saves(folder: Path) -> Iterator[Path]:
    """Checkpoints that are being written."""
    return paths_of(folder).checkpoints.glob(".step-*.tmp")


def wait_for_the_loop(folder: Path, started: list[ForkServerProcess]) -> None:
    """The attempt writes how far the run is when it enters the loop."""
    progress = paths_of(folder).progress
    before = progress.stat().st_mtime_ns if progress.exists() else 0
    wait_until(lambda: progress.exists() and progress.stat().st_mtime_ns > before, started)


def wait_until(condition: Callable[[], bool], started: list[ForkServerProcess]) -> None:
    def gets_on() -> bool:
        came = condition()
        assert came or all(process.is_alive() for process in started)
        return came

    eventually(gets_on, "the attempt gets on", every_s=0.001)
