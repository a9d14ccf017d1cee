"""Going on with another number of ranks, or at another ZeRO stage: DeepSpeed's universal checkpoints.

DeepSpeed cuts the optimizer's state into one piece a rank. Its `ds_to_universal` puts the pieces of each
parameter together, and an engine that was built with `universal=True` takes its own piece of them.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from training.engine.checkpoint import TAG, Found
from training.engine.zero import World

logger = logging.getLogger(__name__)
MAX_WORKERS = 4


def load(engine: Any, found: Found, world: World) -> None:
    """Load a checkpoint of other ranks into a fresh engine; the run goes on as it was but for rounding.

    The order of additions is another one, and so are the random numbers of dropout. Every rank must call
    this.
    """
    folder = found.path.with_name(f".{found.path.name}.universal")  # hidden: no checkpoint of its own
    if world.rank == 0:
        _convert(found, folder)
    dist.barrier()
    loaded, _ = engine.load_checkpoint(str(folder), tag=TAG)
    assert loaded is not None, f"{folder}: DeepSpeed found nothing in a universal checkpoint"
    for state in engine.optimizer.optimizer.state.values():
        # at stage 3 all parameters share one step counter, which each of them would then count up
        state["step"] = state["step"].clone()
    torch.manual_seed(torch.initial_seed() + found.step)
    dist.barrier()
    if world.rank == 0:
        shutil.rmtree(folder)


def _convert(found: Found, folder: Any) -> None:
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    workers = str(min(MAX_WORKERS, len(os.sched_getaffinity(0))))
    # a process of its own: it makes a pool of forks, which one with DeepSpeed's threads must not
    command = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"),
        *("--input_folder", str(found.path / TAG), "--output_folder", str(folder / TAG)),
        *("--num_extract_workers", workers, "--num_merge_workers", workers),
        # of a client that did not tell the engine about the layout of its parameters: there is none here
        "--inject_missing_state",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    logger.info(
        "made the checkpoint of %d ranks at stage %d fit this run, in %.1f s",
        found.world_size, found.zero_stage, time.monotonic() - began,
    )  # fmt: skip
