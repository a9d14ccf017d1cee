"""One gradient, however it is computed; and a certificate that fails where it is another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig

from launcher.cli import main
from study.errors import JobError
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters
from training import certificate, model
from training.certificate import Check
from training.data import batches
from training.engine import zero
from training.loss import Losses

STAGES = (1, 2, 3)


def config(kind: str = "llama") -> PreTrainedConfig:
    return AutoConfig.for_model(kind, vocab_size=1000, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def hyper(dtype: str = "fp32") -> Hyperparameters:
    return Hyperparameters(dtype=dtype, label_smoothing=0.2, logit_temperature=0.5)


def on_ranks(ranks: int, function: Callable[..., Any], folder: Path) -> Any:
    """What rank 0 returns, in separate processes."""
    from submitit import LocalExecutor

    executor = LocalExecutor(folder)
    executor.update_parameters(tasks_per_node=ranks, timeout_min=5)
    return executor.submit(function).results()[0]


# one gradient ---------------------------------------------------------------------------------------------


def all_stages() -> dict[str, list[Check]]:
    world = zero.join()
    try:
        return {
            f"{dtype}, stage {stage}": certificate.certify(
                config(), hyper(dtype), Resources(zero_stage=stage, packing=True), world
            )
            for dtype in ("fp32", "bf16")
            for stage in STAGES
        }
    finally:
        zero.leave()


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_gradient_is_the_same_at_all_stages_ranks_and_accumulations(tmp_path: Path, ranks: int) -> None:
    """Against float64, on gradients: Adam would hide a wrong scale. fp32 within 1e-5, bf16 within 0.02."""
    actual = on_ranks(ranks, all_stages, tmp_path)
    assert len(actual) == 2 * len(STAGES)
    for how, checks in actual.items():
        assert [check.name for check in checks] == ["smoothing", "masks", "accumulation", "packing"]
        for check in checks:
            assert check.num_ranks == ranks
            assert check.passed
            bound = 1e-5 if how.startswith("fp32") else 0.02
            assert check.gradient_difference < bound, (how, check)
            assert check.loss_difference < bound / 10, (how, check)


# another one ----------------------------------------------------------------------------------------------


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def without(option: str, value: Any) -> Callable[[Any], Any]:
    """The loss without an option."""
    return lambda losses: lambda *args, **options: losses(*args, **{**options, option: value})


def per_micro_batch(losses: Any) -> Any:
    """The mean over a micro-batch instead of the sum: right with one micro-batch only."""

    def wrapped(*args: Any, **options: Any) -> Losses:
        actual = losses(*args, **options)
        return Losses(actual.loss_sum / actual.num_tokens * 60, actual.nll_sum, actual.num_tokens)

    return wrapped


def seeing_prompts(collate: Any) -> Any:
    """The loss on prompts, too."""

    def wrapped(*args: Any, **options: Any) -> batches.MicroBatch:
        actual: batches.MicroBatch = collate(*args, **options)
        return actual._replace(labels=actual.input_ids.copy())

    return wrapped


def seeing_each_other(collate: Any) -> Any:
    """Packed examples that are not separated."""

    def wrapped(*args: Any, packed: bool, **options: Any) -> batches.MicroBatch:
        actual: batches.MicroBatch = collate(*args, packed=packed, **options)
        return actual._replace(position_ids=None) if packed else actual

    return wrapped


MISTAKES: dict[str, tuple[Any, str, Callable[[Any], Any], set[str]]] = {
    "no smoothing": (model, "linear_losses", without("label_smoothing", 0.0), {"smoothing", "masks"}),
    "no temperature": (model, "linear_losses", without("temperature", 1.0), {"smoothing", "masks"}),
    "a cap": (model, "linear_losses", without("softcap", 1.0), {"smoothing", "masks"}),
    "a mean of means": (model, "linear_losses", per_micro_batch, {"accumulation"}),
    "prompts": (batches, "collate", seeing_prompts, {"masks", "accumulation", "packing"}),
    "no isolation": (batches, "collate", seeing_each_other, {"packing"}),
    "a rank too many": (
        zero,
        "backward",
        lambda backward: lambda engine, loss, *, last: backward(engine, loss * 2, last=last),
        {"smoothing", "masks", "accumulation", "packing"},
    ),
}


def mistaken() -> dict[str, set[str]]:
    """For each mistake, the checks that fail."""
    world = zero.join()
    actual = {}
    try:
        for name, (owner, function, wrap, _) in MISTAKES.items():
            with replaced(owner, function, wrap):
                checks = certificate.certify(config(), hyper(), Resources(packing=True), world)
            actual[name] = {check.name for check in checks if not check.passed}
    finally:
        zero.leave()
    return actual


def test_each_mistake_fails_the_checks_that_are_there_for_it(tmp_path: Path) -> None:
    actual = on_ranks(1, mistaken, tmp_path)
    for name, (*_, failing) in MISTAKES.items():
        assert actual[name] >= failing, (name, actual[name])
    assert actual["no isolation"] == {"packing"}
    assert "smoothing" not in actual["prompts"]


# architectures ---------------------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, int]] = {"mixtral": {}, "opt": {"word_embed_proj_dim": 64}}


def rough() -> dict[str, list[list[Check]]]:
    """In bf16: as it is; with a loss that knows of no smoothing; and compared with float64 alone."""
    world = zero.join()
    options, actual = Hyperparameters(dtype="bf16", label_smoothing=0.1), {}

    def checks(kind: str) -> list[Check]:
        own = AutoConfig.for_model(kind, **SHAPES[kind], vocab_size=1000, pad_token_id=0)
        return certificate.certify(own, options, Resources(), world)

    try:
        for kind in SHAPES:
            actual[kind] = [checks(kind)]
            with replaced(model, "linear_losses", without("label_smoothing", 0.0)):
                actual[kind].append(checks(kind))
            with replaced(certificate, "TIMES_PLAIN_TORCH", lambda _: 0):
                actual[kind].append(checks(kind))
    finally:
        zero.leave()
    return actual


def test_what_rounds_more_passes_and_another_loss_still_fails(tmp_path: Path) -> None:
    """Smoothing by .1 is a tenth of the gradient: less than twice what rounding does to OPT's worst."""
    for kind, (well, mistaken, alone) in on_ranks(1, rough, tmp_path).items():
        assert all(check.passed for check in well), (kind, well)
        assert not any(check.passed for check in mistaken), (kind, mistaken)
        # which experts are chosen is not left to rounding: of these nothing is off by more
        assert {check.passed for check in alone} == {kind != "opt"}, (kind, alone)


