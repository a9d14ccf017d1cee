"""The whole training run on real DeepSpeed: ranks, ZeRO stages and accumulation must not change it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from modeling.checks import check_head
from modeling.head import head_of
from study.errors import JobError
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters, Scratch, Source, TrainSpec
from study.paths import JobPaths
from training.train import train

HYPER = Hyperparameters(
    learning_rate=1e-3,
    label_smoothing=0.1,
    seed=0,
    num_examples=64,
    num_steps=3,
    global_batch_size=16,
    template="plain",
    dtype="fp32",
    max_grad_norm=0.5,
)
SPEC = TrainSpec(
    Source("scratch", "word-level", "0" * 12),
    Source("embedded", "cldr-pretrain", "0" * 12),
    HYPER,
    Scratch(hidden_size=32, intermediate_size=64, num_heads=2),
)
JOB = Job("prepare", SPEC, needs=(), cell={"model": "tiny"})


def run(folder: Path, ranks: int = 1, micro: int = 16, zero_stage: int = 1, **more: Any) -> JobPaths:
    """Train in separate processes, as a sweep does; gives up after five minutes."""
    from submitit import LocalExecutor

    executor = LocalExecutor(folder / "submitit")
    executor.update_parameters(tasks_per_node=ranks, timeout_min=5)
    paths = JobPaths(folder / "job")
    resources = Resources(tasks_per_node=ranks, micro_batch_size=micro, zero_stage=zero_stage, **more)
    executor.submit(
        train,
        JOB,
        paths,
        model_path="",
        tokens=folder / "tokens",
        resources=resources,
        tracking=TrackingConfig(mode="disabled"),
    ).results()
    return paths


def metrics(paths: JobPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> JobPaths:
    return run(tmp_path_factory.mktemp("baseline"))


@pytest.mark.parametrize(
    "how",
    [
        {"micro": 2, "zero_stage": 2, "activation_checkpointing": True},
        {"micro": 3, "packing": True, "offload_optimizer": True, "zero_stage": 2},
        {"ranks": 2, "zero_stage": 2},
        {"ranks": 2, "micro": 2, "zero_stage": 3},
    ],
    ids=["1x8", "packed and offloaded", "2 ranks", "2 ranks ZeRO-3"],
)
def test_the_run_does_not_depend_on_how_it_is_spread(
    baseline: JobPaths, tmp_path: Path, how: dict[str, Any]
) -> None:
    other = run(tmp_path, **how)
    for want, actual in zip(metrics(baseline), metrics(other), strict=True):
        # the norm is taken before clipping and before Adam, which would both hide a wrong scale
        assert actual["grad_norm"] == pytest.approx(want["grad_norm"], rel=2e-5)
        assert actual["loss"] == pytest.approx(want["loss"], rel=2e-5)
        assert actual["nll"] == pytest.approx(want["nll"], rel=2e-5)
        assert actual["learning_rate"] == want["learning_rate"]
    want, actual = (load_file(paths.model / "model.safetensors") for paths in (baseline, other))
    assert want.keys() == actual.keys()
    for name, tensor in want.items():
        # Adam divides by tiny second moments: rounding may move a weight by a share of the learning rate
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=HYPER.learning_rate * 0.05)


def test_first_step_equals_plain_torch(baseline: JobPaths, tmp_path: Path) -> None:
    from study.cldr.instructions import DEMO_SHARES
    from training import scratch
    from training.data import batches
    from training.data import token_files as data
    from training.data.wordlevel import cldr_tokenizer

    tokenizer = cldr_tokenizer(DEMO_SHARES)
    assert SPEC.scratch is not None
    lm = scratch.build_from(scratch.config_for(SPEC.scratch, tokenizer), seed=0, attention="sdpa").double()
    dataset = data.token_dataset(SPEC, tokenizer, tmp_path)
    losses, nlls = [], []
    for example in next(iter(batches.global_batches(len(dataset), HYPER, 1))):
        ids = torch.tensor(dataset.tokens[dataset.offsets[example] : dataset.offsets[example + 1]]).long()
        target = torch.tensor(dataset.is_target[dataset.offsets[example] : dataset.offsets[example + 1]])
        logits = lm(input_ids=ids[None]).logits[0, :-1]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits[target[1:]], ids[1:][target[1:]], label_smoothing=0.1, reduction="none"
            )
        )
        nlls.append(-logits.log_softmax(-1)[target[1:]].gather(1, ids[1:][target[1:]][:, None]))
    loss = torch.cat(losses).mean()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in lm.parameters() if p.grad is not None]).norm()
    first = metrics(baseline)[0]
    assert first["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert first["nll"] == pytest.approx(torch.cat(nlls).mean().item(), rel=1e-5)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_what_a_run_tells_of_its_speed(baseline: JobPaths) -> None:
    first, *_, last = metrics(baseline)
    for line in (first, last):
        assert 0 < line["target_tokens_per_s"] < line["tokens_per_s"]
        assert 0 <= line["padding"] < 0.5
        assert 0.1 < line["peak_memory_gib"] < 10
        assert "mfu" not in line  # of a processor nobody knows the peak
    weights = sum(tensor.numel() for tensor in load_file(baseline.model / "model.safetensors").values())
    assert last["tflops_per_s_and_rank"] == pytest.approx(6 * weights * last["tokens_per_s"] / 1e12)


def test_the_certificate_of_a_run(baseline: JobPaths) -> None:
    checks = json.loads(baseline.certificate.read_text())["checks"]
    assert [check["name"] for check in checks] == ["smoothing", "masks", "accumulation"]
    assert all(check["passed"] for check in checks)
    worst = max(check["gradient_difference"] for check in checks)
    assert json.loads(baseline.done.read_text())["certificate"] == worst < 1e-5


def test_export_is_an_ordinary_folder(baseline: JobPaths) -> None:
    lm = AutoModelForCausalLM.from_pretrained(baseline.model)
    tokenizer = AutoTokenizer.from_pretrained(baseline.model)
    stored = load_file(baseline.model / "model.safetensors")
    for name, tensor in lm.state_dict().items():
        if name in stored:
            assert torch.equal(tensor, stored[name])
    assert len(tokenizer) == lm.config.vocab_size
    card = (baseline.model / "README.md").read_text()
    assert JOB.job_id in card
    assert '"label_smoothing": 0.1' in card
    assert json.loads(baseline.done.read_text())["steps"] == 3
    progress = json.loads(baseline.progress.read_text())
    assert progress.pop("steps_per_s") > 0
    assert progress == {"done": 3, "total": 3, "unit": "steps"}


def test_learning_rate_warms_up_and_decays() -> None:
    from training.engine.zero import lr_factor

    factors = [lr_factor(step, warmup=2, steps=6) for step in range(7)]
    assert factors == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_model_that_changes_its_logits_is_refused() -> None:
    shape: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    gemma = Gemma2ForCausalLM(Gemma2Config(**shape, head_dim=8, final_logit_softcapping=0.5))
    check_head(gemma, head_of(gemma))  # a soft-cap is known
    granite = GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=8.0))
    with pytest.raises(JobError, match="GraniteForCausalLM changes its logits after the head"):
        check_head(granite, head_of(granite))
