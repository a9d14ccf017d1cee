"""Shards for tests: a job on a benchmark, run in this process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from study import records
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.specs import Benchmark, EvalSpec, Prompting, Source
from study.paths import JobPaths

NUM_ITEMS = 11
PART_SIZE = 4
DISABLED = TrackingConfig(mode="disabled")


def make_job(benchmark: Benchmark, language: str = "sw", protocol: str = "letter", **prompting: Any) -> Job:
    model = Source("job", "b" * 16, "b" * 16)
    spec = EvalSpec(model, benchmark, language, protocol, "fp32", Prompting(**prompting))
    return Job("evaluate", spec, ("b" * 16,), {"model": "org/tiny", "learning_rate": 1e-5})


def run(job: Job, folder: JobPaths, model_folder: Path, **kwargs: Any) -> None:
    """Score one shard; what fails it is raised."""
    from evaluation import shard

    options = {"items": folder.root / "items", "batch_tokens": 500, "tracking": DISABLED, **kwargs}
    for _, error in shard.evaluate([(job, folder)], model_path=str(model_folder), revision=None, **options):
        raise error


def digests(folder: JobPaths) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in records.parts(folder.predictions)
    }
