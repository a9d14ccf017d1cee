"""The longest sequence that a model's config allows: transformers does not check it.

config: transformers' config of the text model (`get_text_config()`).
"""

from __future__ import annotations

from typing import Any

EXTENDED = ("linear", "yarn")
"""Kinds of RoPE scaling whose factor may multiply `max_position_embeddings` (Vicuna-16k, Qwen2.5)."""


def context_tokens(config: Any) -> int | None:
    """The longest sequence, in tokens; None without a limit (ALiBi, or no positions)."""
    limit: int | None = getattr(config, "max_position_embeddings", None)
    if limit is None or getattr(config, "alibi", False):
        return None
    factors = [
        rope.get("factor") or 1.0
        for rope in _ropes(config)
        if rope.get("rope_type") in EXTENDED and rope.get("original_max_position_embeddings", limit) == limit
    ]
    return int(limit * max(factors, default=1.0))


def one_embedding(config: Any) -> int | None:
    """The longest sequence, in tokens, that does not change the rotary embedding; None: any length.

    `longrope` has a second embedding for longer sequences, and uses it for all rows of a batch that has one.
    """
    changes: list[int] = [
        rope["original_max_position_embeddings"]
        for rope in _ropes(config)
        if rope.get("rope_type") == "longrope"
    ]
    return min(changes, default=None)


def _ropes(config: Any) -> list[dict[str, Any]]:
    """RoPE parameters: one set for all layers, or one per type of layer."""
    ropes = getattr(config, "rope_parameters", None) or {}
    return [ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))]
