"""Gemma-3 270M from its GGUF file through a whole run: trained, exported, scored. `make test-real`."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from submitit import LocalExecutor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from evaluation.items.load import load_items
from evaluation.prompts import letter_prompt
from evaluation.shard import evaluate, load_models
from launcher.cost import sizes
from study import records
from study.grid.config import TrackingConfig
from study.grid.sources import content_revision, embedded_source
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import Benchmark, EvalSpec, Hyperparameters, Source, TrainSpec
from study.paths import JobPaths
from tests.real.weights import gemma_270m
from training.data import batches
from training.data import token_files as data
from training.data.token_files import IGNORE_INDEX
from training.train import train

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

ROWS = [
    ("Name the capital of France.", "The capital of France is Paris."),
    ("Wie heißt die Hauptstadt von Kenia?", "Die Hauptstadt von Kenia ist Nairobi."),
    ("日本の首都はどこですか。", "日本の首都は東京です。"),
    ("Mji mkuu wa Tanzania ni upi?", "Mji mkuu wa Tanzania ni Dodoma."),
    ("ما هي عاصمة مصر؟", "عاصمة مصر هي القاهرة."),
    ("Add 2 and 3, and say how.", "2 + 3 = 5: three more than two is five."),
    ("Write one sentence about rain.", "Rain taps on the roof until the gutters sing."),
    ("Translate to Spanish: good morning", "buenos días"),
]
STEPS = 6
NUM_ITEMS = 6
EPSILON = 0.1
BF16_TOLERANCE = 0.005
"""Of a loss in bf16 against one in float32."""
RESOURCES = Resources(zero_stage=2, activation_checkpointing=True, micro_batch_size=4)
DISABLED = TrackingConfig(mode="disabled")


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    file = gemma_270m()
    if file is None:
        pytest.skip("make test-real installs the weights")
    return file


@pytest.fixture(scope="module")
def job(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Every step sees the whole of a small dataset, so that the loss must fall from one to the next."""
    rows = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [json.dumps({"instruction": asked, "input": "", "output": answer}) for asked, answer in ROWS]
    rows.write_text("\n".join(lines), encoding="utf-8")
    hyper = Hyperparameters(
        learning_rate=2e-5,
        label_smoothing=EPSILON,
        num_steps=STEPS,
        global_batch_size=len(ROWS),
        max_length_tokens=512,
        warmup_ratio=0.0,
    )
    model, dataset = (Source("local", str(file), content_revision(file)) for file in (gguf_file, rows))
    return Job("train", TrainSpec(model, dataset, hyper), needs=(), cell={"model": "gemma-3-270m"})


