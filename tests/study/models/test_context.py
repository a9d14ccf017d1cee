"""How long a sequence may be, by the configs of architectures as transformers makes them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BloomConfig, FalconConfig, Gemma2Config, LlamaConfig, Phi3Config, Qwen2Config

from study.models.context import context_tokens, one_embedding


def scaled(**rope: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **rope}}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        # Vicuna-16k: its config says 4096 and a factor
        (LlamaConfig(max_position_embeddings=4096, **scaled(rope_type="linear", factor=4.0)), 16384),
        # Qwen2.5, as its model card says how to go beyond 32768
        (
            Qwen2Config(
                max_position_embeddings=32768,
                **scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768),
            ),
            131072,
        ),
        # DeepSeek's kind: the factor is in the limit already
        (
            LlamaConfig(
                max_position_embeddings=16384,
                **scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=4096),
            ),
            16384,
        ),
        # Llama 3.1
        (
            LlamaConfig(
                max_position_embeddings=131072,
                **scaled(
                    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=8192,
                ),
            ),
            131072,
        ),
        # another embedding for each length beyond the limit: none of them is the model's own
        (LlamaConfig(max_position_embeddings=4096, **scaled(rope_type="dynamic", factor=4.0)), 4096),
        (FalconConfig(max_position_embeddings=2048, alibi=True), None),
        (FalconConfig(max_position_embeddings=2048), 2048),
        (BloomConfig(), None),
    ],
)  # fmt: skip
def test_the_context(config: Any, limit: int | None) -> None:
    assert context_tokens(config) == limit
    assert one_embedding(config) is None


def test_longrope_changes_its_embedding() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = Phi3Config(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=512,
        original_max_position_embeddings=64, **scaled(rope_type="longrope", **factors),
    )  # fmt: skip
    assert (context_tokens(config), one_embedding(config)) == (512, 64)


def test_where_embeddings_are_told_for_each_type_of_layer() -> None:
    config: Any = Gemma2Config()
    of_long = {"rope_type": "longrope", "original_max_position_embeddings": 32}
    config.rope_parameters = {"sliding_attention": {"rope_type": "default"}, "full_attention": of_long}
    assert one_embedding(config) == 32
