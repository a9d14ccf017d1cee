"""Every file and folder name of a study, once. Nothing is named by a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout; in a job the copy of it that the job runs from."""


@dataclass(frozen=True)
class JobPaths:
    """The folder of one job, `jobs/<job_id>/`."""

    root: Path

    @property
    def spec(self) -> Path:
        """The job as planned: id, kind, needs, cell, spec."""
        return self.root / "spec.json"

    @property
    def execution(self) -> Path:
        """How the latest attempt runs it: resources and tracking, both outside identity."""
        return self.root / "execution.json"

    @property
    def env(self) -> Path:
        """Where the latest attempt ran: host, versions, git, SLURM variables."""
        return self.root / "env.json"

    @property
    def attempts(self) -> Path:
        """The job's starts and ends, one JSON object a line."""
        return self.root / "attempts.jsonl"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of a training run, one folder each, as training/engine/checkpoint.py writes them."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The exported Hugging Face folder of a prepare or train job."""
        return self.root / "model"

    @property
    def metrics(self) -> Path:
        """Training scalars, one JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def certificate(self) -> Path:
        """Of a training run: what `training.certificate` found on the stack and the ranks it ran on."""
        return self.root / "certificate.json"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    @property
    def progress(self) -> Path:
        """`{"done": int, "total": int, "unit": str}`, rewritten while the job runs; also `items_per_s`
        after an evaluation's first part, `steps_per_s` after a training's first step: since this attempt
        entered its loop, without what it took to load the model.
        """
        return self.root / "progress.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def failed(self) -> Path:
        """Why the latest attempt failed; removed when an attempt starts."""
        return self.root / "FAILED"

    @property
    def done(self) -> Path:
        """Written last: everything else in the folder is complete."""
        return self.root / "DONE"


def items_file(items: Path, benchmark: str, benchmark_digest: str, language: str) -> Path:
    """The table of one language in `StudyPaths.items`. benchmark_digest: of its identity, split included."""
    name = re.sub(r"[^\w.-]", "_", benchmark)
    return items / f"{name}-{benchmark_digest[:8]}" / f"{language}.parquet"


@dataclass(frozen=True)
class StudyPaths:
    """The folder of a study, `<outputs>/<study>/`."""

    root: Path

    @property
    def grid(self) -> Path:
        """The grid as resolved at the latest sweep, defaults and overrides included."""
        return self.root / "grid.yaml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def ledger(self) -> Path:
        """What was submitted, one JSON object a line, appended before and after each submission."""
        return self.root / "ledger.jsonl"

    @property
    def site(self) -> Path:
        """Where and how its jobs run: profile, resources, tracking, as of the latest sweep."""
        return self.root / "site.json"

    @property
    def queue(self) -> Path:
        """What squeue said last, so that many looks at a study cost SLURM one."""
        return self.root / "queue.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def code(self) -> Path:
        """Snapshots of the code, one folder for each content hash."""
        return self.root / "code"

    @property
    def submissions(self) -> Path:
        """What was handed to the cluster: batch scripts, packs, logs."""
        return self.root / "submissions"

    def submission(self, number: int) -> Path:
        return self.submissions / f"{number:04d}"

    @property
    def pilot(self) -> Path:
        """A small study of its own: one cell with few steps, swept to measure what this one costs."""
        return self.root / "pilot"

    @property
    def tokens(self) -> Path:
        """Tokenised datasets, which the jobs share."""
        return self.root / "tokens"

    @property
    def synced(self) -> Path:
        """What of the W&B runs the server has, one JSON object a line."""
        return self.root / "synced.jsonl"

    @property
    def sync_lock(self) -> Path:
        return self.root / "sync.lock"

    @property
    def items(self) -> Path:
        """What the items of each benchmark and language are: subject, category, cultural sensitivity, ..."""
        return self.root / "items"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def dashboard(self) -> Path:
        return self.root / "dashboard.html"

    def job(self, job_id: str) -> JobPaths:
        return JobPaths(self.root / "jobs" / job_id)
