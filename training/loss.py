"""Label-smoothed cross-entropy fused with the output head, in chunks of rows.

With q_y = 1 - eps + eps/V and q_j = eps/V elsewhere (torch, Hugging Face, Liger and the study's authors
agree), a row's loss and gradient are

    L = lse(z) - (1 - eps) z_y - (eps/V) sum_j z_j        dL/dz = softmax(z) - q

Logits of a chunk exist only while it is worked on, and its gradients are computed at once: three matrix
products in all, none in the backward pass. Memory grows with V, not with tokens times V.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOGITS_PER_CHUNK = 2**24


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Sum over target tokens of the smoothed cross-entropy of `hidden @ weight.T` against `labels`.

    Args:
        hidden: (T, H), any floating dtype.
        weight: (V, H), the output head, same dtype.
        labels: (T,), int64, already shifted; `ignore_index` marks rows without a target.
        label_smoothing: eps in [0, 1).
        softcap: Gemma-2's cap c on logits, z = c tanh(a / c); None for none.

    Returns:
        loss_sum: (), nats, float32 (float64 for float64 input), differentiable in hidden and weight.
        num_tokens: (), int64, rows with a target.

    Raises:
        ValueError: shapes that do not fit, or a label_smoothing or softcap out of range.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (T, H) and (V, H)"
        )
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} must be ({hidden.shape[0]},)")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap {softcap} is not positive")
    num_tokens = (labels != ignore_index).sum()
    if not hidden.is_cuda:
        # many rows are prompt: leave them out (on CUDA, counting them would wait for the device)
        rows = (labels != ignore_index).nonzero().squeeze(1)
        hidden, labels = hidden[rows], labels[rows]
    loss_sum: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, labels, label_smoothing, softcap, ignore_index
    )
    return loss_sum, num_tokens


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        label_smoothing: float,
        softcap: float | None,
        ignore_index: int,
    ) -> Tensor:
        num_rows, (vocabulary, _) = hidden.shape[0], weight.shape
        # bf16 logits are turned to float32 before anything is summed over the vocabulary
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        loss_sum = torch.zeros((), dtype=wide, device=hidden.device)
        chunk = max(1, LOGITS_PER_CHUNK // vocabulary)
        for start in range(0, num_rows, chunk):
            x, y = hidden[start : start + chunk], labels[start : start + chunk]
            is_target = y != ignore_index
            target = torch.where(is_target, y, 0)[:, None]
            z = (x @ weight.T).to(wide)
            if softcap is not None:
                z = z.div_(softcap).tanh_().mul_(softcap)
            lse = torch.logsumexp(z, dim=1)
            picked = z.gather(1, target).squeeze(1)
            loss = lse - (1 - label_smoothing) * picked - label_smoothing * z.mean(dim=1)
            loss_sum += torch.where(is_target, loss, 0).sum()
            if not (needs_hidden or needs_weight):
                continue
            slope = 1 - (z / softcap).square() if softcap is not None else None
            grad = z.sub_(lse[:, None]).exp_().sub_(label_smoothing / vocabulary)
            grad.scatter_add_(1, target, torch.full_like(target, label_smoothing - 1, dtype=wide))
            if slope is not None:
                grad *= slope
            grad *= is_target[:, None]
            narrow = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(narrow, weight, out=grad_hidden[start : start + chunk])
            if grad_weight is not None:
                grad_weight += narrow.T @ x
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return loss_sum

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype),
            None,
            None,
            None,
            None,
        )
