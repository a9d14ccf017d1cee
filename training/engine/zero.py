"""DeepSpeed ZeRO without its launcher: the process group comes from submitit's task environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters

MIN_PORT, MAX_PORT = 20_000, 32_000
"""Below the ports that Linux gives to outgoing connections, any of which may be taken at any moment."""

TIMEOUT = timedelta(minutes=30)
"""How long the other ranks wait while rank 0 writes a large model; NCCL's ten minutes can be too short."""


@dataclass(frozen=True)
class World:
    """This process among the ranks of its task, and its device."""

    rank: int
    size: int
    device: torch.device


def join() -> World:
    """Join the process group of this task, NCCL with CUDA and gloo without; call once, before `engine`."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # deepspeed reads LOCAL_RANK and DS_ACCELERATOR when it is imported
    rank, size, local_rank = _place()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank))
    import deepspeed

    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cpu":
        # it would be compiled at first use, which takes a minute and a compiler, and only inference needs it
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        torch.cuda.set_device(device)
    if size == 1:
        # no port, no network
        dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, init_method="env://", rank=rank, world_size=size, timeout=TIMEOUT)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    return World(rank, size, device)


def leave() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _place() -> tuple[int, int, int]:
    """(rank, size, local rank) from submitit's environment; sets MASTER_ADDR and MASTER_PORT."""
    import random

    from submitit import JobEnvironment

    if "SUBMITIT_EXECUTOR" not in os.environ:
        return 0, 1, 0  # called directly, not by submitit
    env = JobEnvironment()
    # one node: the loopback address, whatever the host's name resolves to
    os.environ["MASTER_ADDR"] = "127.0.0.1" if env.num_nodes == 1 else env.hostnames[0]
    # all ranks must agree and jobs on one host must not collide, so the port is drawn from the job id; and
    # from the number of the restart: a job that met a taken port draws another one when it is requeued
    drawn = random.Random(f"{env.job_id}.{os.environ.get('SLURM_RESTART_COUNT', '0')}")
    os.environ["MASTER_PORT"] = str(drawn.randint(MIN_PORT, MAX_PORT))
    return env.global_rank, env.num_tasks, env.local_rank


def engine(
    model: nn.Module, hyper: Hyperparameters, resources: Resources, steps: int, *, universal: bool = False
) -> Any:
    """A DeepSpeed engine with torch's fused AdamW, linear warm-up and linear decay to zero.

    Any number of micro-batches makes a step: see `backward`.
    steps: optimizer steps of the job. universal: its checkpoint will be loaded by `universal.load`.
    """
    import deepspeed

    config = {
        # DeepSpeed would divide the loss by these; the loop divides by target tokens
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": hyper.max_grad_norm,
        "bf16": {"enabled": hyper.dtype == "bf16"},
        # added up in bf16, the gradients of many micro-batches would lose their small parts
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": resources.zero_stage,
            **({"offload_optimizer": {"device": "cpu"}} if resources.offload_optimizer else {}),
        },
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW is as fast as DeepSpeed's, which takes two minutes to compile
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 10**9,
    }
    optimizer = _optimizer(model, hyper)
    warmup = round(hyper.warmup_ratio * steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, warmup, steps))
    built, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    return built


def _optimizer(model: nn.Module, hyper: Hyperparameters) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices and embeddings, none on norms and biases."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": hyper.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=hyper.learning_rate,
        betas=(hyper.beta1, hyper.beta2),
        fused=True,
    )


def backward(engine: Any, loss: Tensor, *, last: bool) -> None:
    """Add the gradient of a micro-batch; last: of a global batch, `engine.step()` follows.

    loss: this rank's summed loss divided by the target tokens of the global batch over all ranks. DeepSpeed
    averages gradients over ranks, and the sum is needed.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss * dist.get_world_size())


def lr_factor(step: int, warmup: int, steps: int) -> float:
    """Share of the peak rate at `step` (from 0): rises by 1 / warmup to 1, falls to 1 / (steps - warmup)."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))
