"""How long a sequence a model takes, by its config: transformers checks none of it.

config: of the text model (`get_text_config()`), as transformers has it.
"""

from __future__ import annotations

from typing import Any

EXTENDED = ("linear", "yarn")
"""Kinds of RoPE scaling whose factor may come on top of `max_position_embeddings` (Vicuna-16k, Qwen2.5)."""


def context_tokens(config: Any) -> int | None:
    """The longest sequence, in tokens; None where there is no limit (ALiBi, or no positions)."""
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
    """The longest sequence, in tokens, without a change of the rotary embedding; None: any length.

    `longrope` has another one for longer sequences, and takes it for all rows of a batch with such a one.
    """
    changes: list[int] = [
        rope["original_max_position_embeddings"]
        for rope in _ropes(config)
        if rope.get("rope_type") == "longrope"
    ]
    return min(changes, default=None)


def _ropes(config: Any) -> list[dict[str, Any]]:
    """One for all layers, or one for each type of layer."""
    ropes = getattr(config, "rope_parameters", None) or {}
    return [ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))]
