"""Attempts at one training job, each rank in a separate process that can be killed.

The processes are forked from one that has imported torch and DeepSpeed already: that takes most of the time.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters, Source, TrainSpec
from study.paths import JobPaths
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.waiting import HANG_S

STEPS = 8
NUM_EXAMPLES = 20  # eight steps of eight are more than three epochs: the order must be restored, too
HYPER = Hyperparameters(
    learning_rate=1e-3,
    label_smoothing=0.1,
    seed=0,
    num_steps=STEPS,
    global_batch_size=8,
    max_length_tokens=64,
    template="plain",
    warmup_ratio=0.25,
)
COMPARED = ("step", "loss", "nll", "grad_norm", "learning_rate")
KILLED = -signal.SIGKILL

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.training.preloaded"])


@dataclass(frozen=True)
class RankOutcome:
    """How a rank ended: its exit code, its exception if any, and all that it wrote."""

    exit_code: int
    error: str
    message: str
    log: str


def make_inputs(folder: Path) -> Path:
    """A model with dropout, so that random state counts, and a dataset."""
    lm = make_llama()
    lm.config.attention_dropout = 0.2
    save(lm, make_tokenizer(), folder / "model")
    rows = [{"instruction": f"{i} {'?' * (i * 7 % 11)}", "output": f"{i * i}"} for i in range(NUM_EXAMPLES)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def job_of(inputs: Path, dtype: str, steps: int, dropout: float | None) -> Job:
    model, rows = (Source("local", str(inputs / name), "0" * 12) for name in ("model", "rows.jsonl"))
    hyper = replace(HYPER, dtype=dtype, num_steps=steps, dropout=dropout)
    return Job("train", TrainSpec(model, rows, hyper), needs=(), cell={"model": "tiny"})


def start(
    folder: Path,
    inputs: Path,
    *,
    dtype: str = "fp32",
    ranks: int = 1,
    zero_stage: int = 1,
    every_min: float = 30,
    keep: int = 2,
    steps: int = STEPS,
    dropout: float | None = None,
    tracking: str = "disabled",
    resume: bool = True,
    save_only_model: bool = False,
    accident: Callable[[int], None] | None = None,
) -> list[ForkServerProcess]:
    """Begin an attempt that logs every step.

    accident: called with the rank, in each process before it trains, to set up what will happen there.
    """
    attempt = uuid.uuid4().hex[:8]
    resources = Resources(
        tasks_per_node=ranks,
        micro_batch_size=2,
        zero_stage=zero_stage,
        checkpoint_every_min=every_min,
        keep_checkpoints=keep,
        resume=resume,
        save_only_model=save_only_model,
    )
    started = []
    for rank in range(ranks):
        job = job_of(inputs, dtype, steps, dropout)
        arguments = (folder, inputs, rank, attempt, job, resources, TrackingConfig(tracking), accident)
        process = processes.Process(target=_rank, args=arguments)
        process.start()
        started.append(process)
    return started


def end(folder: Path, started: list[ForkServerProcess]) -> list[RankOutcome]:
    """Wait for the ranks of an attempt; one that is left behind is killed after HANG_S."""
    deadline = time.monotonic() + HANG_S
    actual = []
    for rank, process in enumerate(started):
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        file = _outcome(folder, rank)
        error = json.loads(file.read_text()) if file.exists() else {"error": "", "message": ""}
        actual.append(RankOutcome(process.exitcode, **error, log=_log(folder, rank).read_text()))
    return actual


def attempt(folder: Path, inputs: Path, **how: Any) -> list[RankOutcome]:
    return end(folder, start(folder, inputs, **how))


def finish(folder: Path, inputs: Path, **how: Any) -> list[RankOutcome]:
    """An attempt that must complete."""
    outcomes = attempt(folder, inputs, **how)
    assert [outcome.exit_code for outcome in outcomes] == [0] * len(outcomes), outcomes[0].log
    assert paths_of(folder).done.exists()
    return outcomes


def paths_of(folder: Path) -> JobPaths:
    return JobPaths(folder / "job")


def checkpoints(folder: Path) -> list[str]:
    root = paths_of(folder).checkpoints
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def logged(folder: Path) -> list[tuple[str, ...]]:
    """The lines of metrics.jsonl, digit by digit."""
    lines = paths_of(folder).metrics.read_text().splitlines()
    # numbers stay as they are written: 0.1 and 0.10000000000000001 are the same float and not the same text
    rows = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
    return [tuple(row[name] for name in COMPARED) for row in rows]


def assert_same_run(folder: Path, undisturbed: Path, steps: int = STEPS) -> None:
    """Every logged digit and every exported bit; and that there was something to compare."""
    want = logged(undisturbed)
    assert [row[0] for row in want] == [str(step) for step in range(1, steps + 1)]
    assert len({row[1] for row in want}) == steps
    assert logged(folder) == want
    ours, theirs = (load_file(paths_of(root).model / "model.safetensors") for root in (folder, undisturbed))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name
    assert paths_of(folder).done.read_bytes() == paths_of(undisturbed).done.read_bytes()
    assert json.loads(paths_of(folder).progress.read_text())["done"] == steps


def _outcome(folder: Path, rank: int) -> Path:
    return folder / f"outcome-{rank}.json"


def _log(folder: Path, rank: int) -> Path:
    return folder / f"log-{rank}.txt"


def _rank(
    folder: Path,
    inputs: Path,
    rank: int,
    attempt: str,
    job: Job,
    resources: Resources,
    tracking: TrackingConfig,
    accident: Callable[[int], None] | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _outcome(folder, rank).unlink(missing_ok=True)
    log = os.open(_log(folder, rank), os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, force=True)
    import training.train
    from study import stopping

    ranks = resources.tasks_per_node
    if ranks > 1:
        os.environ.update(
            SUBMITIT_EXECUTOR="local",
            SUBMITIT_LOCAL_JOB_ID=attempt,
            SUBMITIT_LOCAL_NTASKS=str(ranks),
            SUBMITIT_LOCAL_JOB_NUM_NODES="1",
            SUBMITIT_LOCAL_NODEID="0",
            SUBMITIT_LOCAL_GLOBALID=str(rank),
            SUBMITIT_LOCAL_LOCALID=str(rank),
        )
    training.train.LOG_EVERY_STEPS = 1
    stopping.listen()
    if accident is not None:
        accident(rank)
    try:
        training.train.train(
            job,
            paths_of(folder),
            model_path=str(inputs / "model"),
            tokens=inputs / "tokens",
            resources=resources,
            tracking=tracking,
        )
    except BaseException as error:
        _outcome(folder, rank).write_text(
            json.dumps({"error": type(error).__name__, "message": str(error)}), encoding="utf-8"
        )
        traceback.print_exc()
        raise SystemExit(1) from error
