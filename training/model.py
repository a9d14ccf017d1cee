"""The model that a job trains: weights, tokenizer, and the loss fused with the output head."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from modeling.head import head_of, last_hidden_states
from modeling.loading import load_config, load_model, load_tokenizer, unreadable_model
from study.errors import JobError
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters, TrainSpec
from training import checks, scratch
from training.data.token_files import IGNORE_INDEX
from training.engine import dropout
from training.loss import Losses, linear_losses

logger = logging.getLogger(__name__)


def load(
    spec: TrainSpec, model_path: str, resources: Resources
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that a training starts from, on the host.

    model_path: a hub id, a folder or a GGUF file; empty for a model from scratch.
    Raises JobError when they cannot be loaded, or the model does not support a requested option.
    """
    config = config_of(spec, model_path)
    lm = _build(spec, model_path, config, resources)
    tokenizer = _tokenizer(spec, model_path)
    if spec.hyper.dropout is not None:
        checks.check_dropout(lm, spec.hyper.dropout)
    if resources.packing:
        checks.check_packing(lm)
    return lm, tokenizer


def config_of(spec: TrainSpec, model_path: str) -> PreTrainedConfig:
    """The config of the model that `load` loads. Raises JobError when it cannot be read."""
    if spec.scratch is not None:
        return scratch.config_for(spec.scratch, _tokenizer(spec, model_path))
    return load_config(model_path, _revision(spec))


def _tokenizer(spec: TrainSpec, model_path: str) -> PreTrainedTokenizerBase:
    if spec.scratch is None:
        return load_tokenizer(model_path, _revision(spec))
    from study.cldr.instructions import DEMO_SHARES
    from training.data.wordlevel import cldr_tokenizer

    return cldr_tokenizer(DEMO_SHARES)


def _revision(spec: TrainSpec) -> str | None:
    return spec.model.revision if spec.model.kind == "hub" else None


@contextlib.contextmanager
def require_attention(attention: str) -> Iterator[None]:
    """Raises JobError where a package is missing that this implementation of attention needs."""
    try:
        yield
    except ImportError as error:
        raise JobError(
            f"attention {attention} cannot be used here ({str(error).splitlines()[0]}): "
            "install what it needs, or write attention: sdpa"
        ) from error


def _build(
    spec: TrainSpec, model_path: str, config: PreTrainedConfig, resources: Resources
) -> PreTrainedModel:
    hyper, attention = spec.hyper, resources.attention
    with unreadable_model(model_path or spec.model.name), require_attention(attention):
        own_rates = None if hyper.dropout is None else dropout.override(config, hyper.dropout)
        _check_attention(config, hyper, resources)
        if spec.scratch is not None:
            lm = scratch.build_from(config, seed=hyper.seed, attention=attention)
        else:
            lm = load_model(model_path, _revision(spec), hyper.dtype, config=config, attention=attention)
        if resources.activation_checkpointing:
            lm.activation_checkpointing_enable({"use_reentrant": False})
    used = lm.config._attn_implementation
    if used != attention:
        logger.warning("%s has no %s attention, %s is used instead", type(lm).__name__, attention, used)
    if own_rates is not None:
        dropout.remember(lm, own_rates)
    return lm


def _check_attention(config: PreTrainedConfig, hyper: Hyperparameters, resources: Resources) -> None:
    """Refuse combinations that would fail in the first step. Raises JobError."""
    if resources.attention.startswith("flash") and hyper.dtype != "bf16":
        raise JobError(f"attention {resources.attention} has no fp32: write dtype: bf16, or attention: sdpa")
    if resources.attention == "flex_attention" and any(
        place.rate > 0 and "att" in place.name for place in dropout.places(config)
    ):
        raise JobError("attention flex_attention has no dropout: write dropout: 0, or attention: sdpa")


class LossModel(nn.Module):
    """A causal language model that returns its loss: DeepSpeed must see head and loss in one forward pass.

    Under ZeRO-3 the head's weight is whole only inside the engine's forward pass.
    Raises JobError for a head with a bias: the fused loss has no gradient for one.
    """

    def __init__(self, lm: PreTrainedModel, hyper: Hyperparameters) -> None:
        super().__init__()
        self.lm = lm
        self.label_smoothing = hyper.label_smoothing
        self.softcap = hyper.logit_softcap
        self.temperature = hyper.logit_temperature
        if head_of(lm).bias is not None:
            raise JobError(f"{type(lm).__name__} has a bias in its output head; that cannot be trained")

    def forward(self, input_ids: Tensor, labels: Tensor, position_ids: Tensor | None = None) -> Losses:
        """The losses of a micro-batch.

        input_ids, labels: (B, L), right-padded, labels not shifted.
        position_ids: (1, L) for packed examples; they begin at 0 with each example.
        """
        if position_ids is not None:
            # flash attention looks for the beginnings of packed examples in a single row only
            assert len(input_ids) == 1, tuple(input_ids.shape)
            # nothing predicts the first token of an example, least of all the example before it
            labels = labels.masked_fill(position_ids == 0, IGNORE_INDEX)
        hidden_BLH = last_hidden_states(
            self.lm, input_ids=input_ids, position_ids=position_ids, use_cache=False
        )
        head = head_of(self.lm)
        return linear_losses(
            hidden_BLH[:, :-1].reshape(-1, hidden_BLH.shape[-1]),
            head.weight,
            labels[:, 1:].reshape(-1),
            label_smoothing=self.label_smoothing,
            softcap=head.softcap if self.softcap is None else self.softcap,
            temperature=self.temperature,
            ignore_index=IGNORE_INDEX,
        )
