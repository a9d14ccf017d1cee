"""Try what a training relies on before it starts: packing, dropout, and data that fit the model."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling.checks import probe_ids, probing
from modeling.head import last_hidden_states
from study.errors import JobError
from study.models.context import context_tokens, one_embedding
from training.data.token_files import TokenDataset

MIN_DROPOUT_SEEN = 0.01
"""A smaller rate may drop nothing of the few tokens that are tried."""
MAX_PACKING_ERROR = 0.2
"""Share of what attention to the other text changes: rounding stays far below it, also in bf16."""


def check_packing(lm: PreTrainedModel) -> None:
    """Refuse a model in which packed texts attend to each other, or stand at other positions than alone.

    transformers separates texts where position_ids begin again. Models with a state (Mamba), with ALiBi or
    without positions ignore position_ids.
    Raises JobError.
    """
    input_ids = probe_ids(lm)
    middle = input_ids.shape[1] // 2
    position_ids = torch.arange(input_ids.shape[1], device=lm.device)[None] % middle
    with probing(lm):
        packed, joined = (
            last_hidden_states(lm, input_ids=input_ids, position_ids=positions, use_cache=False)[:, middle:]
            for positions in (position_ids, None)
        )
        alone = last_hidden_states(lm, input_ids=input_ids[:, middle:], use_cache=False)
    if not (packed - alone).norm() <= MAX_PACKING_ERROR * (joined - alone).norm():
        raise JobError(f"{type(lm).__name__} does not keep packed examples apart: write packing: false")


def check_dropout(lm: PreTrainedModel, rate: float) -> None:
    """Refuse a model that ignores the dropout in its config: two passes in training mode are equal.

    Leaves the random state as it was. Raises JobError.
    """
    if rate < MIN_DROPOUT_SEEN:
        return
    input_ids = probe_ids(lm)
    with probing(lm), torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed every GPU, for good
        lm.train()
        first, second = (last_hidden_states(lm, input_ids=input_ids, use_cache=False) for _ in range(2))
    if torch.equal(first, second):
        raise JobError(f"{type(lm).__name__} does not use its dropout: remove dropout from the grid")


def check_data(
    dataset: TokenDataset, name: str, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse examples longer than the model's context and tokens outside its vocabulary.

    A model with rotary positions would train on longer examples without an error, and `longrope` would rotate
    the examples beside a long one in the same batch differently than alone. Unknown tokens would end in an
    index error deep inside the model.

    name: of the dataset, for errors. lm: complete, not yet under ZeRO-3. Raises JobError.
    """
    longest = int(np.diff(dataset.offsets).max())
    config = lm.config.get_text_config()
    for limit, reason in (
        (context_tokens(config), "the model's context is {}"),
        (one_embedding(config), "the model keeps its rotary embedding up to {} (longrope)"),
    ):
        if limit is not None and longest > limit:
            raise JobError(
                f"{name}: an example has {longest} tokens, {reason.format(limit)}; "
                f"write max_length_tokens: {limit}"
            )
    known = len(lm.get_input_embeddings().weight)  # type: ignore[arg-type]
    # the tokens may be many gigabytes: read them only where the tokenizer has ids that are too large
    if max(tokenizer.get_vocab().values()) >= known and (largest := int(dataset.tokens.max())) >= known:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise JobError(
            f"{name}: the data have token {largest} ('{token}'), the model knows only {known}; "
            "take the tokenizer that the model was trained with, or enlarge its embeddings"
        )
