"""Log-probabilities of answers after prompts, under a causal language model.

Scores are in nats over the full vocabulary. A prefix that questions share, such as a subject's shots, goes
through the model once for all of them, and a question once for all its answers. With a model that cannot
share, each answer is a separate sequence; the scores are the same.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.encoding import Encoded, Query, encode, fit, require_letters, require_one_embedding
from evaluation.forward import (
    Prefix,
    answer_log_probs,
    num_inputs,
    prefix_of,
    takes_trees,
)
from evaluation.prefixes import Group, shared_prefixes
from modeling.checks import check_head
from modeling.head import head_of
from study.errors import JobError
from study.models.context import context_tokens, one_embedding

logger = logging.getLogger(__name__)

PREFIX_COST_TOKENS, PREFIX_COST_TOKENS_ON_GPU = 128, 4096
"""The cost of one more pass: on a GPU, a small pass takes as long as a medium one."""
MAX_TOKENS_ON_CPU = 512
"""Tokens of a pass, with padding and without the prefix: activations of more tokens leave the cache."""


class Score(NamedTuple):
    """scores: log-probability of each answer in nats, summed over its tokens. num_tokens: of each answer.

    num_cut: tokens left out of the prompt because it exceeds the model's context.
    """

    scores: list[float]
    num_tokens: list[int]
    num_context_tokens: int
    num_cut: int


class Pass(NamedTuple):
    """Rows of one forward pass, as indices of the rows to score, and the prefix that they share."""

    rows: list[int]
    prefix: tuple[int, ...]


class Scorer:
    """A model, on one device or with a copy on each of several, and its tokenizer.

    batch_tokens: padded tokens per forward pass, a shared prefix counted in each row; a longer question is
        alone. On a CPU passes are smaller.
    too_long: `refuse` prompts that exceed the model's context, or `cut` their beginning.
    Raises JobError for a model whose logits are not those of its output head.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int,
        too_long: str = "refuse",
    ) -> None:
        self.models, self.tokenizer = models, tokenizer
        self._on_cpu = models[0].device.type == "cpu"
        if self._on_cpu:
            # with a mask, transformers repeats keys and values for each query head, which kernels for CUDA
            # require; those for CPUs do not, and are faster without
            os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
            batch_tokens = min(batch_tokens, MAX_TOKENS_ON_CPU)
        self.too_long = too_long
        self.shares = takes_trees(models[0])
        # a nan is an error of the item that meets it: others may be scored
        check_head(models[0], head_of(models[0]), allow_nan=True)
        self._limit = [batch_tokens] * len(models)
        if not self.shares:
            logger.warning("%s cannot share prompts: scoring is slower", type(models[0]).__name__)

    def score(self, queries: Sequence[Query], *, letters: bool = False) -> list[Score]:
        """Score each query's answers, in the order of the queries.

        letters: the answers are letters, each of which must be one token.
        Raises JobError when the tokens of a query cannot be scored (see `evaluation.encoding`), it exceeds
        the context, or a score is not finite.
        """
        config = self.models[0].config.get_text_config()
        encoded = encode(self.tokenizer, queries)
        if letters:
            require_letters(encoded, queries, self.tokenizer.unk_token_id)
        encoded = fit(
            encoded,
            queries,
            context_tokens(config),
            cut=self.too_long == "cut",
            bos=self.tokenizer.bos_token_id,
        )
        require_one_embedding(encoded, queries, one_embedding(config))
        if self.shares:
            summed = self._sums(encoded)
        else:  # a separate sequence for each answer
            separate = [Encoded(row.context, [answer]) for row in encoded for answer in row.answers]
            values = iter([value for (value,) in self._sums(separate)])
            summed = [[next(values) for _ in row.answers] for row in encoded]
        scored = []
        for query, row, sums in zip(queries, encoded, summed, strict=True):
            if not all(map(math.isfinite, sums)):
                raise JobError(
                    f"item '{query.name}': scores {sums} are not finite; check the weights of "
                    f"{self.models[0].name_or_path}, or try evaluate.dtype: fp32"
                )
            num_tokens = [len(ids) for ids in row.answers]
            scored.append(Score(sums, num_tokens, len(row.context), row.num_cut))
        return scored

    def _sums(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """Each row's summed log-probabilities; devices take passes from one list."""
        cost = PREFIX_COST_TOKENS if self._on_cpu else PREFIX_COST_TOKENS_ON_GPU
        sequences = [row.context for row in rows]
        ungrouped = [Group(list(range(len(rows))), 0)]
        groups = shared_prefixes(sequences, cost=cost) if self.shares else ungrouped
        waiting = [
            Pass([group.members[k] for k in batch], tuple(sequences[group.members[0]][: group.length]))
            for group in groups
            for batch in length_batches(self._widths(rows, group.members, group.length), min(self._limit))
        ][::-1]
        results: dict[int, list[float]] = {}
        lock = threading.Lock()

        def work(device: int) -> None:
            ids: tuple[int, ...] = ()
            prefix: Prefix | None = None
            while True:
                with lock:
                    if not waiting:
                        return
                    next_pass = waiting.pop()
                if next_pass.prefix != ids:
                    prefix = None  # frees its memory before the next prefix needs it
                    ids, prefix = next_pass.prefix, self._prefix(device, next_pass.prefix)
                results.update(self._run(device, rows, next_pass, prefix))

        if len(self.models) == 1:
            work(0)
        else:
            with ThreadPoolExecutor(len(self.models)) as pool:
                list(pool.map(work, range(len(self.models))))
        return [results[i] for i in range(len(rows))]

    def _prefix(self, device: int, ids: Sequence[int]) -> Prefix | None:
        """Keys and values of a shared prefix; None for an empty one, or when memory is lacking."""
        if not ids:
            return None
        try:
            return prefix_of(self.models[device], ids)
        except torch.OutOfMemoryError:
            logger.warning(
                "out of GPU memory for a prefix of %d tokens; it is computed with each question", len(ids)
            )
        torch.cuda.empty_cache()  # outside `except`: the error holds on to the memory
        return None

    def _run(
        self, device: int, rows: Sequence[Encoded], next_pass: Pass, prefix: Prefix | None
    ) -> dict[int, list[float]]:
        """Score the rows of a pass; if its device runs out of memory, this and later passes are halved.

        prefix: None to compute it with each row.
        """
        results: dict[int, list[float]] = {}
        length = 0 if prefix is None else len(next_pass.prefix)
        pieces = [next_pass.rows]
        while pieces:
            piece = pieces.pop()
            size = len(piece) * max(self._widths(rows, piece, length))
            if size <= self._limit[device] or len(piece) == 1:
                try:
                    values = answer_log_probs(self.models[device], [rows[i] for i in piece], prefix)
                    results.update(zip(piece, values, strict=True))
                    continue
                except torch.OutOfMemoryError:
                    if len(piece) == 1:
                        raise
                    self._limit[device] = size // 2
                    logger.warning("out of GPU memory; from here on at most %d tokens a pass", size // 2)
                torch.cuda.empty_cache()  # outside `except`: the error holds on to the memory
            half = len(piece) // 2
            pieces += [piece[half:], piece[:half]]
        return results

    def _widths(self, rows: Sequence[Encoded], members: Sequence[int], prefix_length: int) -> list[int]:
        """Tokens that each row adds to a pass: on a GPU with the prefix, whose keys are copied per row."""
        return [num_inputs(rows[i]) - (prefix_length if self._on_cpu else 0) for i in members]


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of at most `batch_tokens` padded tokens, or of one sequence; longest first."""
    batches: list[list[int]] = []
    widest = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * widest <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
            widest = lengths[i]
    return batches
