"""The output head: how the last hidden states of a causal language model become its logits.

Shapes: T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from study.errors import JobError


@dataclass(frozen=True)
class Head:
    """logits = softcap * tanh(a / softcap) with a = hidden @ weight.T + bias.

    weight: (V, H). bias: (V,), None for none.
    softcap: Gemma-2's `final_logit_softcapping`; None for none, logits = a.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None

    def project(self, hidden_TH: Tensor) -> Tensor:
        """`a` (T, V), in the dtype of the model."""
        return F.linear(hidden_TH, self.weight, self.bias)

    def cap_(self, projected_TV: Tensor) -> Tensor:
        """Apply the soft-cap in place; returns the logits."""
        if self.softcap is None:
            return projected_TV
        return projected_TV.div_(self.softcap).tanh_().mul_(self.softcap)


def head_of(lm: PreTrainedModel) -> Head:
    """The model's output head. Under ZeRO-3 its tensors are whole only inside the engine's forward pass.

    `modeling.checks.check_head` proves that the model has no other step between hidden states and logits.
    Raises JobError for a model whose head is not linear.
    """
    linear = lm.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        raise JobError(f"{type(lm).__name__} has no linear output head; that is not handled")
    softcap: float | None = getattr(lm.config.get_text_config(), "final_logit_softcapping", None)
    return Head(linear.weight, linear.bias, softcap)


def last_hidden_states(lm: PreTrainedModel, **inputs: object) -> Tensor:
    """(B, T, H): what the head is applied to. inputs: as the model takes them."""
    hidden: Tensor = lm.get_decoder()(**inputs).last_hidden_state
    return hidden
