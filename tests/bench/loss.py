"""`make bench`: the smoothed loss with its gradients against what users would call instead, side by side.

Each contender runs in turn, several rounds, so that a machine that slows down slows all of them; what counts
is the ratio of the medians. Memory is the peak of a process of its own above that of the inputs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from training.loss import linear_cross_entropy

EPS = 0.1
SHAPES = [(512, 640, 131_072, "bf16"), (512, 640, 131_072, "fp32"), (2048, 128, 4_500, "fp32")]
ROUNDS = 5
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def ours(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    loss, num_tokens = linear_cross_entropy(x, w, y, label_smoothing=EPS)
    return loss / num_tokens


def torch_cross_entropy(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy((x @ w.T).float(), y, label_smoothing=EPS)


def hf_label_smoother(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    from transformers.trainer_pt_utils import LabelSmoother

    loss: Tensor = LabelSmoother(epsilon=EPS)({"logits": (x @ w.T)[None]}, y[None])
    return loss


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "calsweep": ours,
    "torch cross_entropy": torch_cross_entropy,
    "transformers LabelSmoother": hf_label_smoother,
}


def inputs(rows: int, width: int, vocabulary: int, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
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


def peak_mib(name: str, shape: tuple[int, int, int, str]) -> float:
    """Peak memory of one step above the inputs, in a fresh process, the gradients included."""
    command = [sys.executable, "-m", "tests.bench.loss", name, *map(str, shape)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(name: str, shape: tuple[int, int, int, str]) -> float:
    step(name, *inputs(8, 8, 16, shape[3]))  # lazy start-up costs come before the mark
    tensors = inputs(*shape)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of making the inputs
    before = peak_kib()
    step(name, *tensors)
    return (peak_kib() - before) / 1024


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    torch.set_num_threads(1)
    console = Console(width=110)
    table = Table(title=f"smoothed loss and gradients, eps {EPS}, 1 thread, median of {ROUNDS} rounds")
    for column in ("tokens", "hidden", "vocabulary", "dtype", "", "CPU-seconds", "ratio to ours", "peak MiB"):
        table.add_column(column, justify="left" if column == "" else "right")
    for shape in SHAPES:
        tensors = inputs(*shape)
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for round_number in range(ROUNDS + 1):
            for name in CONTENDERS:
                spent = step(name, *tensors)
                if round_number:  # the first warms up
                    seconds[name].append(spent)
        base = statistics.median(seconds["calsweep"])
        for name in CONTENDERS:
            median = statistics.median(seconds[name])
            row = [f"{median:.3f}", f"{median / base:.2f}", f"{peak_mib(name, shape):.0f}"]
            table.add_row(*(map(str, shape)), name, *row)
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _, contender, t, h, v, kind = sys.argv
        print(measure_peak(contender, (int(t), int(h), int(v), kind)))
    else:
        main()
