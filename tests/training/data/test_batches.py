"""Global batches, how ranks share them out, and that no cut changes the gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from study.errors import JobError
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters
from training.data.batches import (
    OVERHEAD_TOKENS,
    collate,
    global_batches,
    micro_batches,
    num_steps,
    num_target_tokens,
)
from training.data.token_files import IGNORE_INDEX, TokenDataset

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=40)


def dataset_of(lengths: Sequence[int], *, seed: int = 0) -> TokenDataset:
    """Random tokens below 50, a third of them targets."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(0, 50, offsets[-1]).astype(np.int32)
    return TokenDataset(tokens, rng.random(len(tokens)) < 1 / 3, offsets, len(lengths), 0, 0, 0)


def padded(lengths: Sequence[int], packed: bool) -> int:
    return sum(lengths) if packed else len(lengths) * max(lengths)


def steps_of(
    lengths: Sequence[int], num_ranks: int, size: int, tokens: int, packed: bool = False
) -> list[list[list[int]]]:
    """A cut, in lengths."""
    resources = Resources(micro_batch_size=size, micro_batch_tokens=tokens, packing=packed)
    cut = micro_batches(dataset_of(lengths), np.arange(len(lengths)), resources, num_ranks)
    return [[[lengths[i] for i in share] for share in step] for step in cut]


def cost(steps: Sequence[Sequence[Sequence[int]]], packed: bool) -> int:
    return sum(OVERHEAD_TOKENS + max(padded(share, packed) for share in step) for step in steps)


# global batches


