"""The loss of a model against plain torch, and packed examples against the same ones on their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    masking_utils,
    modeling_flash_attention_utils,
)

from modeling.checks import check_head
from modeling.head import head_of
from study.errors import JobError
from study.jobs.specs import Hyperparameters
from training.checks import check_packing
from training.data.token_files import IGNORE_INDEX
from training.loss import Losses
from training.model import LossModel

WINDOW = 5
LENGTHS = (9, 1, 14, 7)  # most are longer than the window
ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPE: dict[str, Any] = {
    **ENDS, "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=WINDOW),
    "gemma2": lambda: Gemma2Config(
        **SHAPE, head_dim=8, sliding_window=WINDOW, attn_logit_softcapping=0.5, final_logit_softcapping=2.0
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE, head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
    ),
}


def make(name: str, *, attention: str = "eager", dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    torch.manual_seed(0)
    lm: Any = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention)
    return cast(PreTrainedModel, lm.to(dtype))


def examples() -> list[tuple[Tensor, Tensor]]:
    """(input_ids, labels), each (L,). The first token is a target, too, where nothing may predict it."""
    random = torch.Generator().manual_seed(0)
    actual = []
    for length in LENGTHS:
        input_ids = torch.randint(3, 97, (length,), generator=random)
        labels = input_ids.clone()
        labels[1 : length // 2] = IGNORE_INDEX
        actual.append((input_ids, labels))
    return actual


def packed() -> tuple[Tensor, Tensor, Tensor]:
    """Each (1, L): input_ids, labels, position_ids."""
    ids, labels = (torch.cat(parts)[None] for parts in zip(*examples(), strict=True))
    return ids, labels, torch.cat([torch.arange(length) for length in LENGTHS])[None]


def gradients(lm: PreTrainedModel, losses: list[Losses]) -> dict[str, Tensor]:
    lm.zero_grad()
    torch.stack([loss.loss_sum for loss in losses]).sum().backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


# against plain torch


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_plain_torchs_on_the_models_own_logits(name: str, softcap: float | None) -> None:
    lm = make(name)
    hyper = Hyperparameters(label_smoothing=0.1, logit_softcap=softcap, logit_temperature=0.7)
    longest = max(LENGTHS)
    input_ids, labels = (
        torch.stack([F.pad(row, (0, longest - len(row)), value=fill) for row in rows])
        for rows, fill in zip(zip(*examples(), strict=True), (0, IGNORE_INDEX), strict=True)
    )
    actual = LossModel(lm, hyper)(input_ids, labels)
    its_gradients = gradients(lm, [actual])

    own_cap, lm.config.final_logit_softcapping = getattr(lm.config, "final_logit_softcapping", None), None
    logits = lm(input_ids=input_ids).logits[:, :-1]
    cap = softcap or own_cap
    z = (cap * torch.tanh(logits / cap) if cap else logits) / 0.7
    targets = labels[:, 1:].flatten()
    loss = F.cross_entropy(z.flatten(0, 1), targets, label_smoothing=0.1, reduction="sum")
    nll = F.cross_entropy(z.flatten(0, 1), targets, reduction="sum")
    want = gradients(lm, [Losses(loss, nll, torch.tensor(0))])

    torch.testing.assert_close(actual.loss_sum, loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(actual.nll_sum, nll, rtol=1e-9, atol=0)
    assert actual.num_tokens == (targets != IGNORE_INDEX).sum()
    for key, gradient in want.items():
        torch.testing.assert_close(its_gradients[key], gradient, rtol=1e-6, atol=1e-9)


def test_frozen_parameters_get_no_gradient_and_leave_the_others_theirs() -> None:
    lm = make("llama")
    input_ids, labels, _ = packed()
    want = gradients(lm, [LossModel(lm, Hyperparameters())(input_ids, labels)])
    for name, parameter in lm.named_parameters():
        parameter.requires_grad = "mlp" in name
    lm.zero_grad(set_to_none=True)
    actual = gradients(lm, [LossModel(lm, Hyperparameters())(input_ids, labels)])
    assert actual.keys() == {name for name in want if "mlp" in name}
    for name, gradient in actual.items():
        assert torch.equal(gradient, want[name])


# packed


def separately(lm: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    model = LossModel(lm, Hyperparameters(label_smoothing=0.1))
    losses = [model(ids[None], labels[None]) for ids, labels in examples()]
    return torch.stack([loss.loss_sum for loss in losses]).sum(), gradients(lm, losses)


def assert_packed_is_separate(lm: PreTrainedModel) -> None:
    model = LossModel(lm, Hyperparameters(label_smoothing=0.1))
    want, its_gradients = separately(lm)
    input_ids, labels, position_ids = packed()
    actual = model(input_ids, labels, position_ids)
    # norms and rotations are in float32 in every dtype
    torch.testing.assert_close(actual.loss_sum, want, rtol=1e-6, atol=0)
    assert actual.num_tokens == sum((labels[1:] != IGNORE_INDEX).sum() for _, labels in examples())
    ours = gradients(lm, [actual])
    assert ours.keys() == its_gradients.keys()
    for name, gradient in its_gradients.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5 * largest)
    # and there was something to keep apart
    mixed = model(input_ids, labels.masked_fill(position_ids == 0, IGNORE_INDEX))
    assert not torch.allclose(mixed.loss_sum, want, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        (name, attention)
        for name in CONFIGS
        for attention in ("sdpa", "eager")
        if (name, attention) != ("gemma2", "sdpa")
    ],
)
def test_packed_examples_do_not_see_each_other(name: str, attention: str) -> None:
    assert_packed_is_separate(make(name, attention=attention))


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_the_window_counts_from_the_beginning_of_the_example(name: str) -> None:
    """The tests here would not notice a packed window that is as wide as everything."""
    narrow, wide = make(name), make(name)
    wide.config.sliding_window = 100
    assert not torch.allclose(separately(narrow)[0], separately(wide)[0], rtol=1e-4, atol=0)


def reference_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    softmax_scale: float, causal: bool, window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
    **_: Any,
) -> Tensor:  # fmt: skip
    """What flash-attn's `flash_attn_varlen_func` computes, by its documentation. (T, heads, size)."""
    assert causal
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    outputs = []
    for begin, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        queries, keys, values = (x[begin:end].transpose(0, 1) for x in (q, k, v))
        keys, values = (x.repeat_interleave(len(queries) // len(x), dim=0) for x in (keys, values))
        scores = queries @ keys.transpose(1, 2) * softmax_scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        back = torch.arange(end - begin)[:, None] - torch.arange(end - begin)[None]
        seen = (back >= 0) & ((back <= window_size[0]) if window_size[0] >= 0 else True)
        outputs.append(scores.masked_fill(~seen, float("-inf")).softmax(-1) @ values)
    return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_flash_attention_is_told_where_packed_examples_begin(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' side of it, with a stand-in for the kernel: there is none on a CPU."""
    lm = make(name)
    eager, _ = separately(lm)
    supported = partial(
        modeling_flash_attention_utils._process_flash_attention_kwargs,
        supports_mapping=defaultdict(lambda: False, window_size=True, softcap=True),
    )

    def whole(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        ends = torch.tensor([0, q.shape[1]])
        return reference_varlen(q[0], k[0], v[0], cu_seqlens_q=ends, cu_seqlens_k=ends, **options)[None]

    functions = ((whole, reference_varlen, None, None, None), (supported, None))
    monkeypatch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", lambda *_: functions)
    lm.config._attn_implementation = "flash_attention_2"
    torch.testing.assert_close(separately(lm)[0], eager, rtol=1e-6, atol=0)
    assert_packed_is_separate(lm)


def test_flex_attention_gets_the_mask_that_eager_attention_gets() -> None:
    """The mask alone: its kernel has no backward pass on a CPU."""
    masks: list[Any] = []
    for attention in ("eager", "flex_attention"):
        config = CONFIGS["mistral"]()
        config._attn_implementation = attention
        masks.append(
            masking_utils.create_sliding_window_causal_mask(
                config,
                inputs_embeds=torch.zeros(1, sum(LENGTHS), 4),
                attention_mask=None,
                past_key_values=None,
                position_ids=packed()[2],
            )
        )
    eager, flex = masks
    size = sum(LENGTHS)
    seen = create_mask(flex.mask_mod, 1, 1, size, size, device="cpu")
    assert torch.equal(seen, eager == 0)
    assert seen.sum() == sum(min(WINDOW, i + 1) for length in LENGTHS for i in range(length))


# what is refused


def model_of(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    lm: Any = AutoModelForCausalLM.from_config(config)
    return cast(PreTrainedModel, lm.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_known_architectures_pass_the_checks_in_any_state(name: str, dtype: torch.dtype) -> None:
    lm = make(name, dtype=dtype)
    lm.activation_checkpointing_enable()
    for training in (True, False):
        lm.train(training)
        check_head(lm, head_of(lm))
        check_packing(lm)
        assert lm.training == training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_that_are_changed_after_the_head_are_refused(dtype: torch.dtype) -> None:
    granite = model_of(GraniteConfig(**SHAPE, logits_scaling=8.0), dtype)
    with pytest.raises(JobError, match="GraniteForCausalLM changes its logits after the head"):
        check_head(granite, head_of(granite))


def test_a_head_with_a_bias_is_refused() -> None:
    """The fused loss would leave it out; it is zero at first, and no check on the logits would notice."""
    phi = model_of(PhiConfig(**SHAPE))
    check_head(phi, replace(head_of(phi), bias=None))
    with pytest.raises(JobError, match="PhiForCausalLM has a bias in its output head"):
        LossModel(phi, Hyperparameters())


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(**ENDS, vocab_size=97, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3),
        MambaConfig(**ENDS, vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4),
    ],
    ids=["ALiBi", "a state"],
)
def test_models_that_do_not_keep_packed_examples_apart_are_refused(config: PreTrainedConfig) -> None:
    with pytest.raises(JobError, match="does not keep packed examples apart: write packing: false"):
        check_packing(model_of(config))


def test_flash_attention_is_checked_where_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make("gemma2", dtype=torch.bfloat16)
    chosen = []

    def choose(attention: str) -> None:
        chosen.append(attention)
        lm.config._attn_implementation = attention

    monkeypatch.setattr(lm, "set_attn_implementation", choose)
    lm.config._attn_implementation = "flash_attention_2"
    check_head(lm, head_of(lm))
    check_packing(lm)
    assert chosen == ["eager", "flash_attention_2"] * 2
