"""Shards: one model on one language each, from items to prediction parts, resumable part by part."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evaluation.benchmarks import Item, load_split
from evaluation.merge import check_complete, read_own_part
from evaluation.prompts import letter_prompt, option_text_prompt
from evaluation.running import Running
from evaluation.scoring import letter_scores, option_text_scores
from study import records, stopping
from study.config import TrackingConfig
from study.errors import CalsweepError, Stopped
from study.files import write_json
from study.job import Job
from study.paths import JobPaths
from study.specs import EvalSpec
from study.tracking import Run, track
from study.weights import UNREADABLE, cannot_load, require_all, weights_at

logger = logging.getLogger(__name__)

PART_SIZE = 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Progress: TypeAlias = Callable[[Job, int, int], None]
Score: TypeAlias = Callable[[Sequence[Item]], list[records.Prediction]]


def evaluate(
    jobs: Sequence[tuple[Job, JobPaths]],
    *,
    model_path: str,
    revision: str | None,
    batch_tokens: int,
    tracking: TrackingConfig,
    on_progress: Progress | None = None,
) -> list[tuple[Job, CalsweepError]]:
    """Score every job that is not done, behind one load of the model they share; returns those that failed.

    One language whose data or records cannot be used does not keep the others from being scored.

    model_path: a folder, a GGUF file or a hub id; revision: a hub commit, None for the others.
    batch_tokens: padded tokens per forward pass.
    on_progress: called with (job, items done, items in all) at the start of a job and after each part.
    Raises JobError when the model cannot be used, Stopped when told to stop with work left. Finished parts
    survive whatever fails, and the next attempt goes on behind them.
    """
    shards = [(job, _eval_spec(job), folder) for job, folder in jobs if not folder.done.exists()]
    if not shards:
        return []
    spec = shards[0][1]
    assert all((other.model, other.dtype) == (spec.model, spec.dtype) for _, other, _ in shards)
    model, tokenizer = load_model(model_path, revision, spec.dtype)
    failures: list[tuple[Job, CalsweepError]] = []
    for number, (job, spec, folder) in enumerate(shards):
        if stopping.requested():
            raise Stopped(f"stopped at language {number} of {len(shards)}")
        score = partial(_predict, model, tokenizer, spec.protocol, batch_tokens)
        try:
            tags = (spec.benchmark.name, spec.language, spec.protocol)
            with track(tracking, job, folder, tags=tags) as run:
                _run_shard(job, spec, folder, score, run, on_progress)
        except Stopped:  # no failure of this language
            raise
        except CalsweepError as error:
            logger.error("%s: %s", job.name, error)
            failures.append((job, error))
    return failures


def load_model(
    path: str, revision: str | None, dtype: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in evaluation mode, on the GPU if there is one, and its tokenizer.

    path: a hub id, a folder of safetensors or a GGUF file. No code of a model's own is run.
    Raises JobError when they cannot be loaded.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = weights_at(path, revision)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            weights.name, dtype=DTYPES[dtype], output_loading_info=True, **weights.common, **weights.model
        )
        tokenizer = AutoTokenizer.from_pretrained(weights.name, **weights.common)
    except UNREADABLE as error:
        raise cannot_load(path, error) from error
    model, info = loaded
    require_all(path, info)
    model.to(device)
    model.eval()
    return model, tokenizer


def shard_info(job: Job) -> records.ShardInfo:
    """What the parts of a job say they belong to. The model is named as in the grid, with its revision."""
    spec = _eval_spec(job)
    return records.ShardInfo(
        job_id=job.job_id,
        model=f"{job.cell.get('model', spec.model.name)}@{spec.model.revision}",
        benchmark=spec.benchmark.name,
        language=spec.language,
        split=spec.benchmark.split,
        protocol=spec.protocol,
    )


def _eval_spec(job: Job) -> EvalSpec:
    assert isinstance(job.spec, EvalSpec)
    return job.spec


def _run_shard(
    job: Job, spec: EvalSpec, folder: JobPaths, score: Score, run: Run, on_progress: Progress | None
) -> None:
    split = load_split(spec.benchmark, spec.language)
    items, info, running = split.items, shard_info(job), Running()

    def report(done: int, **speed: float) -> None:
        write_json(folder.progress, {"done": done, "total": len(items), "unit": "items", **speed})
        if on_progress is not None:
            on_progress(job, done, len(items))

    resumed = 0
    for path in records.parts(folder.predictions):
        table, info = read_own_part(path, items, info)
        for row in table.to_pylist():
            running.add(row["scores"], row["option_num_tokens"], row["label"])
        # a requeued run syncs from a folder of its own, which knows nothing of the earlier parts
        run.save(path, base=folder.root)
        resumed = records.part_range(path)[1]
    if resumed:
        logger.info("%s: going on at item %d of %d", job.name, resumed, len(items))
    report(resumed)
    started = time.monotonic()
    for lo in range(resumed, len(items), PART_SIZE):
        if stopping.requested():
            raise Stopped(f"stopped at item {lo} of {len(items)} of {job.name}")
        predictions = score(items[lo : lo + PART_SIZE])
        run.save(records.write_part(folder.predictions, lo, predictions, info), base=folder.root)
        for p in predictions:
            running.add(p.scores, p.option_num_tokens, p.label)
        speed = (running.num_items - resumed) / (time.monotonic() - started)
        run.log({**running.scalars(), "items_per_s": speed})
        report(running.num_items, items_per_s=speed)
    finished = check_complete(folder.predictions, items)
    run.summarise({**running.scalars(), "num_skipped": split.num_skipped})
    write_json(
        folder.done,
        {
            "job_id": job.job_id,
            "num_items": len(items),
            "num_skipped": split.num_skipped,
            "parts": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in finished},
        },
    )


def _predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    protocol: str,
    batch_tokens: int,
    items: Sequence[Item],
) -> list[records.Prediction]:
    """Score items under a protocol, in their order."""
    names = [item.example_id for item in items]
    options = [item.options for item in items]
    if protocol == "letter":
        prompts = [letter_prompt(item.question, item.options) for item in items]
        counts = [len(texts) for texts in options]
        by_letter = letter_scores(model, tokenizer, prompts, counts, batch_tokens=batch_tokens, names=names)
        return [_prediction(item, s.scores, s.option_mass, None, s.num_prompt_tokens)
                for item, s in zip(items, by_letter, strict=True)]  # fmt: skip
    assert protocol == "option_text"
    prompts = [option_text_prompt(item.question) for item in items]
    by_text = option_text_scores(model, tokenizer, prompts, options, batch_tokens=batch_tokens, names=names)
    return [_prediction(item, s.scores, None, s.option_num_tokens, s.num_prompt_tokens)
            for item, s in zip(items, by_text, strict=True)]  # fmt: skip


def _prediction(
    item: Item, scores: list[float], mass: float | None, num_tokens: list[int] | None, num_prompt_tokens: int
) -> records.Prediction:
    return records.Prediction(
        example_id=item.example_id,
        subject=item.subject,
        label=item.label,
        scores=scores,
        option_mass=mass,
        option_num_tokens=num_tokens,
        rotation=0,
        num_prompt_tokens=num_prompt_tokens,
    )
