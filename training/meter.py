"""What a training run tells of itself: speed, memory, floating-point operations."""

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
from training.step import Step

PEAK_BF16_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "MI250": 191e12}
"""Of dense matrix products, from the makers' data sheets; an MI250 as the two devices that torch sees."""


def flops_per_token(lm: PreTrainedModel) -> int:
    """Floating-point operations of training on one token: 6 for each weight that multiplies it.

    The usual count (Kaplan et al. 2020): 2 forward, 4 backward, without attention's quadratic part and what
    activation checkpointing computes again. An embedding is looked up, unless it is the head too.
    """
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    weights = sum(parameter.numel() for parameter in lm.parameters())  # a tied one is there once
    looked_up = 0 if head.weight is embedding.weight else sum(p.numel() for p in embedding.parameters())
    return 6 * (weights - looked_up)


class Meter:
    """Counts what this attempt has processed on all ranks, and how long that took.

    per_token: of `flops_per_token`.
    """

    def __init__(self, world: World, per_token: int, dtype: str) -> None:
        self._world, self._per_token, self._dtype = world, per_token, dtype
        self._begin = time.monotonic()
        self._tokens = self._target_tokens = self._padded_tokens = 0

    def count(self, step: Step) -> None:
        self._tokens += step.tokens
        self._target_tokens += step.target_tokens
        # the other ranks' padding is like this one's: neighbours in length run at the same time
        self._padded_tokens += step.padded_tokens * self._world.size

    def scalars(self) -> dict[str, float]:
        """Means since the start of the attempt. `mfu` (of the devices' peak) for devices it is known of."""
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
    """Most memory this rank has held: of the device, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return unix_resource.getrusage(unix_resource.RUSAGE_SELF).ru_maxrss / 2**20


def cut_metrics(path: Path, done: int) -> None:
    """Leave the lines up to step `done`: those behind it are of an attempt that got further than it saved."""
    if path.exists():
        kept = [line for line in journal.read(path) if line["step"] <= done]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
