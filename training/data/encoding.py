"""Text as token ids, with a mask of the tokens that the loss is computed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from training.data.messages import Rendered

Encoder: TypeAlias = Callable[[Sequence[Rendered]], "list[Example | None]"]


class Example(NamedTuple):
    """ids: (L,) int32. is_target: (L,) bool. is_cut: targets beyond the maximum length were lost."""

    ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    is_cut: bool


def encoder(tokenizer: PreTrainedTokenizerBase, max_length_tokens: int) -> Encoder:
    """A function from texts to examples, each up to its last target; None for a text without a target.

    A text is tokenised in one piece: tokenizers made from SentencePiece (Llama-2, Mistral) would begin every
    piece with a space that is not in the text. It is preceded by what `tokenizer(text)` puts there, usually a
    BOS token, unless the text begins with it already, as chat templates write it.

    A token is a target if it begins inside a span. A token that straddles the beginning of an answer is not:
    at inference the model is given the prompt alone, whose last token ends where the prompt ends, and never
    has to predict a token that begins before.

    tokenizer: one that reports where its tokens are in the text (`is_fast`).
    """
    begin = leading_special_tokens(tokenizer)
    # `tokenizer(texts)` takes twice as long: it converts the backend's results to lists
    backend = tokenizer.backend_tokenizer

    def encode(texts: Sequence[Rendered]) -> list[Example | None]:
        # undo settings of earlier callers
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        encoded = backend.encode_batch([text for text, _ in texts], add_special_tokens=False)
        return [
            _example(tokens.ids, tokens.offsets, spans, begin, max_length_tokens)
            for tokens, (_, spans) in zip(encoded, texts, strict=True)
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
    # after an odd number of edges a token begins inside a span; at the end of a span, outside
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
    """The tokens that `tokenizer(text)` puts in front of a text, such as BOS."""
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    for start in range(len(full)):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []
