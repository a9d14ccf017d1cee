"""Ranks stop together, whichever of them receives the signal, and whenever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.training import accidents
from tests.training.attempts import (
    STEPS,
    assert_same_run,
    attempt,
    checkpoints,
    end,
    finish,
    paths_of,
    start,
)
from tests.waiting import eventually
from tests.wandb_reader import read_finished_run, run_files

Undisturbed = Callable[..., Path]


@pytest.mark.parametrize(("zero_stage", "rank"), [(2, 0), (3, 1)])
def test_when_one_rank_is_told_both_stop_at_the_same_step(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed, zero_stage: int, rank: int
) -> None:
    how = {"ranks": 2, "zero_stage": zero_stage}
    outcomes = attempt(tmp_path, inputs, **how, accident=partial(accidents.signal_at, step=3, ranks=(rank,)))
    for outcome in outcomes:
        assert (outcome.error, outcome.message) == ("Stopped", "stopped at step 3 of 8")
    assert checkpoints(tmp_path) == ["step-00000003"]
    finish(tmp_path, inputs, **how)
    assert_same_run(tmp_path, undisturbed(**how))


def test_a_signal_from_outside_that_comes_at_any_moment(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed
) -> None:
    how: dict[str, Any] = {"ranks": 2, "zero_stage": 2}
    started = start(tmp_path, inputs, **how, accident=accidents.slow_steps)
    eventually(paths_of(tmp_path).metrics.exists, "the first step is logged", every_s=0.01)
    time.sleep(0.15)
    assert started[1].pid is not None
    os.kill(started[1].pid, signal.SIGTERM)
    outcomes = end(tmp_path, started)
    assert [outcome.error for outcome in outcomes] == ["Stopped", "Stopped"]
    assert outcomes[0].message == outcomes[1].message
    finish(tmp_path, inputs, **how)
    assert_same_run(tmp_path, undisturbed(**how))


def test_a_run_may_be_stopped_again_and_again(tmp_path: Path, inputs: Path, undisturbed: Undisturbed) -> None:
    for step in (2, 4, 6):
        (outcome,) = attempt(tmp_path, inputs, accident=partial(accidents.signal_at, step=2))
        assert outcome.message == f"stopped at step {step} of 8"
    assert checkpoints(tmp_path) == ["step-00000004", "step-00000006"]
    finish(tmp_path, inputs)
    assert_same_run(tmp_path, undisturbed())


def test_a_run_told_at_its_last_step_ends(tmp_path: Path, inputs: Path, undisturbed: Undisturbed) -> None:
    finish(tmp_path, inputs, accident=partial(accidents.signal_at, step=STEPS))
    assert checkpoints(tmp_path) == []
    assert_same_run(tmp_path, undisturbed())


def test_wandb_gets_each_step_once_and_shows_the_first_attempt_as_preempted(
    tmp_path: Path, inputs: Path
) -> None:
    attempt(tmp_path, inputs, tracking="offline", accident=partial(accidents.signal_at, step=4))
    time.sleep(1.1)  # the folder of an offline run is named by the second
    finish(tmp_path, inputs, tracking="offline")
    first, second = (read_finished_run(file) for file in run_files(paths_of(tmp_path).root))
    assert first.run_id == second.run_id
    assert (first.preempting, first.exit_code) == (True, 1)
    assert (second.preempting, second.exit_code) == (False, 0)
    assert [row["step"] for row in first.history] == [1, 2, 3, 4]
    assert [row["step"] for row in second.history] == [5, 6, 7, 8]
