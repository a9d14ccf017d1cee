"""One forward pass of a causal language model over questions, and the log-probabilities of their answers.

A question goes in once, followed by all of its answers side by side: each answer attends to the question
and to itself, at positions as if it were alone (a tree mask). If the questions of a batch share a prefix, its
keys and values may have been computed before. The output head, which with a vocabulary of 256,000 costs more
than a small model itself, is applied only to the positions that are read.

Shapes: B rows, T tokens of a row, N positions that are read, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from evaluation.encoding import Encoded
from modeling.checks import MASKABLE
from modeling.head import head_of, last_hidden_states

LOGITS_BYTES = 2**28
KNOWN_LAYERS = {"full_attention", "sliding_attention"}

Prefix: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (1, heads, tokens, width)."""


class Tree:
    """Questions as rows of one batch, padded on the right, each followed by its answers.

    The last token of an answer is predicted and never an input, so it is left out.
    ids, positions, branches: (B, T). branches: 0 for a question, 1 and up for its answers.
    places: N (row, column) that predict a token; the last token of a question predicts the first token of
        every answer.
    reads: for each answer token of the batch, in order: the index in `places` that predicts it, its id.
    """

    def __init__(self, rows: Sequence[Encoded], prefix_length: int) -> None:
        self.prefix_length = prefix_length
        self.width = max(num_inputs(row) for row in rows) - prefix_length
        shape = len(rows), self.width
        self.ids, self.positions, self.branches = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
        self.places: list[tuple[int, int]] = []
        self.reads: list[tuple[int, int]] = []
        self.has_branches = any(
            len(row.answers) > 1 and any(len(ids) > 1 for ids in row.answers) for row in rows
        )
        for number, row in enumerate(rows):
            self._lay(number, row)

    def _lay(self, number: int, row: Encoded) -> None:
        question = row.context[self.prefix_length :]
        ids, branches = list(question), [0] * len(question)
        positions = list(range(self.prefix_length, len(row.context)))
        end_of_question = len(self.places)
        self.places.append((number, len(question) - 1))
        for branch, answer in enumerate(row.answers, start=1):
            self.reads.append((end_of_question, answer[0]))
            for depth, (token, following) in enumerate(pairwise(answer)):
                self.reads.append((len(self.places), following))
                self.places.append((number, len(ids)))
                ids.append(token)
                branches.append(branch)
                positions.append(len(row.context) + depth)
        for matrix, values in ((self.ids, ids), (self.positions, positions), (self.branches, branches)):
            matrix[number, : len(values)] = torch.tensor(values)

    def may_see(self, window: int | None) -> Tensor:
        """(B, 1, T, prefix + T), bool: which keys a token attends to, at most `window` positions back."""
        column = torch.arange(self.width)
        before = column[:, None] >= column
        same = (self.branches[:, None, :] == 0) | (self.branches[:, :, None] == self.branches[:, None, :])
        prefix = torch.ones(len(self.ids), self.width, self.prefix_length, dtype=torch.bool)
        seen = torch.cat([prefix, before & same], dim=2)
        if window is not None:
            at = torch.cat([torch.arange(self.prefix_length).expand(len(self.ids), -1), self.positions], 1)
            seen &= self.positions[:, :, None] - at[:, None, :] < window
        return seen[:, None]


def num_inputs(row: Encoded) -> int:
    """Input tokens of a question with all its answers."""
    return len(row.context) + sum(len(ids) - 1 for ids in row.answers)


