"""Runs that are stopped, killed or find a torn checkpoint end as if nothing had happened, digit by digit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from study.files import digest, write_json
from tests.training import accidents
from tests.training.attempts import (
    KILLED,
    STEPS,
    assert_same_run,
    attempt,
    checkpoints,
    finish,
    logged,
    paths_of,
)
from training.engine.checkpoint import _read_marker

EVERY_STEP = 1e-9  # minutes between checkpoints
LAST_TWO = [f"step-{step:08d}" for step in (STEPS - 2, STEPS - 1)]

Undisturbed = Callable[..., Path]


def resumed_from(log: str) -> int | None:
    """The step that an attempt says it resumes from."""
    actual = [line for line in log.splitlines() if "resuming from the checkpoint at step" in line]
    assert len(actual) <= 1
    return int(actual[0].split()[-3]) if actual else None


@pytest.mark.parametrize(
    ("dtype", "ranks", "zero_stage"),
    [("fp32", 1, 1), ("bf16", 2, 1), ("bf16", 1, 2), ("bf16", 2, 3)],  # fp32 with two ranks: test_preemption
)
def test_a_stopped_run_ends_as_an_undisturbed_one(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed, dtype: str, ranks: int, zero_stage: int
) -> None:
    how = {"dtype": dtype, "ranks": ranks, "zero_stage": zero_stage}
    everyone = tuple(range(ranks))
    for outcome in attempt(
        tmp_path, inputs, **how, accident=partial(accidents.signal_at, step=4, ranks=everyone)
    ):
        assert (outcome.exit_code, outcome.error, outcome.message) == (1, "Stopped", "stopped at step 4 of 8")
    assert not paths_of(tmp_path).done.exists()
    assert not paths_of(tmp_path).model.exists()
    assert json.loads(paths_of(tmp_path).progress.read_text())["done"] == 4
    assert checkpoints(tmp_path) == ["step-00000004"]
    first, *_ = finish(tmp_path, inputs, **how)
    assert resumed_from(first.log) == 4
    assert_same_run(tmp_path, undisturbed(**how))


@pytest.mark.parametrize(
    ("at", "newest"),
    [
        ("half a file", 3),
        ("before the checksums", 3),
        ("before the marker", 3),
        ("before the name", 3),
        ("before the old ones go", 4),
    ],
)
def test_a_run_killed_in_a_save_goes_on_from_the_newest_complete_checkpoint(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed, at: str, newest: int
) -> None:
    accident = partial(accidents.kill_in_save, at=at, save=4)
    (outcome,) = attempt(tmp_path, inputs, every_min=EVERY_STEP, accident=accident)
    assert outcome.exit_code == KILLED
    (outcome,) = finish(tmp_path, inputs, every_min=EVERY_STEP)
    assert resumed_from(outcome.log) == newest
    assert "torn" not in outcome.log  # an unfinished save is not a checkpoint
    assert checkpoints(tmp_path) == LAST_TWO
    assert_same_run(tmp_path, undisturbed())


def test_the_other_ranks_of_one_that_is_killed_in_a_save_end_and_the_run_goes_on(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed
) -> None:
    how = {"ranks": 2, "zero_stage": 2, "every_min": EVERY_STEP}
    accident = partial(accidents.kill_in_save, at="before the checksums", save=4, ranks=(1,))
    survivor, killed = attempt(tmp_path, inputs, **how, accident=accident)
    assert (survivor.exit_code, killed.exit_code) == (1, KILLED)
    first, _ = finish(tmp_path, inputs, **how)
    assert resumed_from(first.log) == 3
    assert_same_run(tmp_path, undisturbed(ranks=2, zero_stage=2))


def test_steps_behind_the_checkpoint_are_logged_once(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed
) -> None:
    attempt(tmp_path, inputs, accident=partial(accidents.signal_at, step=3))
    (outcome,) = attempt(tmp_path, inputs, accident=partial(accidents.kill_at, step=3))
    assert outcome.exit_code == KILLED
    assert [row[0] for row in logged(tmp_path)] == ["1", "2", "3", "4", "5", "6"]
    with paths_of(tmp_path).metrics.open("a") as stream:
        stream.write('{"step": 7, "lo')  # a line that the kill tore
    (outcome,) = finish(tmp_path, inputs)
    assert resumed_from(outcome.log) == 3
    assert_same_run(tmp_path, undisturbed())


def test_a_run_killed_in_the_export_exports_again(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed
) -> None:
    (outcome,) = attempt(tmp_path, inputs, every_min=EVERY_STEP, accident=accidents.kill_in_export)
    assert outcome.exit_code == KILLED
    assert not paths_of(tmp_path).model.exists()
    (outcome,) = finish(tmp_path, inputs)
    assert resumed_from(outcome.log) == STEPS - 1
    assert_same_run(tmp_path, undisturbed())


def test_a_run_that_lies_complete_is_exported_with_its_own_loss(tmp_path: Path, inputs: Path) -> None:
    attempt(tmp_path, inputs, accident=partial(accidents.signal_at, step=5))
    before = logged(tmp_path)
    (outcome,) = finish(tmp_path, inputs, steps=5)  # the checkpoint is the last step's
    assert resumed_from(outcome.log) == 5
    assert logged(tmp_path) == before
    loss = json.loads(paths_of(tmp_path).done.read_text(), parse_float=str)["loss"]
    assert loss == before[-1][1]
    assert load_file(paths_of(tmp_path).model / "model.safetensors")


def test_without_resume_an_attempt_begins_again(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed
) -> None:
    (outcome,) = attempt(tmp_path, inputs, resume=False, accident=partial(accidents.signal_at, step=4))
    assert outcome.error == "Stopped"
    assert checkpoints(tmp_path) == []
    (outcome,) = finish(tmp_path, inputs, resume=False, every_min=EVERY_STEP)
    assert resumed_from(outcome.log) is None
    assert checkpoints(tmp_path) == []
    assert_same_run(tmp_path, undisturbed())


def test_checkpoints_that_are_models_alone(tmp_path: Path, inputs: Path, undisturbed: Undisturbed) -> None:
    finish(tmp_path, inputs, resume=False, save_only_model=True, every_min=EVERY_STEP)
    assert checkpoints(tmp_path) == LAST_TWO
    assert_same_run(tmp_path, undisturbed())
    models = [paths_of(tmp_path).checkpoints / name for name in LAST_TWO] + [paths_of(tmp_path).model]
    heads = [AutoModelForCausalLM.from_pretrained(folder).get_output_embeddings().weight for folder in models]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(heads))


# -- torn checkpoints -------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


WEIGHTS = "deepspeed/mp_rank_00_model_states.pt"
OPTIMIZER = "deepspeed/zero_pp_rank_0_mp_rank_00_optim_states.pt"
OTHER_OPTIMIZER = "deepspeed/zero_pp_rank_1_mp_rank_00_optim_states.pt"
DAMAGES: dict[int, tuple[Callable[[Path], None], str, str]] = {
    7: (truncate, WEIGHTS, "bytes, not"),
    6: (flip, OPTIMIZER, "is not as it was written"),
    5: (Path.unlink, OPTIMIZER, "is missing"),
    4: (Path.unlink, "COMPLETE", "is missing"),
    3: (truncate, "COMPLETE", "is not JSON"),
    2: (flip, "random-0000.pt", "is not as it was written"),
}


@pytest.mark.parametrize("ranks", [1, 2])
def test_torn_checkpoints_are_passed_over_with_a_warning(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed, ranks: int
) -> None:
    """Each in a different way; with two ranks, one of them sees the damage and the other does not."""
    how = {"ranks": ranks, "zero_stage": ranks, "every_min": EVERY_STEP, "keep": STEPS}
    finish(tmp_path, inputs, **how)
    paths_of(tmp_path).done.unlink()
    all_of_them = [f"step-{step:08d}" for step in range(1, STEPS)]
    assert checkpoints(tmp_path) == all_of_them
    damages = dict(DAMAGES)
    if ranks == 2:
        damages[5] = flip, OTHER_OPTIMIZER, "is not as it was written"
    for step, (damage, name, _) in damages.items():
        damage(paths_of(tmp_path).checkpoints / f"step-{step:08d}" / name)
    first, *others = finish(tmp_path, inputs, **how)
    warnings = [line for line in first.log.splitlines() if "torn" in line]
    for warning, (step, (_, name, why)) in zip(warnings, damages.items(), strict=True):
        assert warning.startswith("WARNING")
        assert f"step-{step:08d} is torn and skipped: {name} " in warning
        assert why in warning
    assert all("torn" not in other.log for other in others)
    assert resumed_from(first.log) == 1
    assert (
        checkpoints(tmp_path) == all_of_them
    )  # those passed over have been saved again, nothing else is left
    assert_same_run(tmp_path, undisturbed(ranks=ranks, zero_stage=ranks))


def test_any_flipped_byte_of_the_marker_is_found(tmp_path: Path) -> None:
    """It says what to compare with: were it believed when it is torn, a sound checkpoint would be doubted."""
    marker = {"step": 12, "world_size": 2, "zero_stage": 3, "state": {"loss": 1.25}, "files": {}}
    path = tmp_path / "COMPLETE"
    write_json(path, {**marker, "digest": digest(marker)})
    assert _read_marker(tmp_path, 12) == (marker, None)
    assert _read_marker(tmp_path, 13)[1] == "COMPLETE is not as it was written"
    whole = path.read_bytes()
    for position, byte in enumerate(whole):
        if not chr(byte).isspace():  # which means nothing in JSON
            path.write_bytes(whole[:position] + bytes([byte ^ 1]) + whole[position + 1 :])
            assert _read_marker(tmp_path, 12)[1] is not None, position


def test_a_torn_checkpoint_is_not_one_of_those_to_keep(tmp_path: Path, inputs: Path) -> None:
    for _ in range(2):
        attempt(tmp_path, inputs, accident=partial(accidents.signal_at, step=2))
    flip(paths_of(tmp_path).checkpoints / "step-00000004" / WEIGHTS)
    (outcome,) = attempt(tmp_path, inputs, accident=partial(accidents.signal_at, step=4))
    assert resumed_from(outcome.log) == 2
    assert checkpoints(tmp_path) == ["step-00000002", "step-00000006"]


def test_with_all_checkpoints_torn_the_run_begins_again(
    tmp_path: Path, inputs: Path, undisturbed: Undisturbed
) -> None:
    attempt(tmp_path, inputs, accident=partial(accidents.signal_at, step=4))
    empty(paths_of(tmp_path).checkpoints / "step-00000004" / WEIGHTS)
    (outcome,) = finish(tmp_path, inputs)
    assert outcome.log.count("is torn and skipped") == 1
    assert resumed_from(outcome.log) is None
    assert_same_run(tmp_path, undisturbed())


def test_a_checkpoint_across_stage_3_is_refused_and_kept(tmp_path: Path, inputs: Path) -> None:
    attempt(tmp_path, inputs, accident=partial(accidents.signal_at, step=4))
    for outcome in attempt(tmp_path, inputs, zero_stage=3):
        assert outcome.error == "JobError"
        assert "step-00000004 was saved at ZeRO stage 1, and this job runs at 3" in outcome.message
    assert checkpoints(tmp_path) == ["step-00000004"]
    assert len(logged(tmp_path)) == 4