def test_each_parameter_has_its_own_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst is the furthest beyond its tolerance, not the furthest off; nan is beyond all."""
    off = {"head": 0.06, "norm": 0.09}
    gradients = {name: torch.ones(4, dtype=torch.float64) for name in off}
    reference = certificate._Reference(1.0, gradients, {"head": 0.001, "norm": 0.07})
    monkeypatch.setattr("deepspeed.utils.safe_get_full_grad", lambda p: p.detach())
    engine = torch.nn.Module()
    engine.module = torch.nn.Module()
    engine.module.lm = torch.nn.ParameterDict({name: torch.ones(4) * (1 + off[name]) for name in off})
    error, tolerance = certificate._worst(engine, reference, 0.05)
    assert (round(error, 6), tolerance) == (0.06, 0.05)
    engine.module.lm["head"] = torch.ones(4)
    error, tolerance = certificate._worst(engine, reference, 0.05)
    assert (round(error, 6), tolerance) == (0.09, 0.14)
    engine.module.lm["head"] = torch.full((4,), float("nan"))
    assert not Check("masks", 1, 0.0, *certificate._worst(engine, reference, 0.05)).passed


def test_an_architecture_that_no_miniature_can_be_made_of_is_named() -> None:
    """A state-space model has no attention heads, and layers of another kind."""
    alone = zero.World(0, 1, torch.device("cpu"))
    with pytest.raises(
        JobError, match=r"^a model of type mamba is not handled: .* AttributeError: "
    ) as caught:
        certificate.certify(AutoConfig.for_model("mamba"), hyper(), Resources(), alone)
    assert isinstance(caught.value.__cause__, AttributeError)


def test_a_failed_check_ends_the_job_with_one_sentence() -> None:
    good, bad = Check("masks", 2, 1e-7, 1e-6, 1e-4), Check("packing", 2, 1e-7, 0.3, 1e-4)
    certificate.require([good], "job")
    with pytest.raises(JobError, match=r"^job: the certificate of the loss fails, 'packing' on 2 ranks"):
        certificate.require([good, bad], "job")
    assert not Check("masks", 1, 0.0, float("nan"), 1e-4).passed


@pytest.mark.parametrize(
    "kind",
    "llama mistral gemma2 gemma3_text qwen2 phi3 olmo2 falcon mixtral qwen2_moe qwen3_moe olmoe".split(),
)
def test_a_miniature_is_small_and_of_the_same_kind(kind: str) -> None:
    own = AutoConfig.for_model(kind)
    small = certificate.miniature(own)
    assert type(small) is type(own)
    assert small.tie_word_embeddings == own.tie_word_embeddings
    assert getattr(small, "final_logit_softcapping", None) == getattr(own, "final_logit_softcapping", None)
    with torch.device("meta"):
        from training.scratch import build_from

        lm = build_from(small, seed=0, attention="eager")
    assert sum(p.numel() for p in lm.parameters()) < 6e6
    kinds = (set(getattr(shape, "layer_types", None) or []) for shape in (small, own))
    assert next(kinds) == next(kinds)


# the command ----------------------------------------------------------------------------------------------


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that cannot be loaded hides no other."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama", "hidden_size": 4')
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "study: s\nprepare: {m: {dataset: cldr-pretrain, architecture: gemma2, dtype: fp32}}\n"
        "grid: {model: [./broken, m], dataset: [cldr-instruct], label_smoothing: [0.0, 0.3]}\n"
        "train: {dtype: fp32}\n"
    )
    assert main(["doctor", "loss", str(grid), "--json"]) == 1
    actual = {result["model"]: result for result in json.loads(capsys.readouterr().out)}
    broken, result = actual.pop("./broken"), actual.pop("m")
    assert actual == {}  # prepared or fine-tuned, it is the same model
    assert (broken["passed"], broken["checks"]) == (False, [])
    assert broken["cannot_be_checked"].startswith(f"cannot load the model {tmp_path / 'broken'}: ")
    assert (result["model"], result["dtype"], result["passed"]) == ("m", "fp32", True)
    assert result["label_smoothing"] == 0.3
    assert {check["num_ranks"] for check in result["checks"]} == {1, 2}
    names = {check["name"] for check in result["checks"]}
    assert names == {"smoothing", "masks", "accumulation", "packing"}


def test_weights_are_drawn_with_the_usual_range_for_every_model(tmp_path: Path) -> None:
    """Wide ones make sharp logits, on which bf16 alone is off by more than the tolerance."""
    wide = config()
    wide.initializer_range = 0.5
    assert certificate.miniature(wide).initializer_range == 0.02


def test_doctor_knows_what_it_can_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "lung", "grid.yaml"]) == 2
    assert capsys.readouterr().err == "calsweep: doctor lung grid.yaml: is unknown; write: doctor loss GRID\n"
    assert main(["doctor", "grids.yaml"]) == 2
    assert "grids.yaml: no such file" in capsys.readouterr().err
