"""Text as token ids, with a mask of the tokens the loss is taken on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from training.data.messages import Rendered

Encoder: TypeAlias = Callable[[Sequence[Rendered]], "list[Example | None]"]


class Example(NamedTuple):
    """ids: (L,) int32. is_target: (L,) bool. is_cut: targets were lost at the longest length."""

    ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    is_cut: bool


def encoder(tokenizer: PreTrainedTokenizerBase, max_length_tokens: int) -> Encoder:
    """A function from texts to examples, each up to its last target; None for a text without any.

    A text is tokenised in one piece. In pieces, tokenizers made from SentencePiece (Llama-2, Mistral) would
    begin each of them with a space that no text has. In front comes what `tokenizer(text)` puts there, the
    beginning of a sequence, unless the text begins with it already, as chat templates write it.

    A token is a target when it begins inside a span. One that straddles the beginning of an answer is none:
    at inference the model is given the prompt alone, whose last token ends where the prompt does, and is
    never asked for a token that begins before.

    tokenizer: one that tells where its tokens are in the text (`is_fast`).
    """
    begin = leading_special_tokens(tokenizer)
    # not `tokenizer(texts)`, which takes as long again to turn what the backend found into lists
    backend = tokenizer.backend_tokenizer

    def encode(texts: Sequence[Rendered]) -> list[Example | None]:
        # what the tokenizer's latest caller asked for
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        encoded = backend.encode_batch([text for text, _ in texts], add_special_tokens=False)
        return [
            _example(found.ids, found.offsets, spans, begin, max_length_tokens)
            for found, (_, spans) in zip(encoded, texts, strict=True)
        ]

    return encode


def _example(
    ids: list[int],
    offsets: list[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    begin: list[int],
    max_length_tokens: int,
) -> Example | None:
    starts = np.array([start for start, _ in offsets], dtype=np.int64)
    edges = np.array(spans, dtype=np.int64).reshape(-1)
    # behind an odd number of edges is inside a span; at a span's end is outside
    is_target = np.searchsorted(edges, starts, side="right") % 2 == 1
    if ids[: len(begin)] != begin:
        ids = begin + ids
        is_target = np.concatenate([np.zeros(len(begin), dtype=np.bool_), is_target])
    targets = np.flatnonzero(is_target)
    targets = targets[targets > 0]  # nothing predicts the first token
    within = targets[targets < max_length_tokens]
    if not len(within):
        return None
    end = int(within[-1]) + 1
    return Example(np.array(ids[:end], dtype=np.int32), is_target[:end], len(within) < len(targets))


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What `tokenizer(text)` puts in front of a text."""
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    for start in range(len(full)):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []
