"""The certificate: proof that the installed stack computes the gradient that a training should follow.

A miniature of the model (its architecture with two narrow layers) goes through the same code as the training:
the fused loss, DeepSpeed at its ZeRO stage, its ranks, dtype and attention. Loss and gradient on eight
made-up examples are compared with a reference: plain torch in float64, each example alone, without the fused
loss, DeepSpeed or padding. The examples are laid out in every way that must not matter.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from modeling.loading import DTYPES
from study.errors import CalsweepError, JobError
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters
from training import scratch
from training.data.token_files import TokenDataset
from training.engine import dropout, zero
from training.engine.zero import World
from training.model import LossModel, require_attention
from training.step import accumulate

TOLERANCES = {"fp32": 1e-4, "bf16": 0.05}
"""Largest relative error of a parameter's gradient. In bf16, which keeps 8 bits, Llama's is 0.01."""
TIMES_PLAIN_TORCH = 2
"""A parameter may also be off by this many times the error of plain torch in the same dtype, 0.07 in OPT.

Each parameter has its own tolerance: a wrong loss shows next to the loss, where plain torch rounds least.
"""
MIN_SHARE = 1e-4
"""Parameters whose gradient is below this share of the total norm are skipped: rounding in the others
dominates them.
"""
NUM_EXAMPLES, MIN_LENGTH, MAX_LENGTH = 8, 5, 24
HEADS, HEAD_DIM, WINDOW, EXPERTS = 4, 16, 8, 4
MAX_VOCABULARY = 2**14
"""With Gemma-2's 256,000 tokens the float64 reference would take half a minute on one core."""
NO_STEP = 1e-30
"""A learning rate that changes no weight: the engine has to take a step between two layouts."""


@dataclass(frozen=True)
class Check:
    """One layout of the examples.

    loss_difference: relative. gradient_difference: relative, of the parameter that comes closest to its
    tolerance or exceeds it most; tolerance: of that parameter.
    """

    name: str
    num_ranks: int
    loss_difference: float
    gradient_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        # nan does not pass
        loss_tolerance = min(self.tolerance, max(TOLERANCES.values()))
        return self.loss_difference <= loss_tolerance and self.gradient_difference <= self.tolerance


