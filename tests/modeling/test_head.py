"""The output head: its logits are the model's own, and a wrong one is refused in every dtype."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PhiConfig, PreTrainedModel

from modeling import checks
from modeling.checks import check_head, probe_ids
from modeling.head import head_of, last_hidden_states
from modeling.loading import DTYPES
from study.errors import JobError

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "a soft-cap": Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=2.0),
    "a bias": PhiConfig(**SHAPE),
}


def make(name: str, dtype: str) -> PreTrainedModel:
    torch.manual_seed(0)
    lm: Any = AutoModelForCausalLM.from_config(CONFIGS[name])
    if name == "a bias":
        torch.nn.init.normal_(lm.lm_head.bias)
    return cast(PreTrainedModel, lm.eval().to(DTYPES[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_its_logits_are_the_models_own_with_room_to_spare(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make(name, dtype)
    head = head_of(lm)
    assert (head.softcap, head.bias is None) == (2.0 if name == "a soft-cap" else None, name != "a bias")
    half = {key: tolerance / 2 for key, tolerance in checks.HEAD_TOLERANCES.items()}
    monkeypatch.setattr(checks, "HEAD_TOLERANCES", half)
    check_head(lm, head)
    with torch.no_grad():
        input_ids = probe_ids(lm)
        own = lm(input_ids=input_ids).logits[0].float()
        hidden_TH = last_hidden_states(lm, input_ids=input_ids)[0]
        ours = head.cap_(head.project(hidden_TH).float())
    torch.testing.assert_close(ours, own, rtol=0, atol=2e-6 if dtype == "fp32" else 0.02)


@pytest.mark.parametrize("allow_nan", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("llama", {"softcap": 10.0}),
        ("a soft-cap", {"softcap": None}),
        ("a soft-cap", {"softcap": 2.2}),
        ("a bias", {"bias": None}),
        ("a bias", {"weight": torch.zeros(97, 32)}),
    ],
)
def test_a_wrong_head_is_refused(name: str, mistake: dict[str, Any], dtype: str, allow_nan: bool) -> None:
    lm = make(name, dtype)
    if "weight" in mistake:
        mistake = {"weight": mistake["weight"].to(lm.dtype)}
    with pytest.raises(JobError, match="changes its logits after the head"):
        check_head(lm, replace(head_of(lm), **mistake), allow_nan=allow_nan)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_is_refused_or_left_out(dtype: str) -> None:
    """Token 50 alone is broken: the row without it is still compared."""
    lm = make("llama", dtype)
    embeddings = lm.get_parameter("model.embed_tokens.weight")
    with torch.no_grad():
        embeddings[50] = float("nan")
    head = head_of(lm)
    check_head(lm, head, allow_nan=True)
    with pytest.raises(JobError, match="LlamaForCausalLM computes logits that are not finite: check its"):
        check_head(lm, head)
    with pytest.raises(JobError, match="changes its logits after the head"):
        check_head(lm, replace(head, softcap=1.0), allow_nan=True)
    nan = torch.full_like(head.weight, float("nan"))
    with pytest.raises(JobError, match="changes its logits after the head"):
        check_head(lm, replace(head, weight=nan), allow_nan=True)
    with torch.no_grad():
        embeddings[5] = float("nan")
    check_head(lm, head, allow_nan=True)  # no row is left to compare: scoring names the item with a nan


def test_a_head_that_is_not_linear_is_refused() -> None:
    lm = make("llama", "fp32")
    lm.set_output_embeddings(torch.nn.Sequential(lm.get_output_embeddings()))
    with pytest.raises(JobError, match="LlamaForCausalLM has no linear output head"):
        head_of(lm)
