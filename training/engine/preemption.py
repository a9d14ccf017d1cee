"""Ranks agree when to save and when to stop: all of them must take part in a ZeRO checkpoint."""

from __future__ import annotations

import torch
import torch.distributed as dist

from study import stopping
from training.engine.zero import World


def agreed(world: World, *, due: bool) -> tuple[bool, bool]:
    """(stop, due) after a step: each True on every rank if it is True on any.

    A signal reaches ranks at different moments, or only one of them, and clocks differ: a rank that decided
    alone would wait in the save for others that are in the next step. Every rank must call this after every
    step.
    """
    flags = torch.tensor([stopping.requested(), due], dtype=torch.int32, device=world.device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    stop, save = flags.tolist()
    return bool(stop), bool(save)
