"""All names of a study's files and folders. Nothing is named by a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout; in a job, the snapshot that it runs from."""


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
        """How the latest attempt runs: resources and tracking, both outside its identity."""
        return self.root / "execution.json"

    @property
    def env(self) -> Path:
        """Where the latest attempt ran: host, versions, git, SLURM variables."""
        return self.root / "env.json"

    @property
    def attempts(self) -> Path:
        """Journal of the job's starts and ends."""
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
        """Journal of training scalars."""
        return self.root / "metrics.jsonl"

    @property
    def certificate(self) -> Path:
        """The certificate of a training job: what `training.certificate` computed on its stack and ranks."""
        return self.root / "certificate.json"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    @property
    def progress(self) -> Path:
        """`{"done": int, "total": int, "unit": str}`, rewritten while the job runs. Also `items_per_s`, after
        an evaluation's first part, or `steps_per_s`, after a training's first step: since this attempt
        entered its loop, without loading the model.
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
        """Written last, when everything else in the folder is complete."""
        return self.root / "DONE"


def items_file(items: Path, benchmark: str, benchmark_digest: str, language: str) -> Path:
    """The table of one language in `StudyPaths.items`. benchmark_digest: of its identity, with the split."""
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
        """The ledger: journal with a line before and after each submission."""
        return self.root / "ledger.jsonl"

    @property
    def site(self) -> Path:
        """Where and how its jobs run: profile, resources and tracking of the latest sweep."""
        return self.root / "site.json"

    @property
    def queue(self) -> Path:
        """The last answer of squeue, so that many users of a study cause one query."""
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
        """A folder for each submission: batch script, packs, logs."""
        return self.root / "submissions"

    def submission(self, number: int) -> Path:
        return self.submissions / f"{number:04d}"

    @property
    def pilot(self) -> Path:
        """A separate study: one cell with few steps, which measures what this one costs."""
        return self.root / "pilot"

    @property
    def tokens(self) -> Path:
        """Tokenised datasets, shared by the jobs."""
        return self.root / "tokens"

    @property
    def synced(self) -> Path:
        """Journal of the W&B runs that were uploaded."""
        return self.root / "synced.jsonl"

    @property
    def sync_lock(self) -> Path:
        return self.root / "sync.lock"

    @property
    def items(self) -> Path:
        """Tables of each benchmark's items by language: subject, category, cultural sensitivity, ..."""
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