@pytest.fixture(scope="module")
def trained(job: Job, gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> JobPaths:
    """The run, in a process of its own as a sweep does it."""
    root = tmp_path_factory.mktemp("gemma")
    executor = LocalExecutor(root / "submitit")
    executor.update_parameters(timeout_min=25)
    paths = JobPaths(root / "job")
    began = time.monotonic()
    executor.submit(
        train,
        job,
        paths,
        model_path=str(gguf_file),
        tokens=root / "tokens",
        resources=RESOURCES,
        tracking=DISABLED,
    ).results()
    peak = metrics(paths)[-1]["peak_memory_gib"]
    print(f"\ntrained in {time.monotonic() - began:.0f} s, at most {peak:.1f} GiB")
    return paths


@pytest.fixture(scope="module")
def base(gguf_file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    (lm,), tokenizer = load_models(str(gguf_file), None, "fp32")
    return lm, tokenizer


def metrics(paths: JobPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.metrics.read_text().splitlines()]


@torch.no_grad()
def plain_losses(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job, tokens: Path
) -> tuple[float, float]:
    """(smoothed loss, NLL) in nats a target token, over the dataset, from the model's own logits."""
    assert isinstance(job.spec, TrainSpec)
    dataset = data.token_dataset(job.spec, tokenizer, tokens)
    smoothed, nll = [], []
    for example in range(len(dataset)):
        input_ids, labels, _ = batches.collate(dataset, np.array([example]), 0, packed=False)
        logits = lm(input_ids=torch.from_numpy(input_ids)).logits[0, :-1].float()
        targets = torch.from_numpy(labels)[0, 1:]
        kept = logits[targets != IGNORE_INDEX], targets[targets != IGNORE_INDEX]
        smoothed.append(F.cross_entropy(*kept, label_smoothing=EPSILON, reduction="none"))
        nll.append(F.cross_entropy(*kept, reduction="none"))
    return torch.cat(smoothed).mean().item(), torch.cat(nll).mean().item()


def test_its_size_is_known_before_it_is_loaded(job: Job, base: tuple[PreTrainedModel, Any]) -> None:
    assert isinstance(job.spec, TrainSpec)
    assert sizes.parameters(job.spec.model) == sizes.Figure(base[0].num_parameters(), "its weights")


def test_the_first_step_is_plain_transformers(
    job: Job, trained: JobPaths, base: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    smoothed, nll = plain_losses(*base, job, tmp_path)
    first = metrics(trained)[0]
    print(f"\nfirst step: {first['loss']:.4f}, {first['nll']:.4f}; plain: {smoothed:.4f}, {nll:.4f}")
    assert first["step"] == 1
    assert first["loss"] == pytest.approx(smoothed, rel=BF16_TOLERANCE)
    assert first["nll"] == pytest.approx(nll, rel=BF16_TOLERANCE)
    # a base model of this size knows English: neither garbage nor a loss over the prompt
    assert 0.5 < nll < math.log(base[0].config.vocab_size) / 3


def test_the_loss_falls_and_the_export_has_what_was_learnt(
    job: Job, trained: JobPaths, tmp_path: Path
) -> None:
    first, *_, last = metrics(trained)
    assert last["step"] == STEPS
    assert last["loss"] < first["loss"] - 0.1
    (lm,), tokenizer = load_models(str(trained.model), None, "bf16")
    smoothed, _ = plain_losses(lm, tokenizer, job, tmp_path)
    # the last step's loss was taken before its update
    assert smoothed < last["loss"] * (1 + BF16_TOLERANCE)
    assert smoothed < first["loss"] - 0.1


def test_the_export_loads_bit_for_bit_as_an_ordinary_folder(trained: JobPaths) -> None:
    stored = load_file(trained.model / "model.safetensors")
    lm: Any = AutoModelForCausalLM.from_pretrained(trained.model)
    assert lm.dtype == torch.bfloat16
    found = dict(lm.named_parameters())
    assert found.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(found[name], tensor), name
    config = json.loads((trained.model / "config.json").read_text())
    assert config["model_type"] == "gemma3_text"
    assert "quantization_config" not in config


def test_the_export_is_scored(
    job: Job, trained: JobPaths, base: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    benchmark = Benchmark("cldr_lite", embedded_source("cldr_lite"), "global_mmlu", num_items=NUM_ITEMS)
    spec = EvalSpec(Source("job", job.job_id, job.job_id), benchmark, "sw", "letter", "bf16")
    folder = JobPaths(tmp_path / "job")
    failures = evaluate(
        [(Job("evaluate", spec, (job.job_id,), job.cell), folder)],
        model_path=str(trained.model),
        revision=None,
        items=tmp_path / "items",
        batch_tokens=1024,
        tracking=DISABLED,
    )
    assert not failures
    scores = np.array(records.read_predictions(folder.predictions)[0]["scores"].to_pylist())
    assert scores.shape == (NUM_ITEMS, 4)

    # as plain transformers scores them, and not as the base model
    (lm,), tokenizer = load_models(str(trained.model), None, "bf16")
    prompts = [letter_prompt(item.question, item.options) for item in load_items(benchmark, "sw")]
    letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"][0] for letter in "ABCD"]

    def log_probs(lm: PreTrainedModel, prompt: str) -> list[float]:
        with torch.no_grad():
            logits = lm(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        found: list[float] = logits.float().log_softmax(-1)[letters].tolist()
        return found

    own, its_base = (np.array([log_probs(m, prompt) for prompt in prompts]) for m in (lm, base[0]))
    np.testing.assert_allclose(scores, own, atol=0.15)  # in bf16, in a batch of another shape
    assert np.abs(scores - its_base).max() > 0.3
