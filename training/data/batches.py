"""The examples of an optimizer step, their split into micro-batches, and the arrays of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from study.errors import JobError
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters
from training.data.rows import Indices
from training.data.token_files import IGNORE_INDEX, TokenDataset

OVERHEAD_TOKENS = 128
"""The fixed cost of a forward and backward pass, in tokens: it weighs fewer passes against less padding.

Measured on a CPU core: 116 with 1M parameters in fp32, 72 with 135M in bf16. Other machines differ, but
little depends on it: 128 examples of log-normal lengths with mean 200 make, on one rank, 17 passes with 5%
padding; a cost of 512 would make 10 with 12%, and 32 would make 31, too small to fill a GPU, with 2%.
"""
MAX_CAPS = 512


def num_steps(dataset: TokenDataset, hyper: Hyperparameters) -> int:
    """Optimizer steps of the job: `num_steps`, or all complete global batches of the epochs, at least one."""
    return hyper.num_steps or max(1, hyper.num_epochs * len(dataset) // hyper.global_batch_size)


def global_batches(num_examples: int, hyper: Hyperparameters, steps: int) -> Iterator[Indices]:
    """The examples of each optimizer step: epochs shuffled by seed, end to end. Yields (B,) indices.

    Every rank computes the same batches.
    """
    pending = np.empty(0, dtype=np.int64)
    epoch = 0
    for _ in range(steps):
        while len(pending) < hyper.global_batch_size:
            order = np.random.default_rng((hyper.seed, epoch)).permutation(num_examples)
            pending, epoch = np.concatenate([pending, order]), epoch + 1
        yield pending[: hyper.global_batch_size]
        pending = pending[hyper.global_batch_size :]


def micro_batches(
    dataset: TokenDataset, batch: Indices, resources: Resources, num_ranks: int
) -> list[list[Indices]]:
    """Split a global batch: result[micro_step][rank] are the examples of one forward pass.

    Every example is in exactly one micro-batch, and none is empty. Each holds at most `micro_batch_size`
    examples and `micro_batch_tokens` tokens, padding included (none with `packing`), or one longer example.
    Examples of similar length are together, the longest first, so that what does not fit into memory fails at
    once. Among all such splits this one takes the least time, as ranks wait for each other (see `_cuts`).

    The split does not change the gradient: the loss is divided by the target tokens of the global batch.
    Every rank computes the same split.

    Where the batch is not a multiple of the ranks and nearly every example fills a micro-batch alone, no such
    split exists; then both bounds are doubled until one does.
    Raises JobError when there are fewer examples than ranks.
    """
    if len(batch) < num_ranks:
        raise JobError(
            f"a global batch of {len(batch)} examples cannot be shared out among {num_ranks} ranks; raise "
            "global_batch_size, or take fewer nodes or tasks_per_node"
        )
    lengths = dataset.offsets[batch + 1] - dataset.offsets[batch]
    order = np.argsort(-lengths, kind="stable")
    batch, lengths = batch[order], lengths[order]
    most, tokens = min(resources.micro_batch_size, len(batch)), resources.micro_batch_tokens
    while (cuts := _cuts(lengths, num_ranks, most, tokens, resources.packing)) is None:
        most, tokens = min(2 * most, len(batch)), 2 * tokens
    shares = np.split(batch, cuts)
    return [shares[i : i + num_ranks] for i in range(0, len(shares), num_ranks)]


def _cuts(lengths: Indices, num_ranks: int, most: int, tokens: int, packed: bool) -> list[int] | None:
    """Where to cut descending lengths into micro-batches, `num_ranks` per step; None: impossible.

    A step takes as long as its largest micro-batch. The cuts minimise the sum over steps of that
    micro-batch's tokens plus OVERHEAD_TOKENS; for one rank these are all padded tokens, and an overhead for
    each micro-batch.

    Given a cap on a micro-batch's tokens, each micro-batch of a step takes as many examples as fit. So for
    each cap and each first example there is a furthest end of a step, and dynamic programming from the last
    example backwards finds the best steps. Of more than MAX_CAPS caps, that many are tried, evenly spread.
    """
    count, first = len(lengths), np.arange(len(lengths))
    sums = np.concatenate([[0], np.cumsum(lengths)])
    if packed:
        sizes = (sums[None, 1:] - sums[:-1, None])[np.triu_indices(count)]
    else:
        sizes = (lengths[:, None] * np.arange(1, most + 1)).reshape(-1)
    caps = np.unique(np.concatenate([sizes[sizes <= tokens], lengths]))
    if len(caps) > MAX_CAPS:
        caps = caps[np.linspace(0, len(caps) - 1, MAX_CAPS).astype(np.int64)]

    # end[cap, i]: the end of a micro-batch that begins at i; an example above the bound is alone
    room = np.minimum(caps, tokens)[:, None]
    end = np.searchsorted(sums, room + sums[:-1], side="right") - 1 if packed else first + room // lengths
    end = np.clip(end, first + 1, np.minimum(first + most, count))
    end = np.concatenate([end, np.full((len(caps), 1), count)], axis=1)
    furthest = _applied(end, num_ranks)

    cost = np.full(count + 1, np.inf)
    cost[count] = 0
    chosen = np.zeros((count, 2), dtype=np.int64)  # by begin of a step: its end, its cap
    for begin in range(count - num_ranks, -1, -1):
        ends = np.arange(begin + num_ranks, count + 1)
        lowest = int(np.searchsorted(caps, lengths[begin]))  # the first cap that fits its longest example
        cap = lowest + np.searchsorted(furthest[lowest:, begin], ends)
        ends, cap = ends[cap < len(caps)], cap[cap < len(caps)]
        if len(ends):
            total = caps[cap] + cost[ends]
            best = int(total.argmin())
            cost[begin] = total[best] + OVERHEAD_TOKENS
            chosen[begin] = ends[best], cap[best]
    if not np.isfinite(cost[0]):
        return None
    cuts, begin = [], 0
    while begin < count:
        step_end, cap_index = chosen[begin].tolist()
        cuts += _step(end[cap_index], begin, step_end, num_ranks)
        begin = step_end
    return cuts[1:]


def _applied(end: Indices, times: int) -> Indices:
    """(C, N + 1) -> (C, N + 1): where i ends up after replacing it by end[c, i], `times` times."""
    result = np.broadcast_to(np.arange(end.shape[1]), end.shape)
    while times:
        if times % 2:
            result = np.take_along_axis(end, result, axis=1)
        end, times = np.take_along_axis(end, end, axis=1), times // 2
    return result


def _step(end: Indices, begin: int, step_end: int, num_ranks: int) -> list[int]:
    """Where the micro-batches of a step begin. If fewer than `num_ranks` suffice, the fullest are halved."""
    begins = [begin]
    while end[begins[-1]] < step_end:
        begins.append(int(end[begins[-1]]))
    while len(begins) < num_ranks:
        counts = np.diff([*begins, step_end])
        fullest = int(counts.argmax())
        begins.insert(fullest + 1, begins[fullest] + int(counts[fullest]) // 2)
    return begins


class MicroBatch(NamedTuple):
    """Arrays of a forward pass, int64. labels are not shifted; tokens without a loss have IGNORE_INDEX.

    Padded: input_ids and labels (B, L), padding on the right; position_ids None. Causal attention needs no
    mask for padding on the right.
    Packed: all three (1, sum of lengths), examples end to end; position_ids begin at 0 with each example, by
    which transformers separates them when it is given no attention mask.
    """

    input_ids: Indices
    labels: Indices
    position_ids: Indices | None


def collate(dataset: TokenDataset, indices: Indices, pad_token_id: int, *, packed: bool) -> MicroBatch:
    """The arrays of some examples. The first token of each is not a target: nothing predicts it."""
    where, row, position = _places(dataset, indices)
    ids = dataset.tokens[where].astype(np.int64)
    targets = np.where(dataset.is_target[where] & (position > 0), ids, IGNORE_INDEX)
    if packed:
        return MicroBatch(ids[None], targets[None], position[None])
    shape = len(indices), int(position.max()) + 1
    input_ids, labels = np.full(shape, pad_token_id), np.full(shape, IGNORE_INDEX)
    input_ids[row, position], labels[row, position] = ids, targets
    return MicroBatch(input_ids, labels, None)


def num_target_tokens(dataset: TokenDataset, batch: Indices) -> int:
    """Target tokens of a batch, without the first token of each example."""
    where, _, position = _places(dataset, batch)
    return int(np.count_nonzero(dataset.is_target[where] & (position > 0)))


def _places(dataset: TokenDataset, indices: Indices) -> tuple[Indices, Indices, Indices]:
    """Per token of some examples, end to end: index in the dataset, row of its example, position in it."""
    begins = dataset.offsets[indices]
    lengths = dataset.offsets[indices + 1] - begins
    row = np.repeat(np.arange(len(indices)), lengths)
    position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return begins[row] + position, row, position
