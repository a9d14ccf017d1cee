"""The model a run trains: weights, tokenizer, and the loss fused with its output head."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from study.errors import JobError
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters, TrainSpec
from study.models.weights import (
    UNREADABLE,
    Weights,
    cannot_load,
    cannot_load_tokenizer,
    require_all,
    weights_at,
)
from training import checks, scratch
from training.data.token_files import IGNORE_INDEX
from training.engine import dropout
from training.loss import Losses, linear_losses

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(
    spec: TrainSpec, model_path: str, resources: Resources
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer a run starts from, on the host; safetensors or GGUF, no code from outside.

    model_path: a hub id, a folder or a GGUF file; nothing for a model from scratch.
    Raises JobError when they cannot be loaded, or the model cannot do what is asked for.
    """
    config = config_of(spec, model_path)
    weights = None if spec.scratch is not None else _weights(spec, model_path)
    try:
        lm = _built(config, weights, model_path, spec.hyper, resources)
    except UNREADABLE as error:
        raise cannot_load(model_path or spec.model.name, error) from error
    try:
        tokenizer = _tokenizer(spec, model_path)
    except UNREADABLE as error:
        raise cannot_load_tokenizer(model_path or spec.model.name) from error
    if spec.hyper.dropout is not None:
        checks.check_dropout(lm, spec.hyper.dropout)
    if resources.packing:
        checks.check_packing(lm)
    return lm, tokenizer


def cannot_use_attention(attention: str, error: ImportError) -> JobError:
    """Of flash attention that is not installed, say."""
    return JobError(
        f"attention {attention} cannot be used here ({str(error).splitlines()[0]}): "
        "install what it needs, or write attention: sdpa"
    )


def config_of(spec: TrainSpec, model_path: str) -> PreTrainedConfig:
    """The config of the model that `load` loads. Raises JobError when it cannot be read."""
    if spec.scratch is not None:
        return scratch.config_for(spec.scratch, _tokenizer(spec, model_path))
    weights = _weights(spec, model_path)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(weights.name, **weights.common)
    except UNREADABLE as error:
        raise cannot_load(model_path, error) from error
    return config


def _tokenizer(spec: TrainSpec, model_path: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase
    if spec.scratch is not None:
        from study.cldr.instructions import DEMO_SHARES
        from training.data.wordlevel import cldr_tokenizer

        tokenizer = cldr_tokenizer(DEMO_SHARES)
    else:
        weights = _weights(spec, model_path)
        tokenizer = AutoTokenizer.from_pretrained(weights.name, **weights.common)
    return tokenizer


def _weights(spec: TrainSpec, model_path: str) -> Weights:
    return weights_at(model_path, spec.model.revision if spec.model.kind == "hub" else None)


def _built(
    config: PreTrainedConfig,
    weights: Weights | None,
    model_path: str,
    hyper: Hyperparameters,
    resources: Resources,
) -> PreTrainedModel:
    """The model, with these weights or without any, as resources and hyperparameters want it."""
    own = None if hyper.dropout is None else dropout.override(config, hyper.dropout)
    _check_attention(config, hyper, resources)
    # sdpa is asked for by asking for nothing: where it lacks what an architecture needs, it is refused
    attention = None if resources.attention == "sdpa" else resources.attention
    try:
        if weights is None:
            lm = scratch.build_from(config, seed=hyper.seed, attention=attention)
        else:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                weights.name,
                config=config,
                dtype=DTYPES[hyper.dtype],
                attn_implementation=attention,
                output_loading_info=True,
                **weights.common,
                **weights.model,
            )
            lm, info = loaded
            require_all(model_path, info)
    except ImportError as error:
        raise cannot_use_attention(resources.attention, error) from error
    if lm.config._attn_implementation != resources.attention:
        logger.warning(
            "%s has no %s attention, %s is used instead",
            type(lm).__name__,
            resources.attention,
            lm.config._attn_implementation,
        )
    if own is not None:
        dropout.remember(lm, own)
    if resources.activation_checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    return lm


def _check_attention(config: PreTrainedConfig, hyper: Hyperparameters, resources: Resources) -> None:
    """Refuse what an implementation of attention would complain of in the first step."""
    if resources.attention.startswith("flash") and hyper.dtype != "bf16":
        raise JobError(f"attention {resources.attention} has no fp32: write dtype: bf16, or attention: sdpa")
    if resources.attention == "flex_attention" and any(
        place.rate > 0 and "att" in place.name for place in dropout.places(config)
    ):
        raise JobError("attention flex_attention has no dropout: write dropout: 0, or attention: sdpa")


class LossModel(nn.Module):
    """A causal language model that returns its loss: DeepSpeed must see head and loss in one forward pass.

    Under ZeRO-3 the head's weight is whole only inside the engine's forward.
    """

    def __init__(self, lm: PreTrainedModel, hyper: Hyperparameters) -> None:
        super().__init__()
        self.lm = lm
        self.label_smoothing = hyper.label_smoothing
        self.softcap = checks.softcap_of(lm) if hyper.logit_softcap is None else hyper.logit_softcap
        self.temperature = hyper.logit_temperature

    def forward(self, input_ids: Tensor, labels: Tensor, position_ids: Tensor | None = None) -> Losses:
        """The losses of a micro-batch.

        input_ids, labels: (B, L), right-padded, labels not shifted.
        position_ids: (1, L) for examples that are laid end to end; each begins at 0 and sees no other.
        """
        if position_ids is not None:
            # flash attention looks for where they begin again in a single row only
            assert len(input_ids) == 1, tuple(input_ids.shape)
            # nothing predicts the first token of an example, least of all the end of the one before
            labels = labels.masked_fill(position_ids == 0, IGNORE_INDEX)
        hidden = self.lm.get_decoder()(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return linear_losses(
            hidden[:, :-1].reshape(-1, hidden.shape[-1]),
            self.lm.get_output_embeddings().weight,
            labels[:, 1:].reshape(-1),
            label_smoothing=self.label_smoothing,
            softcap=self.softcap,
            temperature=self.temperature,
            ignore_index=IGNORE_INDEX,
        )
