"""DeepSpeed ZeRO: process group from submitit's task environment, engine, and nothing of its launcher."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from study.specs import Hyperparameters

MIN_PORT, MAX_PORT = 20_000, 32_000
"""Below the ports that Linux gives to outgoing connections: one of those may be taken at any moment."""


@dataclass(frozen=True)
class World:
    """Where this process stands among the ranks of its job."""

    rank: int
    size: int
    device: torch.device


def join() -> World:
    """Join the process group of this task; call once, before `engine`.

    The backend is NCCL with CUDA and gloo without.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # before deepspeed is imported: it reads LOCAL_RANK and DS_ACCELERATOR then
    rank, size, local_rank = _place()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank))
    import deepspeed

    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cpu":
        # compiled at first use (a minute, and a compiler), and used by inference only
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        torch.cuda.set_device(device)
    if size == 1:
        # no port to collide on, and no network at all
        dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, init_method="env://", rank=rank, world_size=size)
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
        return 0, 1, 0  # called directly, not as a job
    env = JobEnvironment()
    # one node: the loopback address, whatever the host's name resolves to
    os.environ["MASTER_ADDR"] = "127.0.0.1" if env.num_nodes == 1 else env.hostnames[0]
    # all ranks must agree and jobs on one host must not collide: the port follows from the job id
    os.environ["MASTER_PORT"] = str(random.Random(env.job_id).randint(MIN_PORT, MAX_PORT))
    return env.global_rank, env.num_tasks, env.local_rank


def engine(
    model: nn.Module, hyper: Hyperparameters, zero_stage: int, micro: int, accumulation: int, steps: int
) -> Any:
    """A DeepSpeed engine with torch's fused AdamW, linear warm-up and linear decay to zero."""
    import deepspeed

    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": hyper.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=hyper.learning_rate,
        betas=(hyper.beta1, hyper.beta2),
        fused=True,
    )
    warmup = round(hyper.warmup_ratio * steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, warmup, steps))
    config = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": hyper.max_grad_norm,
        "bf16": {"enabled": hyper.dtype == "bf16"},
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        # our AdamW is fused and as fast as DeepSpeed's, which takes two minutes to compile
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    built, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    return built


def lr_factor(step: int, warmup: int, steps: int) -> float:
    """Share of the peak rate at `step` (from 0): (step + 1) / warmup, then down to 1 / (steps - warmup)."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))