@torch.inference_mode()
def prefix_of(model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
    """Keys and values of a prefix that several questions share."""
    # without a config every layer keeps all tokens: sliding windows are in our masks
    cache = DynamicCache()
    inputs = torch.tensor([ids], device=model.device)
    last_hidden_states(model, input_ids=inputs, past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


@torch.inference_mode()
def answer_log_probs(
    model: PreTrainedModel, rows: Sequence[Encoded], prefix: Prefix | None = None
) -> list[list[float]]:
    """Log-probability of each answer after its question: nats over the full vocabulary, summed over tokens.

    prefix: keys and values of the tokens that all questions begin with.
    """
    length = prefix[0][0].shape[2] if prefix else 0
    tree = Tree(rows, length)
    inputs: dict[str, Any] = {"input_ids": tree.ids.to(model.device), "use_cache": prefix is not None}
    if prefix is not None:
        inputs["past_key_values"] = _cache_of(prefix, len(rows))
    if prefix is not None or tree.has_branches:
        inputs["position_ids"] = tree.positions.to(model.device)
        inputs["attention_mask"] = _masks(model, tree)
    # padding comes after everything that is read: a causal model needs no mask for it
    hidden_BTH = last_hidden_states(model, **inputs)
    row, column = torch.tensor(tree.places, device=model.device).T
    log_probs = _log_probs(model, hidden_BTH[row, column], tree.reads).double().tolist()
    summed: list[list[float]] = []
    begin = 0
    for encoded in rows:
        summed.append([])
        for ids in encoded.answers:
            summed[-1].append(sum(log_probs[begin : begin + len(ids)]))
            begin += len(ids)
    return summed


def _cache_of(prefix: Prefix, num_rows: int) -> DynamicCache:
    """A cache that holds the prefix for each row of a batch; its own constructor would copy it."""
    cache = DynamicCache()
    for keys, values in prefix:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(num_rows, -1, -1, -1)
        layer.values = values.expand(num_rows, -1, -1, -1)
        cache.layers.append(layer)
    return cache


def _log_probs(model: PreTrainedModel, hidden_NH: Tensor, reads: Sequence[tuple[int, int]]) -> Tensor:
    """Log-probabilities of tokens over the full vocabulary, (len(reads),), float32, on the CPU.

    reads: (row of hidden_NH, token).
    """
    head = head_of(model)
    row, token = torch.tensor(reads, device=hidden_NH.device).T
    vocabulary = len(head.weight)
    size = max(1, LOGITS_BYTES // (4 * vocabulary))
    # a block of float32 logits stays in the cache of a CPU
    block = max(1, 2**20 // vocabulary) if hidden_NH.device.type == "cpu" else size
    normaliser_N = torch.empty(len(hidden_NH), dtype=torch.float32, device=hidden_NH.device)
    logits = torch.empty(len(reads), dtype=torch.float32, device=hidden_NH.device)
    for begin in range(0, len(hidden_NH), size):
        projected_NV = head.project(hidden_NH[begin : begin + size])
        for top in range(begin, begin + len(projected_NV), block):
            logits_NV = head.cap_(projected_NV[top - begin : top - begin + block].float())
            in_block = (row >= top) & (row < top + len(logits_NV))
            logits[in_block] = logits_NV[row[in_block] - top, token[in_block]]
            normaliser_N[top : top + len(logits_NV)] = torch.logsumexp(logits_NV, dim=1)
    return (logits - normaliser_N[row]).cpu()


def _masks(model: PreTrainedModel, tree: Tree) -> Tensor | dict[str, Tensor]:
    """The mask as the model's attention takes it: by type of layer where there are several."""
    config = model.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" not in types:
        return _additive(tree.may_see(None if types else window), model)
    return {
        "full_attention": _additive(tree.may_see(None), model),
        "sliding_attention": _additive(tree.may_see(window), model),
    }


def _additive(seen: Tensor, model: PreTrainedModel) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=model.dtype, device=model.device)
    return mask.masked_fill_(~seen.to(model.device), torch.finfo(model.dtype).min)


def takes_trees(model: PreTrainedModel) -> bool:
    """Try whether the scores of shared questions and prefixes are the model's own.

    They are not with recurrent layers, or where positions follow the order of the input.
    """
    config = model.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or KNOWN_LAYERS)
    if getattr(config, "_attn_implementation", None) not in MASKABLE or not types <= KNOWN_LAYERS:
        return False
    random = torch.Generator().manual_seed(0)
    size, limit = len(head_of(model).weight), getattr(config, "max_position_embeddings", None)
    if limit is not None and limit < 16:
        return False
    ids = torch.randint(size, (24,), generator=random).tolist()
    rows = [Encoded(ids[:7], [ids[12:15], ids[15:16], ids[16:20]]), Encoded(ids[:10], [ids[20:22], ids[22:]])]
    try:
        shared = answer_log_probs(model, rows, prefix_of(model, ids[:4]))
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):  # it lacks these arguments
        return False
    alone = [[plain_log_prob(model, row.context, answer) for answer in row.answers] for row in rows]
    # random tokens have log-probabilities around -10; a wrong mask shifts them by 1, rounding in bf16 by 0.1
    tolerance = 0.5 if model.dtype in (torch.bfloat16, torch.float16) else 5e-3
    differences = [
        abs(s - a) for ss, aa in zip(shared, alone, strict=True) for s, a in zip(ss, aa, strict=True)
    ]
    return max(differences) <= tolerance


@torch.inference_mode()
def plain_log_prob(model: PreTrainedModel, context: Sequence[int], answer: Sequence[int]) -> float:
    """An answer's summed log-probability from the model's own logits: one sequence, nothing shared."""
    ids = torch.tensor([[*context, *answer[:-1]]], device=model.device)
    scores = model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 :].float()
    picked = torch.log_softmax(scores, 1).gather(1, torch.tensor(answer, device=model.device)[:, None])
    return float(picked.double().sum())
