"""The shapes of models from scratch, as their config.json states them."""

from __future__ import annotations

from typing import Any

from study.jobs.specs import Scratch


def config_of(scratch: Scratch) -> dict[str, Any]:
    """The config of a model from scratch, without its vocabulary.

    It has the features of its architecture at every size: few key heads and a sliding window shorter than
    most texts (Mistral, every other layer of Gemma-2), a head_dim that does not follow from hidden_size, and
    both soft-caps (Gemma-2).
    """
    config: dict[str, Any] = {
        "model_type": scratch.architecture,
        "hidden_size": scratch.hidden_size,
        "intermediate_size": scratch.intermediate_size,
        "num_hidden_layers": scratch.num_layers,
        "num_attention_heads": scratch.num_heads,
        "max_position_embeddings": scratch.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": scratch.rope_theta},
        "initializer_range": scratch.initializer_range,
        "tie_word_embeddings": scratch.tie_word_embeddings,
    }
    if scratch.architecture == "llama":
        return config
    config["num_key_value_heads"] = (
        scratch.num_heads // 2 if scratch.num_heads % 2 == 0 else scratch.num_heads
    )
    config["sliding_window"] = max(2, scratch.max_position_embeddings // 16)
    if scratch.architecture == "gemma2":
        head_size = scratch.hidden_size // scratch.num_heads
        config["head_dim"] = 2 * head_size
        config["query_pre_attn_scalar"] = head_size
        config["attn_logit_softcapping"] = 50.0
        config["final_logit_softcapping"] = 30.0
    return config
