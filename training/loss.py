"""Label-smoothed cross-entropy fused with the output head, in chunks of rows.

With q_y = 1 - eps + eps/V and q_j = eps/V elsewhere (torch, Hugging Face, Liger and the study's authors
agree), a row's loss and gradient are

    L = lse(z) - (1 - eps) z_y - (eps/V) sum_j z_j        dL/dz = softmax(z) - q

Logits exist for one chunk of rows at a time, and the gradients are computed at once: three matrix products
in all, none in the backward pass. Within a chunk, logits become gradients in place, in blocks of rows small
enough for the cache. Memory grows with V, not with tokens times V.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

LOGITS_PER_CHUNK = 2**26
LOGITS_PER_BLOCK = 2**20


class Losses(NamedTuple):
    """Sums over the target tokens of one batch, in nats.

    loss_sum: (), float32 (float64 for float64 input), the smoothed loss; differentiable in hidden and weight.
    nll_sum: (), the same dtype, the plain negative log-likelihood of the targets; no gradient.
    num_tokens: (), int64, rows with a target.
    """

    loss_sum: Tensor
    nll_sum: Tensor
    num_tokens: Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """`loss_sum` and `num_tokens` of `linear_losses`."""
    losses = linear_losses(
        hidden, weight, labels, label_smoothing=label_smoothing, softcap=softcap, ignore_index=ignore_index
    )
    return losses.loss_sum, losses.num_tokens


def linear_losses(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> Losses:
    """Sums over target tokens of the smoothed cross-entropy of `hidden @ weight.T` against `labels`.

    Args:
        hidden: (T, H), any floating dtype.
        weight: (V, H), the output head, same dtype.
        labels: (T,), int64, already shifted; `ignore_index` marks rows without a target.
        label_smoothing: eps in [0, 1).
        softcap: Gemma-2's cap c on logits, c tanh(a / c); None for none.
        temperature: what the logits, after any soft-cap, are divided by.
        ignore_index: the label of a row that does not count.

    Raises:
        ValueError: shapes that do not fit, or label_smoothing, softcap or temperature out of range.
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
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} is not positive")
    num_tokens = (labels != ignore_index).sum()
    if not hidden.is_cuda:
        # many rows are prompt: leave them out (on CUDA, counting them would wait for the device)
        rows = (labels != ignore_index).nonzero().squeeze(1)
        hidden, labels = hidden[rows], labels[rows]
    loss_sum, nll_sum = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, labels, label_smoothing, softcap, temperature, ignore_index
    )
    return Losses(loss_sum, nll_sum, num_tokens)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        label_smoothing: float,
        softcap: float | None,
        temperature: float,
        ignore_index: int,
    ) -> tuple[Tensor, Tensor]:
        vocabulary = weight.shape[0]
        # bf16 logits are turned to float32 before anything is summed over the vocabulary
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight: Tensor | None = None
        loss_sum, nll_sum = torch.zeros(2, dtype=wide, device=hidden.device).unbind()
        chunk, block = max(1, LOGITS_PER_CHUNK // vocabulary), max(1, LOGITS_PER_BLOCK // vocabulary)
        for x, y, rows in _chunks(hidden, labels, chunk):
            z = x @ weight.T
            for begin in range(0, len(y), block):
                part = slice(begin, begin + block)
                loss, nll = _to_gradient(
                    z[part], y[part], label_smoothing, softcap, temperature, ignore_index, wide
                )
                loss_sum = loss_sum + loss
                nll_sum = nll_sum + nll
            if grad_hidden is not None:
                torch.mm(z, weight, out=grad_hidden[rows])
            if needs_weight:
                product = z.T @ x
                # chunks are added up in float32; the only chunk of a small batch needs no second (V, H)
                grad_weight = product if grad_weight is None else grad_weight.to(wide).add_(product)
        if needs_weight:
            grad_weight = torch.zeros_like(weight) if grad_weight is None else grad_weight.to(weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(nll_sum)
        return loss_sum, nll_sum

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0]
        # not in place, which would save a copy of (V, H): a graph may be walked twice
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype),
            *[None] * 5,
        )


def _chunks(hidden: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, slice]]:
    for begin in range(0, len(labels), size):
        rows = slice(begin, begin + size)
        yield hidden[rows], labels[rows], rows


def _to_gradient(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float,
    softcap: float | None,
    temperature: float,
    ignore_index: int,
    wide: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Turn logits (R, V) in place into the gradient of their loss; returns the sums of loss and NLL."""
    vocabulary = logits.shape[1]
    is_target = labels != ignore_index
    target = torch.where(is_target, labels, 0)[:, None]
    z = logits.to(wide)  # the same tensor when it is wide already
    slope = None
    if softcap is not None:
        z = z.div_(softcap).tanh_()
        slope = 1 - z.square()
        z = z.mul_(softcap)
    if temperature != 1:
        z = z.div_(temperature)
    picked = z.gather(1, target).squeeze(1)
    mean = z.mean(dim=1) if label_smoothing else torch.zeros_like(picked)
    highest = z.amax(dim=1, keepdim=True)
    p = z.sub_(highest).exp_()
    total = p.sum(dim=1, keepdim=True)
    nll = (highest + total.log()).squeeze(1) - picked
    loss = nll + label_smoothing * (picked - mean)
    # rows without a target get a gradient of exactly 0, not a product of it with a large number
    keep = is_target[:, None].to(wide)
    grad = p.mul_(keep / total)
    if label_smoothing:
        grad.sub_(keep * (label_smoothing / vocabulary))
    grad.scatter_add_(1, target, keep * (label_smoothing - 1))
    if slope is not None:
        grad.mul_(slope)
    if temperature != 1:
        grad.div_(temperature)
    if grad.data_ptr() != logits.data_ptr():
        logits.copy_(grad)
    return torch.where(is_target, loss, 0).sum(), torch.where(is_target, nll, 0).sum()
