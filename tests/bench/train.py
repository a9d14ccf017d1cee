"""`make bench`: whole optimizer steps beside Hugging Face's Trainer with its label smoother.

The model has the shape of Gemma-3 270M (vocabulary 262,144) and random weights, in bf16. Lengths are those of
instruction data: log-normal, mean 200, at most 2048 tokens. An optimizer step has 128 examples. The
contenders take turns, so that a machine that slows down slows all of them. The result is the ratio of target
tokens per CPU-second. The caption shows that the same 16 examples give the same loss.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import (
    DataCollatorForSeq2Seq,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters
from training.data.token_files import IGNORE_INDEX, TokenDataset
from training.engine import zero
from training.model import LossModel
from training.step import StepSums, accumulate

EPS = 0.1
GLOBAL_BATCH = 128
NUM_EXAMPLES = 1024
MEAN_LENGTH, MAX_LENGTH = 200, 2048
ROUNDS = 3
PEER_BATCH = 2
"""Examples per forward pass of the Trainer: the logits of 2 x 2048 tokens and their copies take 9 GB."""
RESOURCES = Resources(zero_stage=1, micro_batch_tokens=4096)
HYPER = Hyperparameters(learning_rate=1e-6, label_smoothing=EPS, dtype="bf16", global_batch_size=GLOBAL_BATCH)
CONFIG: dict[str, Any] = {
    "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256,
    "sliding_window": 512, "max_position_embeddings": 32768,
}  # fmt: skip
STRATEGIES = {"Trainer, random": "random", "Trainer, by length": "group_by_length"}
Indices = npt.NDArray[np.int64]


def examples() -> TokenDataset:
    """Random tokens; the answer, 40 to 90% of each example, has a loss."""
    random = np.random.default_rng(0)
    sigma = 0.9
    drawn = random.lognormal(np.log(MEAN_LENGTH) - sigma**2 / 2, sigma, NUM_EXAMPLES)
    lengths: Indices = np.clip(drawn.round(), 8, MAX_LENGTH).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    prompts = np.repeat((lengths * random.uniform(0.1, 0.6, NUM_EXAMPLES)).round(), lengths)
    tokens = random.integers(0, CONFIG["vocab_size"], offsets[-1], dtype=np.int32)
    return TokenDataset(tokens, position >= np.maximum(prompts, 1), offsets, NUM_EXAMPLES, 0, 0, 0)


def model() -> PreTrainedModel:
    torch.manual_seed(0)
    lm: PreTrainedModel = Gemma3ForCausalLM(Gemma3TextConfig(**CONFIG)).bfloat16()
    return lm


def rows(dataset: TokenDataset, chosen: Indices) -> list[dict[str, list[int]]]:
    """Examples as the Trainer takes them."""
    result = []
    for example in chosen:
        span = slice(dataset.offsets[example], dataset.offsets[example + 1])
        ids, target = dataset.tokens[span], dataset.is_target[span]
        labels = np.where(target, ids, IGNORE_INDEX)
        result.append(
            {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": labels.tolist()}
        )
    return result


class Pad:
    """Right padding, the only thing that the Trainer's collator needs a tokenizer for."""

    padding_side = "right"

    def pad(self, features: list[dict[str, Any]], **_: Any) -> dict[str, Tensor]:
        longest = max(len(feature["input_ids"]) for feature in features)
        return {
            name: torch.tensor([feature[name] + [0] * (longest - len(feature[name])) for feature in features])
            for name in ("input_ids", "attention_mask")
        }


