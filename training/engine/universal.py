"""Resume with another number of ranks or at another ZeRO stage, with DeepSpeed's universal checkpoints.

DeepSpeed cuts the optimizer's state into one piece per rank. Its `ds_to_universal` joins the pieces of each
parameter, and an engine built with `universal=True` takes its own piece of them.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from training.engine.checkpoint import TAG, Checkpoint
from training.engine.zero import World

logger = logging.getLogger(__name__)
MAX_WORKERS = 4


def load(engine: Any, checkpoint: Checkpoint, world: World) -> None:
    """Load a checkpoint of other ranks into a fresh engine; the training resumes as it was but for rounding.

    Additions happen in another order, and dropout draws other random numbers. Every rank must call this.
    """
    # hidden: not a checkpoint
    folder = checkpoint.path.with_name(f".{checkpoint.path.name}.universal")
    if world.rank == 0:
        _convert(checkpoint, folder)
    dist.barrier()
    loaded, _ = engine.load_checkpoint(str(folder), tag=TAG)
    assert loaded is not None, f"{folder}: DeepSpeed found nothing in a universal checkpoint"
    for state in engine.optimizer.optimizer.state.values():
        # at stage 3 all parameters share one step counter, which each of them would then increment
        state["step"] = state["step"].clone()
    torch.manual_seed(torch.initial_seed() + checkpoint.step)
    dist.barrier()
    if world.rank == 0:
        shutil.rmtree(folder)


def _convert(checkpoint: Checkpoint, folder: Path) -> None:
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    workers = str(min(MAX_WORKERS, len(os.sched_getaffinity(0))))
    # a separate process: it forks a pool, which is not safe beside DeepSpeed's threads
    command = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"),
        *("--input_folder", str(checkpoint.path / TAG), "--output_folder", str(folder / TAG)),
        *("--num_extract_workers", workers, "--num_merge_workers", workers),
        # for engines whose client does not describe how parameters are laid out: there is nothing to describe
        "--inject_missing_state",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    logger.info(
        "converted the checkpoint of %d ranks at stage %d, in %.1f s",
        checkpoint.world_size, checkpoint.zero_stage, time.monotonic() - began,
    )  # fmt: skip
