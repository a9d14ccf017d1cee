"""The gradient of an output head whose logits exist only for one chunk of rows at a time.

Shapes: T tokens, R rows of a chunk, H hidden size, V vocabulary, v a block of it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import torch
from torch import Tensor

VOCABULARY_PER_BLOCK, VOCABULARY_PER_KERNEL = 2**10, 2**15
"""Columns of one product: on a CPU, as many as stay in the cache; on a GPU, enough to be worth a kernel."""
BYTES_FREED_TOGETHER = 2**25
"""Freed in pieces of this size, memory is returned to the system by glibc."""
BYTES_MAPPED_AT_ONCE = 2**22
"""Matrices on a CPU from this size on are allocated with all of their pages: see `rows_apart`."""


class HeadGradient:
    """The head's gradient (V, H): p.T @ x summed over chunks, plus the targets' entries times their x.

    p: (R, V), gradient of a chunk's logits without the targets' entries. x: (R, H), its hidden states.
    Products are added up in float32, in blocks of the vocabulary that stay in the cache: in the result itself
    if it is float32, otherwise beside it. `finish` adds the last chunk's product, so that a batch of a single
    chunk needs no float32 (V, H).
    """

    def __init__(self, hidden: Tensor, labels: Tensor, vocabulary: int) -> None:
        # the weight is not kept: ZeRO-3 may have partitioned it again before `finish`
        self.hidden, self.labels, self.vocabulary = hidden, labels, vocabulary
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.block = VOCABULARY_PER_BLOCK if hidden.device.type == "cpu" else VOCABULARY_PER_KERNEL
        self.sums: list[Tensor] = []  # (v, H) each, last block first
        self.out: Tensor | None = None  # the result, if its dtype is `wide`
        self.at_target: list[Tensor] = []  # (R, 1) each
        self.waiting: tuple[Tensor, Tensor] | None = None

    def add(self, p: Tensor, rows: slice, at_target: Tensor) -> None:
        x = self.hidden[rows]
        self.at_target.append(at_target)
        if rows.stop >= len(self.hidden):
            self.waiting = p, x
        elif x.dtype == self.wide:
            self._add_to_result(p, x, None)
        else:
            self._add_to_sums(p, x)

    def finish(self, scale: Tensor) -> Tensor:
        """The gradient times scale. Call it once: sums are freed while the result fills."""
        if self.waiting is None:
            return self.hidden.new_zeros(self.vocabulary, self.hidden.shape[1])
        p, x = self.waiting
        added_up = self._add_to_result if x.dtype == self.wide else self._result_of_sums
        out = added_up(p, x, scale)
        del p, self.waiting
        # rows with the same target are summed before rounding; each of them then writes the same sum
        labels, order = self.labels.sort()
        group = (labels.diff(prepend=labels[:1]) != 0).cumsum(0)
        share = self.hidden * torch.cat(self.at_target).mul_(scale)
        share = torch.zeros_like(share).index_add_(0, group, share[order])[group]
        out[labels] = share.add_(out[labels]).to(out.dtype)
        return out

    def _add_to_result(self, p: Tensor, x: Tensor, scale: Tensor | None) -> Tensor:
        first = self.out is None
        out = self._new_result() if self.out is None else self.out
        if first and scale is not None:
            x = x * scale
        for part, columns in zip(out.split(self.block), p.split(self.block, dim=1), strict=True):
            if first:
                torch.mm(columns.T, x, out=part)
            else:
                part.addmm_(columns.T, x)
                if scale is not None:
                    part.mul_(scale)
        self.out = out
        return out

    def _add_to_sums(self, p: Tensor, x: Tensor) -> None:
        first = not self.sums
        if first:
            self.sums = self._room_for_sums()
        room = self._room_for_a_block()
        for total, product in zip(reversed(self.sums), self._products(p, x), strict=True):
            if first:
                total.copy_(product)
            else:  # adding the product directly, transposed and in another dtype, takes four times as long
                total.add_(room[: len(product)].copy_(product))

    def _result_of_sums(self, p: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        out = self._new_result()
        if not self.sums:
            x = x.to(self.wide).mul(scale).to(x.dtype)  # bf16 times a scale in bf16 would be off by 0.4%
        room = self._room_for_a_block()
        for part, product in zip(out.split(self.block), self._products(p, x), strict=True):
            if self.sums:
                product = room[: len(product)].copy_(product).add_(self.sums.pop()).mul_(scale)
            part.copy_(product)
        return out

    def _products(self, p: Tensor, x: Tensor) -> Iterator[Tensor]:
        """p.T @ x in blocks of the vocabulary, (v, H); each block overwrites the one before.

        Computed as (x.T @ p).T, which transposes the small operand and the result: on a CPU, p.T @ x in bf16
        would spend half of its time on transposing p.
        """
        x_across = x.T.contiguous()
        across = rows_apart(len(x_across), self.block, x)
        for columns in p.split(self.block, dim=1):
            yield torch.mm(x_across, columns, out=across[:, : columns.shape[1]]).T

    def _new_result(self) -> Tensor:
        return self.hidden.new_empty(self.vocabulary, self.hidden.shape[1])

    def _room_for_a_block(self) -> Tensor:
        return self.hidden.new_empty(self.block, self.hidden.shape[1], dtype=self.wide)

    def _room_for_sums(self) -> list[Tensor]:
        V, H = self.vocabulary, self.hidden.shape[1]
        together = -(-BYTES_FREED_TOGETHER // (self.block * H * self.wide.itemsize)) * self.block
        room: list[Tensor] = []
        for begin in range(0, V, together):
            room += self.hidden.new_empty(min(together, V - begin), H, dtype=self.wide).split(self.block)
        return room[::-1]


def rows_apart(rows: int, columns: int, like: Tensor) -> Tensor:
    """Uninitialised (rows, columns), with gaps between the rows.

    Rows that are a power of two apart, as vocabularies often are, compete for the same few cache lines.
    """
    stride = (columns // 64 + 1) * 64
    size = rows * stride * like.itemsize
    if like.device.type == "cpu" and size >= BYTES_MAPPED_AT_ONCE and hasattr(mmap, "MAP_POPULATE"):
        # a product touches pages in scattered order; faulting them in one by one takes as long as the product
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        flat = torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=like.dtype)
    else:
        flat = like.new_empty(rows * stride)
    matrix = flat.view(rows, stride)
    # oneDNN reads beyond the end of a row and multiplies by 0: a nan there would spread
    matrix[:, columns:].zero_()
    return matrix[:, :columns]