class OneStep(TrainerCallback):
    """CPU-seconds of the only optimizer step, without the Trainer's set-up."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begin = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.process_time() - self.begin


class Counting(DataCollatorForSeq2Seq):
    """Counts the target tokens, tokens and padded tokens of a step."""

    targets = tokens = padded = 0

    def __call__(self, features: Any, return_tensors: Any = None) -> Any:
        longest = max(len(feature["input_ids"]) for feature in features)
        labels = [
            feature["labels"] + [IGNORE_INDEX] * (longest - len(feature["labels"])) for feature in features
        ]
        inputs = Pad().pad(features)
        self.targets += sum(label != IGNORE_INDEX for row in labels for label in row[1:])
        self.tokens += int(inputs["attention_mask"].sum())
        self.padded += inputs["input_ids"].numel()
        return {**inputs, "labels": torch.tensor(labels)}


def peer_step(
    lm: PreTrainedModel,
    data: list[dict[str, list[int]]],
    strategy: str,
    seed: int,
    folder: str,
    *,
    batch: int = PEER_BATCH,
    accumulation: int = GLOBAL_BATCH // PEER_BATCH,
) -> tuple[float, float, Counting]:
    """One optimizer step of the Trainer: (CPU-seconds, the loss it logs, the collator with its counts)."""
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        learning_rate=HYPER.learning_rate,
        label_smoothing_factor=EPS,
        train_sampling_strategy=strategy,
        optim="adamw_torch_fused",
        use_cpu=True,
        seed=seed,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataloader_num_workers=0,
    )
    timer, collator = OneStep(), Counting(tokenizer=None)  # type: ignore[arg-type]
    trainer = Trainer(
        model=lm,
        args=arguments,
        train_dataset=data,
        data_collator=collator,
        callbacks=[timer],
    )
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return timer.seconds, loss, collator


class Ours:
    """A DeepSpeed engine, and its steps."""

    def __init__(self) -> None:
        self.world = zero.join()
        self.engine = zero.engine(LossModel(model(), HYPER), HYPER, RESOURCES, steps=1000)
        self.engine.train()

    def step(self, dataset: TokenDataset, batch: Indices) -> tuple[float, StepSums]:
        begin = time.process_time()
        done = accumulate(self.engine, dataset, batch, 0, RESOURCES, self.world)
        self.engine.step()
        return time.process_time() - begin, done


def measure(name: str, number: int, folder: str) -> dict[str, float]:
    """Step `number` of a contender: target tokens per CPU-second and share of padding, or the loss."""
    dataset = examples()
    short = np.argsort(np.diff(dataset.offsets), kind="stable")[:16]
    if name == "loss of ours":
        _, done = Ours().step(dataset, short)
        return {"loss": float(done.losses[0] / done.losses[2])}
    if name == "loss of the Trainer":
        _, loss, _ = peer_step(model(), rows(dataset, short), "random", 0, folder, batch=16, accumulation=1)
        return {"loss": float(loss)}
    if name == "calsweep":
        order = np.random.default_rng(1).permutation(NUM_EXAMPLES)
        seconds, done = Ours().step(dataset, order[number * GLOBAL_BATCH : (number + 1) * GLOBAL_BATCH])
        return {"rate": done.target_tokens / seconds, "padding": 1 - done.tokens / done.padded_tokens}
    everything = rows(dataset, np.arange(NUM_EXAMPLES))
    seconds, _, given = peer_step(model(), everything, STRATEGIES[name], number, folder)
    return {"rate": given.targets / seconds, "padding": 1 - given.tokens / given.padded}


def in_a_process(name: str, number: int) -> dict[str, float]:
    """In a separate process: each contender needs most of the memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench.train", "--one", name, str(number), folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    actual: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {name}, {number + 1}: {actual}", file=sys.stderr)
    return actual


def main(rounds: int) -> None:
    losses = [in_a_process(name, 0)["loss"] for name in ("loss of ours", "loss of the Trainer")]
    actual: dict[str, list[dict[str, float]]] = {name: [] for name in ("calsweep", *STRATEGIES)}
    for number in range(rounds):
        for name, values in actual.items():
            values.append(in_a_process(name, number))
    table = Table(
        title=f"target tokens per CPU-second, 1 thread, median of {rounds} steps of {GLOBAL_BATCH} examples",
        caption=f"the same 16 examples: our loss {losses[0]:.4f}, the Trainer's {losses[1]:.4f}",
    )
    for column in ("", "target tokens/s", "ours is faster by", "padding"):
        table.add_column(column, justify="left" if column == "" else "right")
    rate, padding = (
        {name: statistics.median(value[key] for value in values) for name, values in actual.items()}
        for key in ("rate", "padding")
    )
    for name in actual:
        ratio = rate["calsweep"] / rate[name]
        table.add_row(name, f"{rate[name]:.0f}", f"{ratio:.2f}", f"{padding[name]:.0%}")
    Console(width=110).print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
