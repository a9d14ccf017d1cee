"""Instruction rows as token ids with a target mask, and the batches the optimizer sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from study.errors import JobError
from study.rows import read_rows
from study.sources import require_commit
from study.specs import Hyperparameters, Source

IGNORE_INDEX = -100
Segment = tuple[str, bool]
"""Text, and whether the loss is taken on it."""


@dataclass(frozen=True)
class Message:
    role: str  # system | user | assistant
    content: str


def load_rows(source: Source, hyper: Hyperparameters) -> list[Mapping[str, Any]]:
    """The rows of a dataset, sub-sampled to `num_examples` by seed.

    Raises RecordError for an unreadable file, JobError for a dataset without rows.
    """
    if source.kind == "embedded":
        return _embedded_rows(source.name, hyper)
    rows = read_rows(Path(source.name)) if source.kind == "local" else _hub_rows(source)
    if not rows:
        raise JobError(f"{source.name}: the dataset has no rows")
    if hyper.num_examples is not None and hyper.num_examples < len(rows):
        chosen = np.random.default_rng(hyper.seed).choice(len(rows), hyper.num_examples, replace=False)
        rows = [rows[i] for i in sorted(chosen)]
    return rows


def _embedded_rows(name: str, hyper: Hyperparameters) -> list[Mapping[str, Any]]:
    from study.cldr import instructions

    if name == "cldr-pretrain":
        return list(instructions.pretraining_rows(hyper.num_examples or 100_000, seed=hyper.seed))
    return list(instructions.english_instructions(hyper.num_examples or 1_000, seed=hyper.seed))


def _hub_rows(source: Source) -> list[Mapping[str, Any]]:
    from datasets import load_dataset

    data = load_dataset(source.name, revision=source.revision, split="train")
    require_commit(data, source)
    return list(data)


def messages_of(row: Mapping[str, Any], where: str) -> list[Message]:
    """A row of Alpaca's, Tulu-3's or OpenHermes' schema as messages.

    Raises JobError for other columns.
    """
    if not isinstance(row, Mapping):
        raise JobError(f"{where}: not a mapping of columns to values")
    if isinstance(row.get("messages"), list):
        return [Message(_text(m, "role", where), _text(m, "content", where)) for m in row["messages"]]
    if isinstance(row.get("conversations"), list):
        turns = [(_text(m, "from", where), _text(m, "value", where)) for m in row["conversations"]]
        roles = {"human": "user", "gpt": "assistant"}
        return [Message(roles.get(role, role), content) for role, content in turns]
    if "instruction" in row and "output" in row:
        asked = _text(row, "instruction", where)
        if row.get("input"):
            asked += "\n" + _text(row, "input", where)
        return [Message("user", asked), Message("assistant", _text(row, "output", where))]
    raise JobError(
        f"{where}: columns {sorted(row)} are neither instruction/input/output, messages nor conversations"
    )


def _text(row: Any, column: str, where: str) -> str:
    value = row.get(column) if isinstance(row, Mapping) else None
    if not isinstance(value, str):
        raise JobError(f"{where}: '{column}' is {value!r}, not a text")
    return value


def segments(messages: Sequence[Message], template: str, eos: str) -> list[Segment]:
    r"""Text with marks on what the assistant says, its end of sequence included.

    plain: `{user}\nAnswer: {assistant}{eos}`, the prompt of the `letter` protocol.
    tulu: `<|role|>\n{content}\n`, the assistant's ends with eos (open-instruct's template).
    """
    result: list[Segment] = []
    for message in messages:
        if template == "plain":
            if message.role == "assistant":
                result += [("\nAnswer:", False), (f" {message.content}{eos}", True)]
            else:
                result.append((message.content, False))
        elif message.role == "assistant":
            result += [("<|assistant|>\n", False), (f"{message.content}{eos}", True), ("\n", False)]
        else:
            result.append((f"<|{message.role}|>\n{message.content}\n", False))
    # neighbours are one text: " is\nAnswer:" need not be " is" + "\nAnswer:" to a tokenizer
    merged: list[Segment] = []
    for text, is_target in result:
        if merged and merged[-1][1] == is_target:
            merged[-1] = (merged[-1][0] + text, is_target)
        else:
            merged.append((text, is_target))
    return merged[:-1] if merged and not merged[-1][1] else merged


@dataclass(frozen=True)
class TokenDataset:
    """All examples end to end.

    tokens: (N,) int32. is_target: (N,) bool, tokens the loss is taken on. offsets: (E + 1,) int64, where
    each example begins. num_dropped: rows without a target.
    """

    tokens: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    num_dropped: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def length(self, example: int) -> int:
        return int(self.offsets[example + 1] - self.offsets[example])


def tokenise(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, hyper: Hyperparameters, where: str
) -> TokenDataset:
    """Render and tokenise rows; cut at `max_length_tokens`, drop rows that are left without a target.

    Raises JobError when nothing is left.
    """
    texts = [segments(messages_of(row, f"{where}, row {i}"), hyper.template, tokenizer.eos_token or "")
             for i, row in enumerate(rows)]  # fmt: skip
    flat = [text for row in texts for text, _ in row]
    encoded = iter(tokenizer(flat, add_special_tokens=False)["input_ids"]) if flat else iter([])
    begin = _leading_special_tokens(tokenizer)
    tokens: list[list[int]] = []
    masks: list[list[bool]] = []
    for row in texts:
        ids, mask = list(begin), [False] * len(begin)
        for _, is_target in row:
            piece = next(encoded)
            ids += piece
            mask += [is_target] * len(piece)
        ids, mask = ids[: hyper.max_length_tokens], mask[: hyper.max_length_tokens]
        if any(mask[1:]):  # the first token is never predicted
            tokens.append(ids)
            masks.append(mask)
    if not tokens:
        raise JobError(f"{where}: no row has a target token within {hyper.max_length_tokens} tokens")
    return TokenDataset(
        tokens=np.fromiter((t for ids in tokens for t in ids), dtype=np.int32),
        is_target=np.fromiter((t for mask in masks for t in mask), dtype=np.bool_),
        offsets=np.concatenate([[0], np.cumsum([len(ids) for ids in tokens])]).astype(np.int64),
        num_dropped=len(rows) - len(tokens),
    )


def _leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    for start in range(len(full)):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []


def num_steps(dataset: TokenDataset, hyper: Hyperparameters) -> int:
    """Optimizer steps of the run: as told, or whole global batches in the epochs, at least one."""
    return hyper.num_steps or max(1, hyper.num_epochs * len(dataset) // hyper.global_batch_size)


def global_batches(num_examples: int, hyper: Hyperparameters, steps: int) -> Iterator[npt.NDArray[np.int64]]:
    """The examples of each optimizer step: epochs shuffled by seed, end to end. Yields (B,) indices.

    Depends on nothing but its arguments: every rank computes the same batches.
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
    dataset: TokenDataset, batch: npt.NDArray[np.int64], micro_batch_size: int, rank: int, num_ranks: int
) -> list[npt.NDArray[np.int64]]:
    """This rank's share of a global batch, cut from its examples in order of length to save padding.

    Which example falls into which micro-batch does not change the gradient: the loss is divided by the
    target tokens of the whole global batch.
    """
    lengths = dataset.offsets[batch + 1] - dataset.offsets[batch]
    ordered = batch[np.argsort(lengths, kind="stable")]
    cuts = ordered.reshape(-1, micro_batch_size)
    return list(cuts[rank::num_ranks])


def num_target_tokens(dataset: TokenDataset, batch: npt.NDArray[np.int64]) -> int:
    """Target tokens of a batch, first tokens left out: nothing predicts them."""
    return sum(int(dataset.is_target[dataset.offsets[i] + 1 : dataset.offsets[i + 1]].sum()) for i in batch)


def collate(
    dataset: TokenDataset, batch: npt.NDArray[np.int64], pad_token_id: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Right-padded (input_ids, labels), each (B, L) int64; labels are not shifted.

    No attention mask: under causal attention no token sees the padding behind it.
    """
    longest = max(dataset.length(i) for i in batch)
    input_ids = np.full((len(batch), longest), pad_token_id, dtype=np.int64)
    labels = np.full((len(batch), longest), IGNORE_INDEX, dtype=np.int64)
    for row, example in enumerate(batch):
        begin, end = dataset.offsets[example], dataset.offsets[example + 1]
        ids, size = dataset.tokens[begin:end], end - begin
        input_ids[row, :size] = ids
        labels[row, :size] = np.where(dataset.is_target[begin:end], ids, IGNORE_INDEX)
    return input_ids, labels
