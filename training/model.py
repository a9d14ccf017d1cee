"""The model a run trains: weights, tokenizer, and the loss fused with its output head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from study.errors import JobError
from study.specs import Scratch, TrainSpec
from training.data import IGNORE_INDEX
from training.loss import linear_cross_entropy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(spec: TrainSpec, model_path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer a run starts from; safetensors only, no code from outside."""
    if spec.scratch is not None:
        from study.cldr.instructions import DEMO_SHARES
        from training.wordlevel import cldr_tokenizer

        tokenizer = cldr_tokenizer(DEMO_SHARES)
        return build(spec.scratch, tokenizer, seed=spec.hyper.seed), tokenizer
    revision = spec.model.revision if spec.model.kind == "hub" else None
    # in bf16 DeepSpeed casts the weights itself
    model = AutoModelForCausalLM.from_pretrained(
        model_path, revision=revision, dtype=torch.float32, use_safetensors=True
    )
    return model, AutoTokenizer.from_pretrained(model_path, revision=revision)


def build(scratch: Scratch, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """An untrained model of the given shape for this tokenizer; the same seed gives the same weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.num_layers,
        num_attention_heads=scratch.num_heads,
        max_position_embeddings=scratch.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": scratch.rope_theta},
        initializer_range=scratch.initializer_range,
        tie_word_embeddings=scratch.tie_word_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def check_head(lm: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its head, and soft-cap, on its last hidden state.

    Some architectures scale their logits or add a bias (Cohere, Granite, Phi): the fused loss would be
    another one than theirs, and would look right.
    Raises JobError.
    """
    input_ids = torch.arange(8)[None] % lm.config.get_text_config().vocab_size
    training = lm.training
    lm.eval()
    own = lm(input_ids=input_ids, use_cache=False).logits
    hidden = lm.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
    lm.train(training)
    ours = hidden @ lm.get_output_embeddings().weight.T
    softcap = softcap_of(lm)
    if softcap is not None:
        ours = softcap * torch.tanh(ours / softcap)
    if not torch.allclose(own, ours, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
        raise JobError(f"{type(lm).__name__} changes its logits after the head; that is not handled")


def softcap_of(lm: PreTrainedModel) -> float | None:
    """Gemma-2's cap on logits, None for other architectures."""
    softcap: float | None = getattr(lm.config.get_text_config(), "final_logit_softcapping", None)
    return softcap


class LossModel(nn.Module):
    """A causal language model that returns its loss: DeepSpeed must see head and loss in one forward pass.

    Under ZeRO-3 the head's weight is whole only inside the engine's forward.
    """

    def __init__(self, lm: PreTrainedModel, label_smoothing: float) -> None:
        super().__init__()
        self.lm = lm
        self.label_smoothing = label_smoothing
        self.softcap = softcap_of(lm)

    def forward(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, L), right-padded, labels not shifted -> (loss_sum, num_tokens) of this micro-batch."""
        hidden = self.lm.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
        shifted = labels[:, 1:].reshape(-1)
        return linear_cross_entropy(
            hidden[:, :-1].reshape(-1, hidden.shape[-1]),
            self.lm.get_output_embeddings().weight,
            shifted,
            label_smoothing=self.label_smoothing,
            softcap=self.softcap,
            ignore_index=IGNORE_INDEX,
        )