@settings(max_examples=40, deadline=None)
@given(
    num_examples=st.integers(1, 70),
    batch=st.integers(1, 20),
    steps=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_each_epoch_sees_each_example_once(num_examples: int, batch: int, steps: int, seed: int) -> None:
    hyper = Hyperparameters(seed=seed, global_batch_size=batch)
    batches = list(global_batches(num_examples, hyper, steps))
    assert [len(b) for b in batches] == [batch] * steps
    stream = np.concatenate(batches)
    for start in range(0, len(stream) - num_examples + 1, num_examples):
        assert sorted(stream[start : start + num_examples]) == list(range(num_examples))


def test_epochs_are_whole_global_batches() -> None:
    dataset = dataset_of([2] * 10)
    assert num_steps(dataset, Hyperparameters(num_epochs=3, global_batch_size=4)) == 7
    assert num_steps(dataset, Hyperparameters(num_epochs=1, global_batch_size=40)) == 1
    assert num_steps(dataset, Hyperparameters(num_steps=5)) == 5


# micro-batches


@settings(max_examples=200, deadline=None)
@given(
    lengths=LENGTHS,
    num_ranks=st.integers(1, 5),
    size=st.integers(1, 12),
    tokens=st.integers(1, 300),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_cut_is_a_partition_within_bounds(
    lengths: list[int], num_ranks: int, size: int, tokens: int, packed: bool, seed: int
) -> None:
    assume(len(lengths) >= num_ranks)
    dataset = dataset_of([5, *lengths])
    # not the first, in any order, one twice
    batch = np.random.default_rng(seed).permutation(np.append(np.arange(1, len(lengths)), len(lengths)))
    batch[0] = batch[-1]
    resources = Resources(micro_batch_size=size, micro_batch_tokens=tokens, packing=packed)
    cut = micro_batches(dataset, batch, resources, num_ranks)
    again = micro_batches(dataset, batch.copy(), resources, num_ranks)
    assert [[s.tolist() for s in step] for step in cut] == [[s.tolist() for s in step] for step in again]
    assert {len(step) for step in cut} == {num_ranks}
    shares = [share for step in cut for share in step]
    assert all(len(share) for share in shares)
    assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
    in_order = [dataset.length(i) for share in shares for i in share]
    assert in_order == sorted(in_order, reverse=True)
    if len(batch) % num_ranks == 0:  # else the bounds may have had to give way
        assert all(len(share) <= size for share in shares)
        sizes = [(len(share), padded([dataset.length(i) for i in share], packed)) for share in shares]
        assert all(total <= tokens for count, total in sizes if count > 1)


def compositions(lengths: Sequence[int]) -> Iterator[list[list[int]]]:
    """Every way to cut a sequence into runs."""
    for number in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), number):
            yield [list(lengths[a:b]) for a, b in pairwise([0, *cuts, len(lengths)])]


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 400), min_size=1, max_size=9),
    num_ranks=st.integers(1, 3),
    size=st.integers(1, 6),
    tokens=st.integers(50, 1500),
    packed=st.booleans(),
)
def test_no_cut_takes_less_time(
    lengths: list[int], num_ranks: int, size: int, tokens: int, packed: bool
) -> None:
    """Against all cuts of the sorted lengths."""
    assume(len(lengths) >= num_ranks)
    best = min(
        (
            cost([runs[i : i + num_ranks] for i in range(0, len(runs), num_ranks)], packed)
            for runs in compositions(sorted(lengths, reverse=True))
            if len(runs) % num_ranks == 0
            and all(len(run) == 1 or (len(run) <= size and padded(run, packed) <= tokens) for run in runs)
        ),
        default=None,
    )
    assume(best is not None)
    assert cost(steps_of(lengths, num_ranks, size, tokens, packed), packed) == best


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every way to share items out, in any order."""
    if not items:
        yield []
        return
    first, *rest = items
    for of_rest in partitions(rest):
        yield [[first], *of_rest]
        for i, group in enumerate(of_rest):
            yield [*of_rest[:i], [first, *group], *of_rest[i + 1 :]]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 400), min_size=1, max_size=6),
    size=st.integers(1, 6),
    tokens=st.integers(50, 1500),
)
def test_on_one_rank_nothing_is_lost_by_sorting(lengths: list[int], size: int, tokens: int) -> None:
    """Against every partition: padded tokens and an overhead for each micro-batch."""
    best = min(
        sum(padded(group, False) + OVERHEAD_TOKENS for group in groups)
        for groups in partitions(lengths)
        if all(len(g) == 1 or (len(g) <= size and padded(g, False) <= tokens) for g in groups)
    )
    assert cost(steps_of(lengths, 1, size, tokens), False) == best


def test_cuts_by_hand() -> None:
    # two passes cost 128 more than one, which would have 4 x 90 tokens of padding
    assert steps_of([100, 10, 10, 10, 10], 1, 8, 4096) == [[[100]], [[10, 10, 10, 10]]]
    assert steps_of([40, 10, 10, 10, 10], 1, 8, 4096) == [[[40, 10, 10, 10, 10]]]


def log_normal(seed: int) -> list[int]:
    """128 lengths with mean 200, at most 2048."""
    drawn = np.random.default_rng(seed).lognormal(np.log(200) - 0.5, 1.0, 128)
    return [int(length) for length in drawn.clip(2, 2048)]


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("tokens", [4096, 8192])
def test_little_is_padding_and_ranks_wait_little(num_ranks: int, tokens: int) -> None:
    real = with_padding = with_waiting = 0
    for seed in range(20):
        steps = steps_of(log_normal(seed), num_ranks, 64, tokens)
        totals = [[padded(share, False) for share in step] for step in steps]
        real += sum(log_normal(seed))
        with_padding += sum(map(sum, totals))
        with_waiting += sum(num_ranks * max(step) for step in totals)
    assert 1 - real / with_padding < 0.10
    assert 1 - real / with_waiting < (0.06 if num_ranks == 1 else 0.16)


def test_bounds_give_way_where_they_cannot_hold() -> None:
    # two ranks have an even number of micro-batches, so that two of five examples must go together
    steps = steps_of([9] * 5, 2, 1, 9)
    assert sorted(len(share) for step in steps for share in step) == [1, 1, 1, 2]
    assert all(len(step) == 2 for step in steps)


def test_fewer_examples_than_ranks_are_refused() -> None:
    with pytest.raises(JobError, match="3 examples cannot be shared out among 4 ranks; raise global_batch"):
        steps_of([5, 5, 5], 4, 8, 4096)


# arrays


def small() -> TokenDataset:
    offsets = np.array([0, 2, 5, 9])
    tokens = np.array([7, 8, 1, 2, 3, 4, 5, 6, 7], dtype=np.int32)
    target = np.array([False, True, True, False, True, False, True, True, False])
    return TokenDataset(tokens, target, offsets, 3, 0, 0, 0)


def test_collate_pads_right_and_masks() -> None:
    input_ids, labels, position_ids = collate(small(), np.array([2, 0, 1]), 9, packed=False)
    assert input_ids.tolist() == [[4, 5, 6, 7], [7, 8, 9, 9], [1, 2, 3, 9]]
    assert labels.tolist() == [[-100, 5, 6, -100], [-100, 8, -100, -100], [-100, -100, 3, -100]]
    assert position_ids is None
    assert input_ids.dtype == labels.dtype == np.int64


def test_collate_packs_and_predicts_nothing_across_examples() -> None:
    input_ids, labels, position_ids = collate(small(), np.array([2, 0, 1]), 9, packed=True)
    assert position_ids is not None
    assert input_ids.tolist() == [[4, 5, 6, 7, 7, 8, 1, 2, 3]]
    assert labels.tolist() == [[-100, 5, 6, -100, -100, 8, -100, -100, 3]]
    assert position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert {array.dtype for array in (input_ids, labels, position_ids)} == {np.dtype(np.int64)}


def test_target_tokens_are_counted_as_the_labels_have_them() -> None:
    assert num_target_tokens(small(), np.array([0, 1, 2])) == 4
    assert num_target_tokens(small(), np.array([1])) == 1
    dataset = dataset_of([3, 50, 2, 17])
    labels = collate(dataset, np.array([3, 1, 1]), 0, packed=True).labels
    assert num_target_tokens(dataset, np.array([3, 1, 1])) == (labels != IGNORE_INDEX).sum()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_no_cut_changes_the_gradient(packed: bool, num_ranks: int) -> None:
    """Summed loss and gradient of a global batch, cut, against every example by itself, in float64."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    lm = LlamaForCausalLM(shape).double()
    assert lm.config._attn_implementation == "sdpa"
    lengths = np.random.default_rng(1).integers(2, 40, 30).tolist()
    dataset, batch = dataset_of(lengths), np.arange(30)[::-1].copy()

    def summed(indices: np.ndarray, *, packed: bool) -> torch.Tensor:
        arrays = collate(dataset, indices, 49, packed=packed)
        input_ids, labels, position_ids = (None if a is None else torch.from_numpy(a) for a in arrays)
        logits = lm(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits[:, :-1]
        assert labels is not None
        flat = labels[:, 1:].reshape(-1)
        return cross_entropy(logits.reshape(-1, 50), flat, ignore_index=IGNORE_INDEX, reduction="sum")

    def gradients(parts: Sequence[np.ndarray], *, packed: bool) -> tuple[float, list[torch.Tensor]]:
        lm.zero_grad()
        total = 0.0
        for part in parts:
            loss = summed(part, packed=packed)
            loss.backward()
            total += loss.item()
        return total, [p.grad.clone() for p in lm.parameters() if p.grad is not None]

    resources = Resources(micro_batch_size=6, micro_batch_tokens=120, packing=packed)
    steps = micro_batches(dataset, batch, resources, num_ranks)
    shares = [share for step in steps for share in step]
    assert len(shares) > 4
    assert max(len(share) for share in shares) > 1
    want_loss, want = gradients([np.array([i]) for i in batch], packed=False)
    loss, actual = gradients(shares, packed=packed)
    assert loss == pytest.approx(want_loss, rel=1e-12)
    assert len(actual) == len(want) == len(list(lm.parameters()))
    for ours, theirs in zip(actual, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
