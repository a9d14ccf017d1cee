"""Label-smoothed cross-entropy fused with the output head, in chunks of rows.

With q_y = 1 - eps + eps/V and q_j = eps/V elsewhere (torch, Hugging Face, Liger and the study's authors
agree), a row's loss and gradient are

    L = lse(z) - (1 - eps) z_y - (eps/V) sum_j z_j        dL/dz = softmax(z) - q

Logits exist for one chunk of rows at a time and become their own gradients, in blocks that fit the cache:
three matrix products in all. Memory grows with V, not with tokens times V.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BYTES_PER_CHUNK = 2**29  # of logits
# On CPU a block is what stays in the cache; elsewhere, what a kernel is worth starting for.
LOGITS_PER_BLOCK, LOGITS_PER_KERNEL = 2**18, 2**26
VOCABULARY_PER_BLOCK, VOCABULARY_PER_KERNEL = 2**10, 2**15
BYTES_FREED_TOGETHER = 2**26  # enough for the allocator to give them back to the system
BYTES_WORTH_ASKING = 2**22


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
        ValueError: shapes or dtypes that do not fit, or label_smoothing, softcap or temperature out of range.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (T, H) and (V, H)"
        )
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden {hidden.dtype} and weight {weight.dtype} must be of one dtype")
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} must be ({hidden.shape[0]},)")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap {softcap} is not positive")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} is not positive")
    is_target = labels != ignore_index
    num_tokens = is_target.sum()
    if _may_wait(hidden.device):  # many rows are prompt: leave them out
        rows = is_target.nonzero().squeeze(1)
        hidden, labels, is_target = hidden[rows], labels[rows], is_target[rows]
    else:  # they stay, as rows of 0 whose label is 0
        hidden, labels = hidden.where(is_target[:, None], 0), labels.where(is_target, 0)
    gradients = torch.is_grad_enabled()  # within the function below it never is
    job = _Job(
        label_smoothing,
        softcap,
        temperature,
        needs_hidden=gradients and hidden.requires_grad,
        needs_weight=gradients and weight.requires_grad,
    )
    loss_sum, nll_sum = _LinearCrossEntropy.apply(hidden, weight, labels, is_target, job)  # type: ignore[no-untyped-call]
    return Losses(loss_sum, nll_sum, num_tokens)


def _may_wait(device: torch.device) -> bool:
    """Whether asking how many rows have a target is free: other devices would have to finish their work."""
    return device.type == "cpu"


class _Job(NamedTuple):
    """What to compute; each gradient only where someone asks for it."""

    label_smoothing: float
    softcap: float | None
    temperature: float
    needs_hidden: bool
    needs_weight: bool


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are computed beside the loss, but for the last chunk's share of the head's.

    That share waits for the factor that backward brings, which then costs no pass of its own over (V, H).
    What backward returns is its caller's: nothing of it is kept, and a second walk computes it anew.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, is_target: Tensor, job: _Job
    ) -> tuple[Tensor, Tensor]:
        loss_sum, nll_sum, ctx.gradients = _losses_and_gradients(hidden, weight, labels, is_target, job)
        ctx.job = job
        ctx.save_for_backward(hidden, weight, labels, is_target)
        ctx.mark_non_differentiable(nll_sum)
        return loss_sum, nll_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs: tuple[Tensor, Tensor, Tensor, Tensor] = (
            ctx.saved_tensors
        )  # raises when the graph was freed, or an input changed
        if ctx.gradients is None:
            *_, ctx.gradients = _losses_and_gradients(*inputs, ctx.job)
        grad_hidden, head = ctx.gradients
        ctx.gradients = None
        scale = grad_outputs[0] / ctx.job.temperature
        return (
            None if grad_hidden is None else grad_hidden.mul_(scale).to(inputs[0].dtype),
            None if head is None else head.finish(scale),
            None,
            None,
            None,
        )


def _losses_and_gradients(
    hidden: Tensor, weight: Tensor, labels: Tensor, is_target: Tensor, job: _Job
) -> tuple[Tensor, Tensor, tuple[Tensor | None, _HeadGradient | None]]:
    """Sums of loss and NLL, and the gradients, each short of its factor and of 1 / temperature.

    dL/dz has one large entry a row, the target's, and many small ones. The target's logit and what follows
    from it stay in float32, so that their share of loss and gradients is not rounded to bf16 on the way.
    """
    (T, H), V = hidden.shape, weight.shape[0]
    wide = torch.promote_types(hidden.dtype, torch.float32)
    loss_sum, nll_sum = hidden.new_zeros(2, dtype=wide).unbind()
    grad_hidden = hidden.new_empty(T, H, dtype=wide) if job.needs_hidden else None
    head = _HeadGradient(hidden, weight, labels) if job.needs_weight else None
    num_chunks = max(1, -(-T * V * hidden.itemsize // BYTES_PER_CHUNK))
    size = max(1, -(-T // num_chunks))  # equal chunks: few rows make slow products
    buffer = _rows_apart(size, V, hidden)
    for begin in range(0, T, size):
        rows = slice(begin, begin + size)
        x, target = hidden[rows], labels[rows, None]
        target_weight = weight[labels[rows]].to(wide)
        logits = torch.mm(x, weight.T, out=buffer[: len(x)])
        loss, nll, at_target = _to_gradient(logits, target, (x * target_weight).sum(1, keepdim=True), job)
        loss_sum = loss_sum + loss.where(is_target[rows], 0).sum()
        nll_sum = nll_sum + nll.where(is_target[rows], 0).sum()
        if grad_hidden is not None:
            grad_hidden[rows] = target_weight.mul_(at_target).add_(logits @ weight)
        if head is not None:
            head.add(logits, rows, at_target)
    if grad_hidden is not None:
        grad_hidden.masked_fill_(~is_target[:, None], 0)
    return loss_sum, nll_sum, (grad_hidden, head)


def _to_gradient(
    logits: Tensor, target: Tensor, target_logit: Tensor, job: _Job
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn logits (R, V) in place into their gradient, but for the targets' entries, which become 0.

    Args:
        logits: (R, V), before soft-cap and temperature.
        target: (R, 1), the column of each row's target.
        target_logit: (R, 1), float32, put in the place of the rounded one.
        job: what to compute.

    Returns:
        Loss (R,), NLL (R,), and the gradient's entries at the targets, (R, 1), all float32.
    """
    (R, V), wide = logits.shape, target_logit.dtype
    eps, cap = job.label_smoothing, job.softcap
    slope = None
    if cap is not None:
        capped = torch.tanh(target_logit / cap)
        slope, target_logit = 1 - capped.square(), capped * cap
    target_logit = target_logit / job.temperature
    highest, total, mean = (torch.zeros_like(target_logit) for _ in range(3))

    # a block of logits in float32 stays in the cache for all that is done to it
    size = min(R, max(1, (LOGITS_PER_BLOCK if logits.device.type == "cpu" else LOGITS_PER_KERNEL) // V))
    room = logits.new_empty(size, V, dtype=wide)
    room_for_slope = logits.new_empty(size, V, dtype=wide) if cap is not None else None
    of_rows = (logits, target, target_logit, highest, total, mean)
    for out, y, z_y, top, norm, middle in zip(*(t.split(size) for t in of_rows), strict=True):
        z = out if out.dtype == wide else room[: len(out)].copy_(out)
        if room_for_slope is not None and cap is not None:
            t = torch.tanh(z.div_(cap), out=room_for_slope[: len(out)])
            torch.mul(t, cap / job.temperature, out=z)
        elif job.temperature != 1:
            z.div_(job.temperature)
        z.scatter_(1, y, z_y)
        if eps:
            torch.mean(z, 1, keepdim=True, out=middle)
        torch.amax(z, 1, keepdim=True, out=top)
        z.sub_(top).exp_()
        torch.sum(z, 1, keepdim=True, out=norm)
        if not (job.needs_hidden or job.needs_weight):
            continue
        z.mul_(norm.reciprocal())
        if eps:
            z.sub_(eps / V)
        if room_for_slope is not None:
            z.addcmul_(z, t.square_(), value=-1)  # times 1 - tanh^2
        z.scatter_(1, y, 0)
        if z is not out:
            out.copy_(z)
    at_target = (target_logit - highest).exp_() / total - (1 - eps + eps / V)
    if slope is not None:
        at_target *= slope
    nll = (highest - target_logit) + total.log()
    return (nll + eps * (target_logit - mean)).squeeze(1), nll.squeeze(1), at_target


class _HeadGradient:
    """The head's gradient (V, H): the sum over chunks of p.T @ x, and of the targets' entries times their x.

    Products are added up in float32, by blocks of the vocabulary that stay in the cache. The last chunk's is
    made by `finish`, so that the only chunk of a small batch needs no float32 (V, H).
    """

    def __init__(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
        self.hidden, self.weight, self.labels = hidden, weight, labels
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.block = VOCABULARY_PER_BLOCK if hidden.device.type == "cpu" else VOCABULARY_PER_KERNEL
        self.sums: list[Tensor] = []  # (v, H) each, the first block's last
        self.at_target: list[Tensor] = []  # (R, 1) each
        self.waiting: tuple[Tensor, Tensor] | None = None

    def add(self, p: Tensor, rows: slice, at_target: Tensor) -> None:
        x = self.hidden[rows]
        self.at_target.append(at_target)
        if rows.stop >= len(self.hidden):
            self.waiting = p, x
            return
        first = not self.sums
        if first:
            self.sums = self._room_for_sums()
        for total, product in zip(reversed(self.sums), self._products(p, x), strict=True):
            total.copy_(product) if first else total.add_(product)

    def finish(self, scale: Tensor) -> Tensor:
        """The gradient times scale, to be called once: sums are freed on the way, as the result fills."""
        if self.waiting is None:
            return torch.zeros_like(self.weight)
        out = torch.empty_like(self.weight)
        p, x = self.waiting
        if not self.sums:
            x = x.to(self.wide).mul(scale).to(x.dtype)  # bf16 times a scale in bf16 would be off by 0.4%
        room = out.new_empty(self.block, out.shape[1], dtype=self.wide)
        for part, product in zip(out.split(self.block), self._products(p, x), strict=True):
            if self.sums:
                product = room[: len(product)].copy_(product).add_(self.sums.pop()).mul_(scale)
            part.copy_(product)
        del p, self.waiting
        # rows of one target are summed up before the sum is rounded; each of them then writes that same sum
        labels, order = self.labels.sort()
        group = (labels.diff(prepend=labels[:1]) != 0).cumsum(0)
        share = self.hidden * torch.cat(self.at_target).mul_(scale)
        share = torch.zeros_like(share).index_add_(0, group, share[order])[group]
        out[labels] = share.add_(out[labels]).to(out.dtype)
        return out

    def _products(self, p: Tensor, x: Tensor) -> Iterator[Tensor]:
        """p.T @ x by blocks of the vocabulary, (v, H), each of which overwrites the one before.

        As (x.T @ p).T, which transposes the small operand and the result: p is read as it lies. On CPU
        p.T @ x spends half its time on transposing p.
        """
        x_across = x.T.contiguous()
        across = _rows_apart(len(x_across), self.block, x)
        for columns in p.split(self.block, dim=1):
            yield torch.mm(x_across, columns, out=across[:, : columns.shape[1]]).T

    def _room_for_sums(self) -> list[Tensor]:
        V, H = self.weight.shape
        together = max(1, BYTES_FREED_TOGETHER // (self.block * H * self.wide.itemsize)) * self.block
        room: list[Tensor] = []
        for begin in range(0, V, together):
            room += self.weight.new_empty(min(together, V - begin), H, dtype=self.wide).split(self.block)
        return room[::-1]


def _rows_apart(rows: int, columns: int, like: Tensor) -> Tensor:
    """Uninitialised (rows, columns), with gaps between the rows.

    Rows a power of two apart, as vocabularies often are, compete for the same few places in the cache.
    """
    stride = (columns // 64 + 1) * 64
    size = rows * stride * like.itemsize
    if like.device.type == "cpu" and size >= BYTES_WORTH_ASKING and hasattr(mmap, "MAP_POPULATE"):
        # a product writes here and there: to be given pages one by one, as it goes, takes as long as itself
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        flat = torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=like.dtype)
    else:
        flat = like.new_empty(rows * stride)
    matrix = flat.view(rows, stride)
    # oneDNN reads beyond a row's end and multiplies what it finds by 0: nan, if that is nan
    matrix[:, columns:].zero_()
    return matrix[:, :columns]
