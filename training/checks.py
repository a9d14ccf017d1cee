"""What a run relies on and a model, or its data, may not do: found out before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from study.errors import JobError
from study.models.context import context_tokens, one_embedding
from training.data.token_files import TokenDataset

TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.02}
"""Between two ways to compute the same logits, as a share of the largest."""
NUM_TOKENS = 64
LEAST_DROPOUT_SEEN = 0.01
"""A smaller one may leave so few tokens as they are."""


def check_head(lm: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its head, and soft-cap, on its last hidden state.

    Some architectures scale their logits or add a bias (Cohere, Granite, Phi): the fused loss would be
    another one than theirs, and would look right.
    Raises JobError.
    """
    input_ids = _tokens(lm)
    with _probing(lm):
        own = lm(input_ids=input_ids, use_cache=False).logits.float()
        hidden = lm.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
        ours = (hidden @ lm.get_output_embeddings().weight.T).float()
    softcap = softcap_of(lm)
    if softcap is not None:
        ours = softcap * torch.tanh(ours / softcap)
    if not (own - ours).abs().max() <= TOLERANCES[lm.dtype] * own.abs().max():
        raise JobError(f"{type(lm).__name__} changes its logits after the head; that is not handled")


def check_packing(lm: PreTrainedModel) -> None:
    """Refuse a model in which texts that are laid end to end see each other, or stand at other positions.

    transformers keeps texts apart where position_ids begin again; models with a state (Mamba), with ALiBi or
    with none of these do not look at them.
    Raises JobError.
    """
    input_ids = _tokens(lm)
    middle = input_ids.shape[1] // 2
    begins_again = torch.arange(input_ids.shape[1], device=lm.device)[None] % middle
    decoder = lm.get_decoder()
    with _probing(lm):
        packed, joined = (
            decoder(input_ids=input_ids, position_ids=positions, use_cache=False).last_hidden_state[
                :, middle:
            ]
            for positions in (begins_again, None)
        )
        alone = decoder(input_ids=input_ids[:, middle:], use_cache=False).last_hidden_state
    # what rounding may do is little beside what the other text does
    if not (packed - alone).norm() <= 0.2 * (joined - alone).norm():
        raise JobError(f"{type(lm).__name__} does not keep packed examples apart: write packing: false")


def check_dropout(lm: PreTrainedModel, rate: float) -> None:
    """Refuse a model that computes the same twice in training: it states a dropout and does not use it.

    Leaves the random state as it was. Raises JobError.
    """
    if rate < LEAST_DROPOUT_SEEN:
        return
    input_ids = _tokens(lm)
    with _probing(lm), torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed every GPU, for good
        lm.train()
        once, again = (
            lm.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state for _ in range(2)
        )
    if torch.equal(once, again):
        raise JobError(f"{type(lm).__name__} does not use its dropout: remove dropout from the grid")


def check_data(
    dataset: TokenDataset, name: str, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse examples beyond the model's context, and tokens beyond its vocabulary.

    With rotary positions the first would be trained without a word, and with `longrope` what is padded beside
    one by another embedding than alone; the others are an index error somewhere.
    name: of the dataset, for errors. lm: whole, not yet under ZeRO-3. Raises JobError.
    """
    longest = int(np.diff(dataset.offsets).max())
    config = lm.config.get_text_config()
    for limit, place in (
        (context_tokens(config), "the model's context is {}"),
        (one_embedding(config), "the model keeps its rotary embedding up to {} (longrope)"),
    ):
        if limit is not None and longest > limit:
            raise JobError(
                f"{name}: an example has {longest} tokens, {place.format(limit)}; "
                f"write max_length_tokens: {limit}"
            )
    known = len(lm.get_input_embeddings().weight)  # type: ignore[arg-type]
    # the tokens, which may be many gigabytes, are read only where the tokenizer has some that are too large
    if max(tokenizer.get_vocab().values()) >= known and (largest := int(dataset.tokens.max())) >= known:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise JobError(
            f"{name}: the data have token {largest} ('{token}'), the model knows only {known}; "
            "take the tokenizer that the model was trained with, or enlarge its embeddings"
        )


def softcap_of(lm: PreTrainedModel) -> float | None:
    """Gemma-2's cap on logits, None for other architectures."""
    softcap: float | None = getattr(lm.config.get_text_config(), "final_logit_softcapping", None)
    return softcap


def _tokens(lm: PreTrainedModel) -> Tensor:
    """(1, T), T even: some tokens that the model knows."""
    config = lm.config.get_text_config()
    size = min(NUM_TOKENS, getattr(config, "max_position_embeddings", NUM_TOKENS) // 2 * 2)
    # not from 0 on: that is often the padding, whose embedding is zero
    tokens: Tensor = torch.arange(1, size + 1, device=lm.device)[None] % config.vocab_size
    return tokens


@contextlib.contextmanager
def _probing(lm: PreTrainedModel) -> Iterator[None]:
    """Without dropout, and with an attention that runs on every device and in every dtype."""
    training, attention = lm.training, lm.config._attn_implementation
    lm.eval()
    if attention not in ("sdpa", "eager"):
        lm.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        lm.train(training)
        if attention not in ("sdpa", "eager"):
            lm.set_attn_implementation(attention)
