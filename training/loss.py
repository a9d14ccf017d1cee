"""Label-smoothed cross-entropy fused with the output head, in chunks of rows.

With q_y = 1 - eps + eps/V and q_j = eps/V elsewhere (torch, Hugging Face, Liger and the study's authors
agree), a row's loss and gradient are

    L = lse(z) - (1 - eps) z_y - (eps/V) sum_j z_j        dL/dz = softmax(z) - q

Logits exist for one chunk of rows at a time and are overwritten by their gradient, in blocks that fit the
cache: three matrix products in all. Memory grows with V, not with tokens times V. The target's logit and its
gradient, the largest entry of dL/dz in a row, stay in float32: bf16 would round them most.

Shapes: T tokens, R rows of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.head_gradient import HeadGradient, rows_apart

BYTES_PER_CHUNK = 2**29
"""Logits of a chunk: 1,024 rows in bf16 with a vocabulary of 262,144. Fewer rows make slow products."""
LOGITS_PER_BLOCK, LOGITS_PER_KERNEL = 2**18, 2**26
"""Logits that elementwise work handles at a time: on a CPU, as many as stay in the cache; on a GPU, enough to
be worth a kernel.
"""


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
        labels: (T,), int64 or int32, already shifted; `ignore_index` marks rows without a target.
        label_smoothing: eps in [0, 1).
        softcap: Gemma-2's cap c on logits, c tanh(a / c), finite; None for none.
        temperature: what the logits, after any soft-cap, are divided by; finite.
        ignore_index: the label of a row that does not count.

    Raises:
        ValueError: shapes or dtypes that do not fit, or label_smoothing, softcap or temperature out of range;
            on a CPU, a label outside [0, V). Checking on a GPU would mean waiting for it; there the kernel
            aborts the process.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (T, H) and (V, H)"
        )
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden {hidden.dtype} and weight {weight.dtype} must be of one dtype")
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} must be ({hidden.shape[0]},)")
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels {labels.dtype} must be int64 or int32")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
    for name, value in (("softcap", softcap), ("temperature", temperature)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} {value} is not a positive number")
    is_target = labels != ignore_index
    num_tokens = is_target.sum()
    if _sync_is_free(hidden.device):  # leave out rows without a target: in prompts that is most of them
        rows = is_target.nonzero().squeeze(1)
        hidden, labels, is_target = hidden[rows], labels[rows], is_target[rows]
        unknown = labels[(labels < 0) | (labels >= len(weight))]
        if len(unknown):
            raise ValueError(f"label {int(unknown[0])} is not in [0, {len(weight)}), nor is it ignore_index")
    else:  # keep them, as rows of 0 whose label is 0 (`where` gives them no gradient)
        hidden, labels = hidden.where(is_target[:, None], 0), labels.where(is_target, 0)
    gradients = torch.is_grad_enabled()  # inside the autograd function it is always off
    options = _Options(
        label_smoothing,
        softcap,
        temperature,
        needs_hidden=gradients and hidden.requires_grad,
        needs_weight=gradients and weight.requires_grad,
    )
    loss_sum, nll_sum = _LinearCrossEntropy.apply(hidden, weight, labels, is_target, options)  # type: ignore[no-untyped-call]
    return Losses(loss_sum, nll_sum, num_tokens)


def _sync_is_free(device: torch.device) -> bool:
    """Whether reading a value of a tensor does not have to wait for queued kernels."""
    return device.type == "cpu"


class _Options(NamedTuple):
    """What to compute; each gradient only if it is needed."""

    label_smoothing: float
    softcap: float | None
    temperature: float
    needs_hidden: bool
    needs_weight: bool


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are computed together with the loss, except for the last chunk's share of the head's.

    That share waits for the factor from backward, so that scaling needs no separate pass over (V, H).
    The caller owns what backward returns: nothing is kept, and a second backward computes it again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, is_target: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        loss_sum, nll_sum, ctx.gradients = _losses_and_gradients(hidden, weight, labels, is_target, options)
        ctx.options = options
        ctx.save_for_backward(hidden, weight, labels, is_target)
        ctx.mark_non_differentiable(nll_sum)
        return loss_sum, nll_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, is_target = ctx.saved_tensors  # raises if freed, or changed since
        if ctx.gradients is None:
            *_, ctx.gradients = _losses_and_gradients(hidden, weight, labels, is_target, ctx.options)
        grad_hidden, head = ctx.gradients
        ctx.gradients = None
        scale = grad_outputs[0] / ctx.options.temperature
        return (
            None if grad_hidden is None else grad_hidden.mul_(scale).to(hidden.dtype),
            None if head is None else head.finish(scale),
            None,
            None,
            None,
        )


def _losses_and_gradients(
    hidden: Tensor, weight: Tensor, labels: Tensor, is_target: Tensor, options: _Options
) -> tuple[Tensor, Tensor, tuple[Tensor | None, HeadGradient | None]]:
    """Sums of loss and NLL, and both gradients before the factor from backward and the temperature."""
    (T, H), V = hidden.shape, weight.shape[0]
    wide = torch.promote_types(hidden.dtype, torch.float32)
    loss_sum, nll_sum = hidden.new_zeros(2, dtype=wide).unbind()
    grad_hidden = hidden.new_empty(T, H, dtype=wide) if options.needs_hidden else None
    head = HeadGradient(hidden, labels, V) if options.needs_weight else None
    num_chunks = max(1, -(-T * V * hidden.itemsize // BYTES_PER_CHUNK))
    size = max(1, -(-T // num_chunks))  # equal chunks: few rows make slow products
    buffer = rows_apart(size, V, hidden)
    for begin in range(0, T, size):
        rows = slice(begin, begin + size)
        hidden_RH, target_R1 = hidden[rows], labels[rows, None]
        target_weight_RH = weight[labels[rows]].to(wide)
        # with `out`, autocast does not apply
        logits_RV = torch.mm(hidden_RH, weight.T, out=buffer[: len(hidden_RH)])
        target_logit_R1 = (hidden_RH * target_weight_RH).sum(1, keepdim=True)
        loss, nll, at_target_R1 = _to_gradient(logits_RV, target_R1, target_logit_R1, options)
        loss_sum = loss_sum + loss.where(is_target[rows], 0).sum()
        nll_sum = nll_sum + nll.where(is_target[rows], 0).sum()
        if grad_hidden is not None:
            product_RH = torch.mm(logits_RV, weight, out=torch.empty_like(hidden_RH))
            grad_hidden[rows] = target_weight_RH.mul_(at_target_R1).add_(product_RH)
        if head is not None:
            head.add(logits_RV, rows, at_target_R1)
    return loss_sum, nll_sum, (grad_hidden, head)


def _to_gradient(
    logits: Tensor, target: Tensor, target_logit: Tensor, options: _Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Overwrite logits (R, V) with their gradient; the targets' entries become 0.

    Args:
        logits: (R, V), before soft-cap and temperature.
        target: (R, 1), the column of each row's target.
        target_logit: (R, 1), float32, replaces the rounded one.
        options: what to compute.

    Returns:
        Loss (R,), NLL (R,), and the gradient's entries at the targets (R, 1), all float32.
    """
    (R, V), wide = logits.shape, target_logit.dtype
    eps, cap = options.label_smoothing, options.softcap
    slope = None
    if cap is not None:
        capped = torch.tanh(target_logit / cap)
        slope, target_logit = 1 - capped.square(), capped * cap
    target_logit = target_logit / options.temperature
    highest, total, mean = (torch.zeros_like(target_logit) for _ in range(3))

    # a block of float32 logits stays in the cache through all of the loop's body
    size = min(R, max(1, (LOGITS_PER_BLOCK if logits.device.type == "cpu" else LOGITS_PER_KERNEL) // V))
    room = logits if logits.dtype == wide else logits.new_empty(size, V, dtype=wide)
    room_for_slope = logits.new_empty(size, V, dtype=wide) if cap is not None else None
    by_row = (logits, target, target_logit, highest, total, mean)
    for out, y, z_y, top, norm, middle in zip(*(t.split(size) for t in by_row), strict=True):
        z = out if room is logits else room[: len(out)].copy_(out)
        if cap is not None and room_for_slope is not None:
            t = torch.tanh(z.div_(cap), out=room_for_slope[: len(out)])
            torch.mul(t, cap / options.temperature, out=z)
        elif options.temperature != 1:
            z.div_(options.temperature)
        z.scatter_(1, y, z_y)
        if eps:
            torch.mean(z, 1, keepdim=True, out=middle)
        torch.amax(z, 1, keepdim=True, out=top)
        z.sub_(top).exp_()
        torch.sum(z, 1, keepdim=True, out=norm)
        if not (options.needs_hidden or options.needs_weight):
            continue
        z.mul_(norm.reciprocal())
        if eps:
            z.sub_(eps / V)
        if cap is not None:
            z.addcmul_(z, t.square_(), value=-1)  # times 1 - tanh^2
        z.scatter_(1, y, 0)
        if z is not out:
            out.copy_(z)
    at_target = (target_logit - highest).exp_() / total - (1 - eps + eps / V)
    if slope is not None:
        at_target *= slope
    nll = (highest - target_logit) + total.log()
    return (nll + eps * (target_logit - mean)).squeeze(1), nll.squeeze(1), at_target
