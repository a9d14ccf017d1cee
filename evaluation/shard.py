"""Score shards, one model on one language each: from items to prediction parts, resumable after each part."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.encoding import Query
from evaluation.items.item import Item
from evaluation.items.table import items_table
from evaluation.parts import check_complete, read_own_part
from evaluation.progress import RunningMetrics
from evaluation.questions import Asked, chat_of, query, questions
from evaluation.scoring import Scorer
from modeling.loading import load_model, load_tokenizer
from study import records, stopping
from study.errors import CalsweepError, Stopped
from study.files import digest, write_atomic, write_json
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.specs import EvalSpec, Source, identity
from study.paths import JobPaths, items_file
from study.tracking.runs import Run, track

logger = logging.getLogger(__name__)

PART_SIZE = 256

Progress: TypeAlias = Callable[[Job, int, int], None]
Check: TypeAlias = Callable[[Source], None]


def evaluate(
    jobs: Sequence[tuple[Job, JobPaths]],
    *,
    model_path: str,
    revision: str | None,
    items: Path,
    batch_tokens: int,
    tracking: TrackingConfig,
    check: Check | None = None,
    on_progress: Progress | None = None,
) -> list[tuple[Job, CalsweepError]]:
    """Score every job that is not done, with one load of their common model; returns those that failed.

    The other languages are scored even if the data or records of one cannot be used.

    model_path, revision: see `modeling.loading`.
    items: the folder of the items' tables, shared by all jobs of a study.
    batch_tokens: padded tokens per forward pass.
    check: called with the source of a job's benchmark before it is read; what it raises fails the job.
    on_progress: called with (job, items done, all items) at the start of a job and after each part.
    Raises JobError when the model cannot be used, Stopped when a stop was requested and work is left.
    Finished parts survive every failure, and the next attempt resumes after them.
    """
    shards = [(job, _eval_spec(job), folder) for job, folder in jobs if not folder.done.exists()]
    if not shards:
        return []
    spec = shards[0][1]
    assert len({(spec.model, spec.dtype, spec.prompting.too_long) for _, spec, _ in shards}) == 1
    models, tokenizer = load_models(model_path, revision, spec.dtype)
    scorer = Scorer(models, tokenizer, batch_tokens=batch_tokens, too_long=spec.prompting.too_long)
    failures: list[tuple[Job, CalsweepError]] = []
    for number, (job, spec, folder) in enumerate(shards):
        if stopping.requested():
            raise Stopped(f"stopped at language {number} of {len(shards)}")
        try:
            tags = (spec.benchmark.name, spec.language, spec.protocol)
            with track(tracking, job, folder, tags=tags) as run:
                if check is not None:
                    check(spec.benchmark.source)
                _run_shard(job, spec, folder, items, scorer, run, on_progress)
        except Stopped:
            raise
        except CalsweepError as error:
            logger.error("%s: %s", job.name, error)
            failures.append((job, error))
    return failures


def load_models(
    path: str, revision: str | None, dtype: str
) -> tuple[list[PreTrainedModel], PreTrainedTokenizerBase]:
    """The model in evaluation mode, a copy on each GPU of the task or one on the CPU; and its tokenizer.

    Raises JobError when they cannot be loaded.
    """
    model: Any = load_model(path, revision, dtype).eval()
    tokenizer = load_tokenizer(path, revision)
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] or [torch.device("cpu")]
    copies = [copy.deepcopy(model).to(device) for device in devices[1:]]
    return [model.to(devices[0]), *copies], tokenizer


def shard_info(job: Job) -> records.ShardInfo:
    """The shard that the parts of a job name; the model as in the grid, with its revision."""
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
    job: Job,
    spec: EvalSpec,
    folder: JobPaths,
    items: Path,
    scorer: Scorer,
    run: Run,
    on_progress: Progress | None,
) -> None:
    shard = questions(spec)
    _write_items(items, spec, shard.items)
    chat = chat_of(scorer.tokenizer) if spec.prompting.scaffold == "chat" else None
    asked, info, metrics = shard.asked, shard_info(job), RunningMetrics()

    def report(done: int, **speed: float) -> None:
        write_json(folder.progress, {"done": done, "total": len(asked), "unit": "items", **speed})
        if on_progress is not None:
            on_progress(job, done, len(asked))

    resumed = 0
    for path in records.parts(folder.predictions):
        table, info = read_own_part(path, asked, info)
        for row in table.to_pylist():
            metrics.add(row["scores"], row["option_num_tokens"], row["label"])
        # after a requeue W&B syncs from a new folder, which lacks the earlier parts
        run.save(path, base=folder.root)
        resumed = records.part_range(path)[1]
    if resumed:
        logger.info("%s: resuming at item %d of %d", job.name, resumed, len(asked))
    report(resumed)
    started = time.monotonic()
    for lo in range(resumed, len(asked), PART_SIZE):
        if stopping.requested():
            raise Stopped(f"stopped at item {lo} of {len(asked)} of {job.name}")
        part = asked[lo : lo + PART_SIZE]
        queries = [
            query(question, shard.shots.get(question.item.subject, ()), spec, chat) for question in part
        ]
        predictions, num_cut = predict(scorer, part, queries, spec.protocol)
        path = records.write_part(folder.predictions, lo, predictions, info, num_cut=num_cut)
        run.save(path, base=folder.root)
        for p in predictions:
            metrics.add(p.scores, p.option_num_tokens, p.label)
        done = lo + len(part)
        speed = (done - resumed) / (time.monotonic() - started)
        run.log({**metrics.scalars(), "items_per_s": speed})
        report(done, items_per_s=speed)
    parts = check_complete(folder.predictions, asked)
    cuts = [records.num_cut(path) for path in parts]
    known = [count for count in cuts if count is not None]
    counts = {
        "num_skipped": shard.num_skipped,
        "num_cut": sum(known) if len(known) == len(cuts) else None,
    }
    run.summarise({**metrics.scalars(), **counts})
    write_json(
        folder.done,
        {
            "job_id": job.job_id,
            "num_items": len(shard.items),
            **counts,
            "parts": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts},
        },
    )


def _write_items(folder: Path, spec: EvalSpec, items: Sequence[Item]) -> None:
    """Write the items' table of a benchmark and language, which analysis slices by, once for all models."""
    file = items_file(folder, spec.benchmark.name, digest(identity(spec.benchmark)), spec.language)
    if not file.is_file():
        buffer = pa.BufferOutputStream()
        pq.write_table(items_table(items), buffer)
        write_atomic(file, buffer.getvalue().to_pybytes())


def predict(
    scorer: Scorer, asked: Sequence[Asked], queries: Sequence[Query], protocol: str
) -> tuple[list[records.Prediction], int]:
    """Score questions under a protocol, in their order; returns also how many prompts were cut."""
    letter = protocol == "letter"
    scored = scorer.score(queries, letters=letter)
    num_cut = sum(score.num_cut > 0 for score in scored)
    if num_cut:
        logger.warning("%d of %d prompts exceeded the context and were cut", num_cut, len(scored))
    predictions = [
        records.Prediction(
            example_id=item.example_id,
            subject=item.subject,
            label=item.label,
            scores=score.scores,
            option_mass=min(1.0, math.fsum(map(math.exp, score.scores))) if letter else None,
            option_num_tokens=None if letter else score.num_tokens,
            rotation=rotation,
            num_prompt_tokens=score.num_context_tokens,
        )
        for (item, rotation), score in zip(asked, scored, strict=True)
    ]
    return predictions, num_cut
