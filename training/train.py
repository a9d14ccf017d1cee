"""One training run: the one visible loop."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import resource as unix_resource
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from study.config import TrackingConfig
from study.errors import JobError, Stopped
from study.files import append_line, write_atomic, write_json
from study.job import Job
from study.paths import JobPaths
from study.specs import Resources, TrainSpec, accumulation_steps
from study.tracking import Run, track
from training import checkpoint, data, export, model, preemption, zero

logger = logging.getLogger(__name__)
LOG_EVERY_STEPS = 10
PROGRESS_EVERY_S = 0.5


def train(
    job: Job, folder: JobPaths, *, model_path: str, resources: Resources, tracking: TrackingConfig
) -> None:
    """Train, export to `folder.model`, mark done. Every rank of the task calls this.

    Goes on from the newest checkpoint of an attempt that did not end, to the same result as without the stop.
    Raises JobError when the data have no target, the batch does not divide, the loss is not finite or the
    checkpoint is of other ranks; Stopped, on every rank and behind a checkpoint, when one was told to stop.
    """
    world = zero.join()
    with track(tracking, job, folder) if world.rank == 0 else contextlib.nullcontext() as run:
        try:
            summary = _train(job, folder, model_path, resources, world, run)
        finally:
            # all ranks at once, and before W&B finishes: the others do not wait for its server
            zero.leave()
        if run is not None:
            run.summarise(summary)
            # before W&B finishes, too: a model that is there does not wait for a server that is not
            write_json(folder.done, summary)


def _train(
    job: Job, folder: JobPaths, model_path: str, resources: Resources, world: zero.World, run: Run | None
) -> dict[str, float]:
    spec = job.spec
    assert isinstance(spec, TrainSpec)
    hyper = spec.hyper
    torch.manual_seed(hyper.seed)
    micro, accumulation = accumulation_steps(hyper.global_batch_size, resources.micro_batch_size, world.size)

    lm, tokenizer = model.load(spec, model_path)
    model.check_head(lm)
    dataset = data.tokenise(data.load_rows(spec.dataset, hyper), tokenizer, hyper, spec.dataset.name)
    steps = data.num_steps(dataset, hyper)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    if dataset.num_dropped and world.rank == 0:
        logger.warning("%d rows have no target token and were dropped", dataset.num_dropped)

    engine = zero.engine(
        model.LossModel(lm, hyper.label_smoothing), hyper, resources.zero_stage, micro, accumulation, steps
    )
    engine.train()
    resumed = checkpoint.load_newest(engine, folder.checkpoints, world)
    done, loss = (resumed.step, resumed.state["loss"]) if resumed is not None else (0, math.nan)
    if world.rank == 0:
        if resumed is not None:
            logger.info("going on from the checkpoint at step %d of %d", done, steps)
        _cut_metrics(folder.metrics, done)
        write_json(folder.progress, {"done": done, "total": steps, "unit": "steps"})
    begin = told = saved = time.monotonic()
    tokens_seen = 0
    batches = data.global_batches(len(dataset), hyper, steps)
    for step, batch in enumerate(islice(batches, done, None), start=done + 1):
        target_tokens = data.num_target_tokens(dataset, batch)
        loss_total = torch.zeros((), device=world.device)
        learning_rate = engine.get_lr()[0]
        for indices in data.micro_batches(dataset, batch, micro, world.rank, world.size):
            arrays = data.collate(dataset, indices, pad)
            input_ids, labels = (torch.from_numpy(array).to(world.device) for array in arrays)
            loss_sum, _ = engine(input_ids, labels)
            # DeepSpeed divides by accumulation steps and averages over ranks; what is wanted is the mean over
            # the target tokens of the whole global batch, however they fall into micro-batches
            engine.backward(loss_sum * (accumulation * world.size / target_tokens))
            engine.step()
            loss_total += loss_sum.detach()
            tokens_seen += sum(dataset.length(i) for i in indices)
        if step % LOG_EVERY_STEPS == 0 or step in (1, steps):
            dist.all_reduce(loss_total)
            loss = loss_total.item() / target_tokens
            if not np.isfinite(loss):
                raise JobError(
                    f"the loss is {loss} at step {step}: lower the learning rate, or check the data"
                )
            if run is not None:
                scalars = {
                    "step": step,
                    "loss": loss,
                    "grad_norm": float(engine.get_global_grad_norm()),
                    "learning_rate": learning_rate,
                    "tokens_per_s": tokens_seen * world.size / (time.monotonic() - begin),
                    "peak_memory_gib": _peak_memory_gib(world.device),
                }
                append_line(folder.metrics, json.dumps(scalars))
                run.log(scalars)
        due = world.rank == 0 and time.monotonic() - saved > resources.checkpoint_every_min * 60
        stop, due = preemption.agreed(world, due=due)
        if world.rank == 0 and (time.monotonic() - told > PROGRESS_EVERY_S or stop or step == steps):
            told = time.monotonic()
            write_json(folder.progress, {"done": step, "total": steps, "unit": "steps"})
        if (stop or due) and step < steps:  # after the last one the model itself is saved
            keep = resources.keep_checkpoints
            checkpoint.save(engine, folder.checkpoints, step, world, state={"loss": loss}, keep=keep)
            saved = time.monotonic()
            if stop:
                raise Stopped(f"stopped at step {step} of {steps}")

    export.save_model(lm, tokenizer, job, folder.model, zero_stage=resources.zero_stage, world=world)
    dist.barrier()
    return {
        "steps": steps,
        "examples": len(dataset),
        "tokens": len(dataset.tokens),
        "dropped": dataset.num_dropped,
        "loss": loss,
    }


def _cut_metrics(path: Path, done: int) -> None:
    """Leave the lines up to step `done`: those behind it are of an attempt that got further than it saved."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with contextlib.suppress(json.JSONDecodeError):  # torn by a kill
            if json.loads(line)["step"] <= done:
                kept.append(line)
    write_atomic(path, "".join(kept))


def _peak_memory_gib(device: torch.device) -> float:
    """Most memory this rank has held: of the device, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return unix_resource.getrusage(unix_resource.RUSAGE_SELF).ru_maxrss / 2**20
