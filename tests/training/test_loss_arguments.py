"""What the fused loss refuses, in its own words, before torch does in others, or nobody."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from training.loss import Losses, linear_losses

V = 7


def losses(labels: list[int], dtype: torch.dtype = torch.int64, **options: Any) -> Losses:
    hidden, weight = torch.ones(len(labels), 4), torch.ones(V, 4)
    return linear_losses(hidden, weight, torch.tensor(labels).to(dtype), **options)


@pytest.mark.parametrize("name", ["softcap", "temperature"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0, 0.0])
def test_scales_of_logits_are_positive_numbers(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} {value} is not a positive number$"):
        losses([0, 1], torch.int64, **{name: value})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8, torch.int16])
def test_labels_are_integers(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"^labels {dtype} must be int64 or int32$"):
        losses([0, 1], dtype)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_labels_are_in_the_vocabulary(dtype: torch.dtype) -> None:
    """On a GPU nobody waits for them, and its kernels end the process."""
    for label in (V, -1, -101):
        with pytest.raises(ValueError, match=rf"^label {label} is not in \[0, {V}\)"):
            losses([0, label, V - 1, -100], dtype)
    assert losses([0, V - 1, -100], dtype).num_tokens == 2
    assert losses([V, 3], dtype, ignore_index=V).num_tokens == 1
    assert losses([-100], dtype).num_tokens == 0
