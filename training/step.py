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


class Step(NamedTuple):
    """What a rank computed of a global batch.

    sums: (3,) float64, of its target tokens: smoothed loss in nats, plain NLL in nats, their number.
    tokens, target_tokens: of the whole batch, over all ranks. padded_tokens: with padding, this rank's.
    """

    sums: Tensor
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
) -> Step:
    """Leave in the engine the gradient of a global batch's mean loss; `engine.step()` comes after it.

    The mean is over the target tokens of the whole batch, so that but for rounding nothing depends on how its
    examples fall into micro-batches and ranks. Every rank must call this.
    """
    target_tokens = batches.num_target_tokens(dataset, batch)
    sums = torch.zeros(3, dtype=torch.float64, device=world.device)
    shares = batches.micro_batches(dataset, batch, resources, world.size)
    padded_tokens = 0
    for number, of_ranks in enumerate(shares, start=1):
        mine = batches.collate(dataset, of_ranks[world.rank], pad_token_id, packed=resources.packing)
        input_ids, labels, position_ids = (
            None if array is None else torch.from_numpy(array).to(world.device) for array in mine
        )
        losses = engine(input_ids, labels, position_ids)
        zero.backward(engine, losses.loss_sum / target_tokens, last=number == len(shares))
        sums += torch.stack([losses.loss_sum.detach(), losses.nll_sum, losses.num_tokens])
        padded_tokens += mine.input_ids.size
    tokens = int((dataset.offsets[batch + 1] - dataset.offsets[batch]).sum())
    return Step(sums, tokens, target_tokens, padded_tokens)
