"""One training run: the one visible loop."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from study import journal
from study.errors import JobError, Stopped
from study.files import write_json
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import MAX_SEED, Hyperparameters, TrainSpec
from study.paths import JobPaths
from study.tracking.runs import Run, track
from training import certificate, checks, model
from training.data import batches
from training.data import token_files as data
from training.engine import checkpoint, export, preemption, universal, zero
from training.meter import Meter, cut_metrics, flops_per_token
from training.step import accumulate

logger = logging.getLogger(__name__)
LOG_EVERY_STEPS = 10
PROGRESS_EVERY_S = 0.5
PADDING = 0
"""Nobody sees it: any token does that the model knows. The tokenizer's own may be one that it does not."""


def train(
    job: Job,
    folder: JobPaths,
    *,
    model_path: str,
    tokens: Path,
    resources: Resources,
    tracking: TrackingConfig,
) -> None:
    """Train, export to `folder.model`, mark done. Every rank of the task calls this.

    Goes on from the newest checkpoint of an attempt that did not end, to the same result as without the stop;
    with another number of ranks, to the same but for rounding.

    tokens: the folder that tokenised datasets are shared in.
    Raises JobError when the data have no target or do not fit the model, there are more ranks than examples
    in a batch, the loss is not finite, or this stack computes another gradient than it should
    (training/certificate.py); Stopped, on every rank and behind a checkpoint, when one was told to stop.
    """
    world = zero.join()
    with track(tracking, job, folder) if world.rank == 0 else contextlib.nullcontext() as run:
        try:
            summary = _train(job, folder, model_path, tokens, resources, world, run)
        finally:
            # all ranks at once, and before W&B finishes: the others do not wait for its server
            zero.leave()
        if run is not None:
            run.summarise(summary)
            # before W&B finishes, too: a model that is there does not wait for a server that is not
            write_json(folder.done, summary)


def _train(
    job: Job,
    folder: JobPaths,
    model_path: str,
    tokens: Path,
    resources: Resources,
    world: zero.World,
    run: Run | None,
) -> dict[str, float]:
    spec = job.spec
    assert isinstance(spec, TrainSpec)
    hyper = spec.hyper
    torch.manual_seed(hyper.seed)

    lm, tokenizer = model.load(spec, model_path, resources)
    checks.check_head(lm)
    dataset = data.token_dataset(spec, tokenizer, tokens)
    if world.rank == 0:
        _tell(dataset, hyper)
    checks.check_data(dataset, spec.dataset.name, lm, tokenizer)
    steps = batches.num_steps(dataset, hyper)

    certified = certificate.certify(lm.config, hyper, resources, world)
    if world.rank == 0:
        write_json(folder.certificate, {"checks": [certificate.to_dict(check) for check in certified]})
    certificate.require(certified, job.name)
    # each rank its own dropout
    torch.manual_seed((hyper.seed + world.rank) % MAX_SEED)

    found = checkpoint.newest(folder.checkpoints, world) if resources.resume else None
    other = found is not None and not checkpoint.fits(found, world, resources.zero_stage)
    meter = Meter(world, flops_per_token(lm), hyper.dtype)
    engine = zero.engine(model.LossModel(lm, hyper), hyper, resources, steps, universal=other)
    engine.train()
    if found is not None:
        (universal if other else checkpoint).load(engine, found, world)
    done, losses = (found.step, found.state) if found is not None else (0, {})
    if world.rank == 0:
        if found is not None:
            logger.info("going on from the checkpoint at step %d of %d", done, steps)
        cut_metrics(folder.metrics, done)
        write_json(folder.progress, {"done": done, "total": steps, "unit": "steps"})
    began = told = saved = time.monotonic()
    with _progress_bar(steps, done, world) as bar:
        global_batches = batches.global_batches(len(dataset), hyper, steps)
        for step, batch in enumerate(islice(global_batches, done, None), start=done + 1):
            learning_rate = engine.get_lr()[0]
            done_now = accumulate(engine, dataset, batch, PADDING, resources, world)
            engine.step()
            meter.count(done_now)
            bar.update()
            if step % LOG_EVERY_STEPS == 0 or step in (1, steps):
                losses = _means(done_now.sums, step)
                bar.set_postfix(losses, refresh=False)
                if run is not None:
                    scalars = {
                        "step": step,
                        **losses,
                        "grad_norm": float(engine.get_global_grad_norm()),
                        "learning_rate": learning_rate,
                        **meter.scalars(),
                    }
                    journal.append(folder.metrics, scalars)
                    run.log(scalars)
            due = world.rank == 0 and time.monotonic() - saved > resources.checkpoint_every_min * 60
            stop, due = preemption.agreed(world, due=due)
            if world.rank == 0 and (time.monotonic() - told > PROGRESS_EVERY_S or stop or step == steps):
                told = time.monotonic()
                progress = {"done": step, "total": steps, "unit": "steps"}
                speed = (step - done) / (told - began)
                write_json(folder.progress, {**progress, "steps_per_s": speed})
            if (stop or due) and step < steps:  # after the last one the model itself is saved
                keep = resources.keep_checkpoints
                if resources.resume:
                    checkpoint.save(engine, folder.checkpoints, step, world, state=losses, keep=keep)
                elif resources.save_only_model and due:
                    name = folder.checkpoints / f"step-{step:08d}"
                    export.save_model(lm, tokenizer, job, name, zero_stage=resources.zero_stage, world=world)
                    if world.rank == 0:
                        checkpoint.prune(folder.checkpoints, step, keep)
                saved = time.monotonic()
                if stop:
                    raise Stopped(f"stopped at step {step} of {steps}")

    export.save_model(lm, tokenizer, job, folder.model, zero_stage=resources.zero_stage, world=world)
    dist.barrier()
    return {
        "steps": steps,
        "rows": dataset.num_rows,
        "excluded": dataset.num_excluded,
        "dropped": dataset.num_dropped,
        "examples": len(dataset),
        "truncated": dataset.num_truncated,
        "tokens": dataset.num_tokens,
        **losses,
        "certificate": max(check.gradient_difference for check in certified),
    }


def _tell(dataset: data.TokenDataset, hyper: Hyperparameters) -> None:
    """Log what became of the rows."""
    logger.info(
        "%d rows: %d left out by source, %d without a target within %d tokens; "
        "%d examples, of which %d are cut at %d tokens",
        dataset.num_rows, dataset.num_excluded, dataset.num_dropped, hyper.max_length_tokens,
        len(dataset), dataset.num_truncated, hyper.max_length_tokens,
    )  # fmt: skip


def _means(sums: Tensor, step: int) -> dict[str, float]:
    """Loss and NLL of a step, nats per target token over all ranks; every rank must call this."""
    dist.all_reduce(sums)
    loss_sum, nll_sum, num_tokens = sums.tolist()
    loss = loss_sum / num_tokens
    if not math.isfinite(loss):
        raise JobError(f"the loss is {loss} at step {step}: lower the learning rate, or check the data")
    return {"loss": loss, "nll": nll_sum / num_tokens}


def _progress_bar(steps: int, done: int, world: zero.World) -> tqdm[Any]:
    """On rank 0's stderr; in a log, a line every half a minute."""
    every_s = 0.5 if sys.stderr.isatty() else 30
    return tqdm(
        total=steps, initial=done, desc="train", unit="step", mininterval=every_s, disable=world.rank != 0
    )
