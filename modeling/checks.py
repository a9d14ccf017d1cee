"""Try a model on a few tokens before relying on what it should compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling.head import Head, last_hidden_states
from study.errors import JobError

HEAD_TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.02}
"""Largest difference between two ways to compute a logit, as a share of the largest logit.

In bf16 the model rounds a logit to 2**-9 of itself, and again in each step of a soft-cap, which we compute in
float32: four roundings, 0.008 together. A mistake that changes logits less than rounding does is not noticed.
In float32 only the order of additions may differ, below 1e-5; 1e-3 leaves room for kernels that multiply in
TF32. (A float64 model has its norms and rotations in float32.)
"""
NUM_TOKENS = 64
MASKABLE = ("sdpa", "eager")
"""Attention implementations that take any mask, on every device and in every dtype."""


def check_head(lm: PreTrainedModel, head: Head, *, allow_nan: bool = False) -> None:
    """Refuse a model whose logits are not those of `head` on its last hidden states.

    Some architectures scale their logits (Cohere, Granite): losses and scores without that would be wrong and
    would look right.

    allow_nan: leave out logits that are not finite; otherwise they are refused.
    Raises JobError.
    """
    # two rows: weights that are not finite for one token spoil all logits of its row
    input_ids = probe_ids(lm).reshape(2, -1)
    with probing(lm):
        own = lm(input_ids=input_ids, use_cache=False).logits.float()
        hidden_BTH = last_hidden_states(lm, input_ids=input_ids, use_cache=False)
        ours = head.cap_(head.project(hidden_BTH).float())
    finite = own.isfinite()
    if not (allow_nan or finite.all()):
        raise JobError(f"{type(lm).__name__} computes logits that are not finite: check its weights")
    tolerance = HEAD_TOLERANCES[lm.dtype] * own.where(finite, 0).abs().max()
    # a nan of ours beside a finite logit is within no tolerance
    if not ((own - ours).abs() <= tolerance).where(finite, True).all():
        raise JobError(f"{type(lm).__name__} changes its logits after the head; that is not handled")


def probe_ids(lm: PreTrainedModel) -> Tensor:
    """(1, T) token ids that the model knows, T even."""
    config = lm.config.get_text_config()
    size = min(NUM_TOKENS, getattr(config, "max_position_embeddings", NUM_TOKENS) // 2 * 2)
    # not from 0 on: that is often the padding, whose embedding is zero
    ids: Tensor = torch.arange(1, size + 1, device=lm.device)[None] % config.vocab_size
    return ids


@contextlib.contextmanager
def probing(lm: PreTrainedModel) -> Iterator[None]:
    """No dropout, no gradients, and an attention that runs everywhere; restores the model afterwards."""
    training, attention = lm.training, lm.config._attn_implementation
    lm.eval()
    if attention not in MASKABLE:
        lm.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        lm.train(training)
        if attention not in MASKABLE:
            lm.set_attn_implementation(attention)
