"""Speed, memory and floating-point operations of a training job."""

from __future__ import annotations

import json
import resource as unix_resource
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel

from study import journal
from study.files import write_atomic
from training.engine.zero import World
from training.step import StepSums

PEAK_BF16_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "MI250": 191e12}
"""For dense matrix products, from the makers' data sheets; half an MI250, which torch sees as two devices."""


def flops_per_token(lm: PreTrainedModel) -> int:
    """Floating-point operations of training on one token: 6 for each weight that multiplies it.

    The usual count (Kaplan et al. 2020): 2 forward, 4 backward, without attention's quadratic part and
    activation checkpointing. The input embedding is a look-up and does not count, unless it is also the head.
    """
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    weights = sum(parameter.numel() for parameter in lm.parameters())  # a tied weight is counted once
    looked_up = 0 if head.weight is embedding.weight else sum(p.numel() for p in embedding.parameters())
    return 6 * (weights - looked_up)


class Meter:
    """Counts the tokens that this attempt has processed on all ranks, and the time they took.

    per_token: from `flops_per_token`.
    """

    def __init__(self, world: World, per_token: int, dtype: str) -> None:
        self._world, self._per_token, self._dtype = world, per_token, dtype
        self._begin = time.monotonic()
        self._tokens = self._target_tokens = self._padded_tokens = 0

    def count(self, step: StepSums) -> None:
        self._tokens += step.tokens
        self._target_tokens += step.target_tokens
        # the other ranks have about as much padding: examples of similar length run at the same time
        self._padded_tokens += step.padded_tokens * self._world.size

    def scalars(self) -> dict[str, float]:
        """Means since the start of the attempt; `mfu`, a share of the peak, for known devices in bf16."""
        seconds = time.monotonic() - self._begin
        flops = self._per_token * self._tokens / seconds / self._world.size
        result = {
            "tokens_per_s": self._tokens / seconds,
            "target_tokens_per_s": self._target_tokens / seconds,
            "padding": 1 - self._tokens / self._padded_tokens,
            "tflops_per_s_and_rank": flops / 1e12,
            "peak_memory_gib": _peak_memory_gib(self._world.device),
        }
        peak = _peak_flops(self._world.device) if self._dtype == "bf16" else None
        return result if peak is None else {**result, "mfu": flops / peak}


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for known, flops in PEAK_BF16_FLOPS.items() if known in name), None)


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this rank: on its GPU, or of its process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return unix_resource.getrusage(unix_resource.RUSAGE_SELF).ru_maxrss / 2**20


def cut_metrics(path: Path, done: int) -> None:
    """Drop the lines after step `done`: an earlier attempt logged them and did not save that far."""
    if path.exists():
        kept = [line for line in journal.read(path) if line["step"] <= done]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
