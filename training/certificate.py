"""Proof, on the stack that is installed, that a run computes the gradient it should.

A miniature of the model (its architecture, two narrow layers) goes through what the run goes through: the
fused loss, DeepSpeed at the run's ZeRO stage, its ranks, dtype and attention. Its loss and gradient on eight
made-up examples are compared with the truth: plain torch in float64, each example alone, no fused loss, no
DeepSpeed, no padding. The examples are laid out in all the ways that must not matter.
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
"""Largest relative error of a parameter's gradient. bf16 keeps 8 bits: of Llama's, it leaves .01."""
TIMES_PLAIN_TORCH = 2
"""Where plain torch in that dtype is off by more (of some of OPT's, by .07): so many times its own error.

For each parameter by itself: a wrong loss shows in those that are next to it, which it rounds least.
"""
LEAST_SHARE = 1e-4
"""Of the whole gradient: a parameter with less of it is not looked at, its error is that of the others."""
NUM_EXAMPLES, MIN_LENGTH, MAX_LENGTH = 8, 5, 24
HEADS, HEAD_DIM, WINDOW, EXPERTS = 4, 16, 8, 4
MAX_VOCABULARY = 2**14
"""With the 256,000 of Gemma-2, float64 would take half a minute on one core."""
NO_STEP = 1e-30
"""A learning rate that moves no weight: between two layouts the engine must take its step."""


@dataclass(frozen=True)
class Check:
    """One way to lay out the examples. Differences are relative, of the loss and of the worst gradient.

    The worst is the one with the largest share of its parameter's tolerance, or furthest beyond it.
    """

    name: str
    num_ranks: int
    loss_difference: float
    gradient_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        # (nan is no pass)
        of_loss = min(self.tolerance, max(TOLERANCES.values()))
        return self.loss_difference <= of_loss and self.gradient_difference <= self.tolerance


def certify(
    config: PreTrainedConfig, hyper: Hyperparameters, resources: Resources, world: World
) -> list[Check]:
    """Compare each layout with the truth; every rank must call this, and all get the same.

    smoothing: every token is a target, no padding. masks: prompts without a loss, and padding. accumulation:
    the same, one example at a time. packing: the same end to end, where `resources` ask for it. What is laid
    out is shared by the ranks there are: with two or more, each is a check of theirs, too.
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
            reference = _built(small, "eager", DTYPES[hyper.dtype], world.device)
        if hasattr(reference, "set_experts_implementation"):
            reference.set_experts_implementation("eager")  # grouped products have no float64
        truths = {id(examples): _truth(reference, examples, hyper) for examples in (plain, masked)}
    except (CalsweepError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # anything: how an architecture's own code takes what it is not made for
        first_line = (str(error).splitlines() or [""])[0]
        raise JobError(
            f"a model of type {config.model_type} is not handled: a miniature of it, for the certificate of "
            f"the loss, ends with {type(error).__name__}: {first_line}"
        ) from error
    if resources.activation_checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    engine = zero.engine(LossModel(lm, hyper), hyper, resources, steps=1)
    engine.train()
    whole = dataclasses.replace(resources, packing=False, micro_batch_size=count, micro_batch_tokens=10**6)
    cases = [
        ("smoothing", plain, whole),
        ("masks", masked, whole),
        ("accumulation", masked, dataclasses.replace(whole, micro_batch_size=1)),
        *([("packing", masked, dataclasses.replace(whole, packing=True))] if resources.packing else []),
    ]
    found = []
    for name, examples, layout in cases:
        step = accumulate(engine, examples, np.arange(count), 0, layout, world)
        dist.all_reduce(step.sums)
        truth = truths[id(examples)]
        off = abs(float(step.sums[0] / step.sums[2]) / truth.loss - 1)
        found.append(Check(name, world.size, off, *_worst(engine, truth, TOLERANCES[hyper.dtype])))
        engine.step()
    engine.destroy()
    return found


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
    """The config with two narrow layers, one of each kind it has, and no dropout; caps and ties as ever."""
    small = copy.deepcopy(config)
    dropout.set_all(small, 0.0)
    text = small.get_text_config()
    text.vocab_size = min(text.vocab_size, MAX_VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)  # they may lie beyond it
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
        # each token to all: where two experts are as good, bf16 would take the other one, and be right
        for name in ("num_local_experts", "num_experts", "num_experts_per_tok"):
            if name in vars(text):
                setattr(text, name, EXPERTS)
    if getattr(text, "query_pre_attn_scalar", None) is not None:
        text.query_pre_attn_scalar = HEAD_DIM
    if hasattr(text, "initializer_range"):
        text.initializer_range = 0.02  # sharper logits are further off in bf16, whoever computes them
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
    """Made-up examples; masked: of different lengths, with prompts."""
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


class _Truth(NamedTuple):
    """loss: mean over target tokens. gradients: its own, float64, by name of the parameter. rounding: how far
    off they are, relatively, where plain torch computes them in the dtype of the run.
    """

    loss: float
    gradients: dict[str, Tensor]
    rounding: dict[str, float]


def _truth(lm: PreTrainedModel, examples: TokenDataset, hyper: Hyperparameters) -> _Truth:
    """What is to be found. lm: in the dtype of the run."""
    _, rounded = _plain_torch(lm, examples, hyper)
    wide: nn.Module = copy.deepcopy(lm).double()
    loss, gradients = _plain_torch(wide, examples, hyper)  # type: ignore[arg-type]
    return _Truth(loss, gradients, {name: _error(rounded[name], want) for name, want in gradients.items()})


def _plain_torch(
    lm: PreTrainedModel, examples: TokenDataset, hyper: Hyperparameters
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over target tokens, and its gradient by name of the parameter."""
    softcap = hyper.logit_softcap
    total, count = torch.zeros((), dtype=torch.float64, device=lm.device), 0
    for begin, end in itertools.pairwise(examples.offsets.tolist()):
        ids = torch.from_numpy(examples.tokens[begin:end]).long().to(lm.device)
        target = torch.from_numpy(examples.is_target[begin:end][1:]).to(lm.device)
        if softcap is None:
            logits = lm(input_ids=ids[None], use_cache=False).logits[0]  # capped as the architecture has it
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


def _error(found: Tensor, want: Tensor) -> float:
    """Relative; nan for a gradient that is 0."""
    return float((found.to(want) - want).norm() / want.norm())


def _worst(engine: Any, truth: _Truth, least_tolerance: float) -> tuple[float, float]:
    """The error of a parameter's gradient with the largest share of its tolerance, and that tolerance.

    Every rank must call this.
    """
    from deepspeed.utils import safe_get_full_grad

    least = LEAST_SHARE * float(torch.cat([g.flatten() for g in truth.gradients.values()]).norm())
    errors = []
    for name, parameter in engine.module.lm.named_parameters():
        found = safe_get_full_grad(parameter)
        assert found is not None, name
        if float(truth.gradients[name].norm()) > least:
            tolerance = max(least_tolerance, TIMES_PLAIN_TORCH * truth.rounding[name])
            errors.append((_error(found, truth.gradients[name]), tolerance))
    return max(errors, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0] / pair[1])
