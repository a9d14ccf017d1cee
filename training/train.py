"""One training job: the one visible loop."""

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

from modeling.checks import check_head
from modeling.head import head_of
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
"""Any token that the model knows: no other token attends to it. The tokenizer's own may be unknown to it."""


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

    Resumes from the newest checkpoint of an interrupted attempt, with the same result as without the
    interruption; with another number of ranks, the same but for rounding.

    tokens: the folder of tokenised datasets, shared by all jobs of a study.
    Raises JobError when the data have no target or do not fit the model, there are more ranks than examples
    in a batch, the loss is not finite, or the installed stack computes a wrong gradient
    (training/certificate.py); Stopped, on every rank and after a checkpoint, when a stop was requested.
    """
    world = zero.join()
    with track(tracking, job, folder) if world.rank == 0 else contextlib.nullcontext() as run:
        try:
            summary = _train(job, folder, model_path, tokens, resources, world, run)
        finally:
            # all ranks together and before W&B finishes: the others must not wait for its server
            zero.leave()
        if run is not None:
            run.summarise(summary)
            # before W&B finishes, too: a finished model must not wait for an unreachable server
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
    check_head(lm, head_of(lm))
    loss_model = model.LossModel(lm, hyper)
    dataset = data.token_dataset(spec, tokenizer, tokens)
    if world.rank == 0:
        _log_counts(dataset, hyper)
    checks.check_data(dataset, spec.dataset.name, lm, tokenizer)
    steps = batches.num_steps(dataset, hyper)

    certified = certificate.certify(lm.config, hyper, resources, world)
    if world.rank == 0:
        write_json(folder.certificate, {"checks": [certificate.to_dict(check) for check in certified]})
    certificate.require(certified, job.name)
    # dropout differs between ranks
    torch.manual_seed((hyper.seed + world.rank) % MAX_SEED)

    start = checkpoint.newest(folder.checkpoints, world) if resources.resume else None
    convert = start is not None and not checkpoint.fits(start, world, resources.zero_stage)
    meter = Meter(world, flops_per_token(lm), hyper.dtype)
    engine = zero.engine(loss_model, hyper, resources, steps, universal=convert)
    engine.train()
    if start is not None:
        (universal if convert else checkpoint).load(engine, start, world)
    done, losses = (start.step, start.state) if start is not None else (0, {})
    progress = {"done": done, "total": steps, "unit": "steps"}
    if world.rank == 0:
        if start is not None:
            logger.info("resuming from the checkpoint at step %d of %d", done, steps)
        cut_metrics(folder.metrics, done)
        write_json(folder.progress, progress)
    began = reported = saved = time.monotonic()
    with _progress_bar(steps, done, world) as bar:
        global_batches = batches.global_batches(len(dataset), hyper, steps)
        for step, batch in enumerate(islice(global_batches, done, None), start=done + 1):
            learning_rate = engine.get_lr()[0]
            step_sums = accumulate(engine, dataset, batch, PADDING, resources, world)
            engine.step()
            meter.count(step_sums)
            bar.update()
            if step % LOG_EVERY_STEPS == 0 or step in (1, steps):
                losses = _means(step_sums.losses, step)
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
            if world.rank == 0 and (time.monotonic() - reported > PROGRESS_EVERY_S or stop or step == steps):
                reported = time.monotonic()
                speed = (step - done) / (reported - began)
                write_json(folder.progress, {**progress, "done": step, "steps_per_s": speed})
            if (stop or due) and step < steps:  # after the last step the model itself is saved
                keep = resources.keep_checkpoints
                if resources.resume:
                    checkpoint.save(engine, folder.checkpoints, step, world, state=losses, keep=keep)
                elif resources.save_only_model and due:
                    path = checkpoint.path_of(folder.checkpoints, step)
                    export.save_model(lm, tokenizer, job, path, zero_stage=resources.zero_stage, world=world)
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


def _log_counts(dataset: data.TokenDataset, hyper: Hyperparameters) -> None:
    logger.info(
        "%d rows: %d left out by source, %d without a target within %d tokens; "
        "%d examples, of which %d are cut at %d tokens",
        dataset.num_rows, dataset.num_excluded, dataset.num_dropped, hyper.max_length_tokens,
        len(dataset), dataset.num_truncated, hyper.max_length_tokens,
    )  # fmt: skip


def _means(sums: Tensor, step: int) -> dict[str, float]:
    """Loss and NLL in nats per target token over all ranks; every rank must call this.

    sums: (3,), see `training.step.StepSums`.
    """
    dist.all_reduce(sums)
    loss_sum, nll_sum, num_tokens = sums.tolist()
    loss = loss_sum / num_tokens
    if not math.isfinite(loss):
        raise JobError(f"the loss is {loss} at step {step}: lower the learning rate, or check the data")
    return {"loss": loss, "nll": nll_sum / num_tokens}


def _progress_bar(steps: int, done: int, world: zero.World) -> tqdm[Any]:
    """On rank 0's stderr; a line every 30 s where that is a log file."""
    every_s = 0.5 if sys.stderr.isatty() else 30
    return tqdm(
        total=steps, initial=done, desc="train", unit="step", mininterval=every_s, disable=world.rank != 0
    )
