"""The gradient of one global batch, over all ranks and micro-batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from study.jobs.resources import Resources
from training.data import batches
from training.data.token_files import TokenDataset
from training.engine import zero
from training.engine.zero import World


class StepSums(NamedTuple):
    """What one rank computed in one optimizer step.

    losses: (3,) float64, over this rank's target tokens: smoothed loss in nats, plain NLL in nats, their
        number.
    tokens, target_tokens: of the global batch, over all ranks. padded_tokens: this rank's, with padding.
    """

    losses: Tensor
    tokens: int
    target_tokens: int
    padded_tokens: int


def accumulate(
    engine: Any,
    dataset: TokenDataset,
    batch: npt.NDArray[np.int64],
    pad_token_id: int,
    resources: Resources,
    world: World,
) -> StepSums:
    """Leave the gradient of a global batch's mean loss in the engine, for `engine.step()`.

    The mean is over the target tokens of the global batch: how its examples are spread over micro-batches and
    ranks changes rounding only. Every rank must call this.
    """
    target_tokens = batches.num_target_tokens(dataset, batch)
    sums = torch.zeros(3, dtype=torch.float64, device=world.device)
    micro_steps = batches.micro_batches(dataset, batch, resources, world.size)
    padded_tokens = 0
    for number, by_rank in enumerate(micro_steps, start=1):
        arrays = batches.collate(dataset, by_rank[world.rank], pad_token_id, packed=resources.packing)
        input_ids, labels, position_ids = (
            None if array is None else torch.from_numpy(array).to(world.device) for array in arrays
        )
        losses = engine(input_ids, labels, position_ids)
        zero.backward(engine, losses.loss_sum / target_tokens, last=number == len(micro_steps))
        sums += torch.stack([losses.loss_sum.detach(), losses.nll_sum, losses.num_tokens])
        padded_tokens += arrays.input_ids.size
    tokens = int((dataset.offsets[batch + 1] - dataset.offsets[batch]).sum())
    return StepSums(sums, tokens, target_tokens, padded_tokens)
