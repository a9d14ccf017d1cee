"""`make bench`: the smoothed loss with its gradients, beside the functions that users would call instead.

The contenders take turns for several rounds, so that a machine that slows down slows all of them; the result
is the ratio of the medians. The limit is the time of the three matrix products that every implementation
needs: the logits, and the gradients of hidden states and head. Memory is the peak of a separate process,
minus the inputs.

    python -m tests.bench.loss                            # the default shapes: ten minutes
    python -m tests.bench.loss all                        # all shapes: half an hour
    python -m tests.bench.loss 1024,640,262144,bf16       # one
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from training.loss import linear_cross_entropy

EPS = 0.1
ROUNDS = 3
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Shape: TypeAlias = tuple[int, int, int, str]
"""Tokens, hidden size, vocabulary, dtype."""
ALL_SHAPES: list[Shape] = [
    (1024, 640, 262_144, "bf16"),
    (2048, 640, 262_144, "bf16"),
    (1024, 2304, 256_000, "bf16"),
    (1024, 640, 262_144, "fp32"),
    (4096, 640, 262_144, "bf16"),
    (2048, 640, 262_144, "fp32"),
    (4096, 640, 262_144, "fp32"),
    (1024, 2304, 256_000, "fp32"),
]
DEFAULT_SHAPES = ALL_SHAPES[:4]
MOST_LOGITS_AT_ONCE = 2048 * 262_144
"""Above this, contenders that keep several copies of all logits need more memory than a laptop has."""


def ours(x: Tensor, w: Tensor, y: Tensor, eps: float = EPS) -> Tensor:
    loss, num_tokens = linear_cross_entropy(x, w, y, label_smoothing=eps)
    return loss / num_tokens


def ours_without_smoothing(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return ours(x, w, y, 0.0)


def torch_cross_entropy(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy((x @ w.T).float(), y, label_smoothing=EPS)


def hf_label_smoother(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    from transformers.trainer_pt_utils import LabelSmoother

    loss: Tensor = LabelSmoother(epsilon=EPS)({"logits": (x @ w.T)[None]}, y[None])
    return loss


@cache
def compiled() -> Any:
    return torch.compile(torch_cross_entropy)


def torch_compiled(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    loss: Tensor = compiled()(x, w, y)
    return loss


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "calsweep": ours,
    "calsweep, eps 0": ours_without_smoothing,
    "torch.compile(cross_entropy)": torch_compiled,
    "torch cross_entropy": torch_cross_entropy,
    "transformers LabelSmoother": hf_label_smoother,
}
KEEP_ALL_LOGITS = ("torch cross_entropy", "transformers LabelSmoother")


def inputs(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    rows, width, vocabulary, dtype = shape
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=random).to(DTYPES[dtype]).requires_grad_()
    w = (torch.randn(vocabulary, width, generator=random) / width**0.5).to(DTYPES[dtype]).requires_grad_()
    return x, w, torch.randint(vocabulary, (rows,), generator=random)


def step(name: str, x: Tensor, w: Tensor, y: Tensor) -> float:
    """CPU-seconds of one forward and backward pass."""
    x.grad = w.grad = None
    begin = time.process_time()
    CONTENDERS[name](x, w, y).backward()
    return time.process_time() - begin


@torch.no_grad()
def products(x: Tensor, w: Tensor, y: Tensor) -> float:
    """CPU-seconds of the three matrix products alone, into memory that is already allocated."""
    x.grad = w.grad = None
    z = torch.zeros(len(x), len(w), dtype=x.dtype).fill_(1e-3)
    grad_x, grad_w = torch.zeros_like(x).fill_(0), torch.zeros_like(w).fill_(0)
    begin = time.process_time()
    torch.mm(x, w.T, out=z)
    torch.mm(z, w, out=grad_x)
    torch.mm(z.T, x, out=grad_w)
    return time.process_time() - begin


def contenders(shape: Shape) -> list[str]:
    small = shape[0] * shape[2] <= MOST_LOGITS_AT_ONCE
    return [name for name in CONTENDERS if small or name not in KEEP_ALL_LOGITS]


def peak_mib(name: str, shape: Shape) -> float:
    """Peak memory of one step in a new process: with the gradients, without the inputs."""
    command = [sys.executable, "-m", "tests.bench.loss", "--peak", name, ",".join(map(str, shape))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(name: str, shape: Shape) -> float:
    step(name, *inputs((8, 8, 16, shape[3])))  # before measuring, as the first call allocates more
    tensors = inputs(shape)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that creating the inputs had
    before = peak_kib()
    step(name, *tensors)
    return (peak_kib() - before) / 1024


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def shape_of(text: str) -> Shape:
    tokens, width, vocabulary, dtype = text.split(",")
    return int(tokens), int(width), int(vocabulary), dtype


def measure(shape: Shape, table: Table) -> None:
    tensors, names = inputs(shape), contenders(shape)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    limits: list[float] = []
    for round_number in range(ROUNDS + 1):
        for name in names:
            if round_number != 1 and name in KEEP_ALL_LOGITS:
                continue  # slow, and far from the others
            spent = step(name, *tensors)
            if round_number:  # the first warms up
                seconds[name].append(spent)
        limit = products(*tensors)
        if round_number:
            limits.append(limit)
        print(f"  {shape}: round {round_number} of {ROUNDS}", file=sys.stderr)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    limit = statistics.median(limits)
    del tensors
    peaks = {name: peak_mib(name, shape) for name in names}
    for name in names:
        table.add_row(
            *(map(str, shape) if name == names[0] else [""] * len(shape)),
            name,
            f"{median[name]:.2f}",
            f"{median[name] / median['calsweep']:.2f}",
            f"{limit / median[name]:.0%}",
            f"{peaks[name]:.0f}",
            f"{peaks[name] / peaks['calsweep']:.2f}",
        )
    table.add_section()


def main(shapes: list[Shape]) -> None:
    torch.set_num_threads(1)
    title = (
        f"smoothed loss and gradients, eps {EPS}, 1 thread, median of {ROUNDS} rounds (uncompiled peers: one)"
    )
    table = Table(title=title)
    for column in ("tokens", "hidden", "vocabulary", "dtype", "contender"):
        table.add_column(column)
    for column in ("CPU-s", "to ours", "of the limit", "peak MiB", "to ours"):
        table.add_column(column, justify="right")
    for shape in shapes:
        measure(shape, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(measure_peak(sys.argv[2], shape_of(sys.argv[3])))
    else:
        named = [shape_of(text) for text in sys.argv[1:] if text != "all"]
        main(ALL_SHAPES if "all" in sys.argv[1:] else named or DEFAULT_SHAPES)
