"""Untrained models, built from a config."""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling.loading import attention_argument
from study.jobs.specs import Scratch
from study.models.shapes import config_of


def config_for(scratch: Scratch, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The config of a model of the given shape for this tokenizer."""
    return AutoConfig.for_model(
        **config_of(scratch),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_from(config: PreTrainedConfig, *, seed: int, attention: str) -> PreTrainedModel:
    """An untrained model. attention: see `modeling.loading.attention_argument`."""
    torch.manual_seed(seed)
    lm: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, attn_implementation=attention_argument(attention)
    )
    return lm