def certify(
    config: PreTrainedConfig, hyper: Hyperparameters, resources: Resources, world: World
) -> list[Check]:
    """Compare each layout with the reference; every rank must call this, and all get the same.

    smoothing: every token is a target, no padding. masks: prompts without a loss, and padding. accumulation:
    as masks, one example at a time. packing: as masks, end to end, if `resources` request it. Ranks share the
    examples, so every layout also checks what happens between ranks.
    Raises JobError for an architecture that no miniature can be made of, or whose miniature does not run.
    """
    hyper = dataclasses.replace(hyper, dropout=None, learning_rate=NO_STEP, weight_decay=0.0)
    count = max(NUM_EXAMPLES, world.size)
    try:
        small = miniature(config)
        vocabulary = small.get_text_config().vocab_size
        plain, masked = (_examples(vocabulary, count, masked=masked) for masked in (False, True))
        with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
            with require_attention(resources.attention):
                lm = _built(small, resources.attention, DTYPES[hyper.dtype], world.device)
            plain_lm = _built(small, "eager", DTYPES[hyper.dtype], world.device)
        if hasattr(plain_lm, "set_experts_implementation"):
            plain_lm.set_experts_implementation("eager")  # grouped products have no float64
        references = {id(examples): _reference(plain_lm, examples, hyper) for examples in (plain, masked)}
    except (CalsweepError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # an architecture's own code may raise anything on a config it is not made for
        first_line = (str(error).splitlines() or [""])[0]
        raise JobError(
            f"a model of type {config.model_type} is not handled: a miniature of it, for the certificate of "
            f"the loss, ends with {type(error).__name__}: {first_line}"
        ) from error
    if resources.activation_checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    engine = zero.engine(LossModel(lm, hyper), hyper, resources, steps=1)
    engine.train()
    at_once = dataclasses.replace(resources, packing=False, micro_batch_size=count, micro_batch_tokens=10**6)
    layouts = [
        ("smoothing", plain, at_once),
        ("masks", masked, at_once),
        ("accumulation", masked, dataclasses.replace(at_once, micro_batch_size=1)),
        *([("packing", masked, dataclasses.replace(at_once, packing=True))] if resources.packing else []),
    ]
    checks = []
    for name, examples, layout in layouts:
        sums = accumulate(engine, examples, np.arange(count), 0, layout, world).losses
        dist.all_reduce(sums)
        loss_sum, _, num_tokens = sums.tolist()
        reference = references[id(examples)]
        loss_difference = abs(loss_sum / num_tokens / reference.loss - 1)
        worst = _worst(engine, reference, TOLERANCES[hyper.dtype])
        checks.append(Check(name, world.size, loss_difference, *worst))
        engine.step()
    engine.destroy()
    return checks


def to_dict(check: Check) -> dict[str, Any]:
    """A check as JSON values."""
    return {**dataclasses.asdict(check), "passed": check.passed}


def require(checks: Sequence[Check], where: str) -> None:
    """Raise JobError when a check failed."""
    for check in checks:
        if not check.passed:
            raise JobError(
                f"{where}: the certificate of the loss fails, '{check.name}' on {check.num_ranks} ranks: "
                f"loss off by {check.loss_difference:.1e}, gradient by {check.gradient_difference:.1e}, "
                f"tolerance {check.tolerance:g}; run calsweep doctor loss, and compare versions in env.json"
            )


def miniature(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with two narrow layers, one of each kind, and no dropout; soft-caps and ties unchanged."""
    small = copy.deepcopy(config)
    dropout.set_all(small, 0.0)
    text = small.get_text_config()
    text.vocab_size = min(text.vocab_size, MAX_VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)  # they may be outside the smaller vocabulary
    kinds = getattr(text, "layer_types", None)
    text.num_hidden_layers = 2
    if kinds:
        text.layer_types = (list(dict.fromkeys(kinds)) * 2)[:2]
    grouped = getattr(text, "num_key_value_heads", None) not in (None, text.num_attention_heads)
    text.hidden_size, text.intermediate_size, text.num_attention_heads = (
        HEADS * HEAD_DIM,
        2 * HEADS * HEAD_DIM,
        HEADS,
    )
    if hasattr(text, "num_key_value_heads"):
        text.num_key_value_heads = HEADS // 2 if grouped else HEADS
    if vars(text).get("head_dim") is not None:  # (Falcon computes it)
        text.head_dim = HEAD_DIM
    for name in ("ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size"):
        if vars(text).get(name) is not None:
            setattr(text, name, text.intermediate_size)
    if vars(text).get("num_experts_per_tok") is not None:
        # each token goes to all experts: between two that are equally good, bf16 might choose differently
        for name in ("num_local_experts", "num_experts", "num_experts_per_tok"):
            if name in vars(text):
                setattr(text, name, EXPERTS)
    if getattr(text, "query_pre_attn_scalar", None) is not None:
        text.query_pre_attn_scalar = HEAD_DIM
    if hasattr(text, "initializer_range"):
        text.initializer_range = 0.02  # sharper logits have larger errors in bf16, however they are computed
    if getattr(text, "sliding_window", None) is not None:
        text.sliding_window = WINDOW
    return small


def _built(
    config: PreTrainedConfig, attention: str, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    lm: nn.Module = scratch.build_from(config, seed=0, attention=attention)
    result: PreTrainedModel = lm.to(device, dtype)  # type: ignore[assignment]
    return result


def _examples(vocabulary: int, count: int, *, masked: bool) -> TokenDataset:
    """Random tokens; masked: with different lengths, and prompts without a loss."""
    random = np.random.default_rng(0)
    lengths = random.integers(MIN_LENGTH, MAX_LENGTH + 1, count) if masked else np.full(count, MAX_LENGTH)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    prompts = np.repeat(random.integers(1, MIN_LENGTH - 1, count), lengths) if masked else 0
    return TokenDataset(
        tokens=random.integers(0, vocabulary, offsets[-1], dtype=np.int32),
        is_target=position >= prompts,
        offsets=offsets,
        num_rows=count,
        num_excluded=0,
        num_dropped=0,
        num_truncated=0,
    )


class _Reference(NamedTuple):
    """loss: mean over target tokens. gradients: of the loss, float64, by parameter name. rounding: their
    relative error when plain torch computes them in the dtype of the training, by parameter name.
    """

    loss: float
    gradients: dict[str, Tensor]
    rounding: dict[str, float]


def _reference(lm: PreTrainedModel, examples: TokenDataset, hyper: Hyperparameters) -> _Reference:
    """What plain torch computes. lm: in the dtype of the training."""
    _, rounded = _plain_torch(lm, examples, hyper)
    wide: nn.Module = copy.deepcopy(lm).double()
    loss, exact = _plain_torch(wide, examples, hyper)  # type: ignore[arg-type]
    return _Reference(loss, exact, {name: _error(rounded[name], exact[name]) for name in exact})


def _plain_torch(
    lm: PreTrainedModel, examples: TokenDataset, hyper: Hyperparameters
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over target tokens, and its gradient by parameter name."""
    softcap = hyper.logit_softcap
    total, count = torch.zeros((), dtype=torch.float64, device=lm.device), 0
    for begin, end in itertools.pairwise(examples.offsets.tolist()):
        ids = torch.from_numpy(examples.tokens[begin:end]).long().to(lm.device)
        target = torch.from_numpy(examples.is_target[begin:end][1:]).to(lm.device)
        if softcap is None:
            logits = lm(input_ids=ids[None], use_cache=False).logits[0]
        else:
            hidden = lm.get_decoder()(input_ids=ids[None], use_cache=False).last_hidden_state[0]
            logits = softcap * torch.tanh(lm.get_output_embeddings()(hidden).double() / softcap)
        total = total + F.cross_entropy(
            logits[:-1][target].double() / hyper.logit_temperature,
            ids[1:][target],
            label_smoothing=hyper.label_smoothing,
            reduction="sum",
        )
        count += int(target.sum())
    lm.zero_grad()
    (total / count).backward()
    gradients = {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}
    return total.item() / count, gradients


def _error(gradient: Tensor, exact: Tensor) -> float:
    """Relative error; nan where the exact gradient is 0."""
    return float((gradient.to(exact) - exact).norm() / exact.norm())


def _worst(engine: Any, reference: _Reference, tolerance: float) -> tuple[float, float]:
    """Error and tolerance of the parameter whose error is the largest share of its tolerance.

    tolerance: the least one. Every rank must call this.
    """
    from deepspeed.utils import safe_get_full_grad

    total_norm = float(torch.cat([g.flatten() for g in reference.gradients.values()]).norm())
    errors = []
    for name, parameter in engine.module.lm.named_parameters():
        gradient = safe_get_full_grad(parameter)
        assert gradient is not None, name
        exact = reference.gradients[name]
        if float(exact.norm()) > MIN_SHARE * total_norm:
            own_tolerance = max(tolerance, TIMES_PLAIN_TORCH * reference.rounding[name])
            errors.append((_error(gradient, exact), own_tolerance))
    return max(errors, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0] / pair[1])
