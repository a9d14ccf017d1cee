"""`--dry-run`: what would be run, and on SLURM the batch scripts, byte for byte."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from launcher.cluster import ledger, sbatch
from launcher.cluster.advance import Step
from launcher.planning.sites import Site
from launcher.planning.tasks import Task
from study.grid.sources import OPEN
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.jobs.specs import EvalSpec, Source, TrainSpec
from study.paths import StudyPaths

MAX_LINES = 40
MAX_SCRIPTS = 100


@dataclass(frozen=True)
class Script:
    """One sbatch call to come. command: with what is only known then in angle brackets."""

    command: str
    text: str


def print_matrix(tasks: Sequence[Task], console: Console) -> None:
    """One line per model: what is to be trained, and in how many languages it is to be evaluated."""
    lines = [f"{task.kind:8} {task.name}" for task in tasks if task.kind in ("prepare", "train")]
    counts: dict[int, Counter[str]] = {}
    models: dict[int, Job] = {}  # by the cell, which the jobs of a model share
    for task in tasks:
        for job in task.jobs:
            if isinstance(job.spec, EvalSpec):
                models.setdefault(id(job.cell), job)
                counts.setdefault(id(job.cell), Counter())[job.spec.benchmark.label] += 1
    for key, job in models.items():
        languages = ", ".join(f"{name} in {count} languages" for name, count in counts[key].items())
        lines.append(f"evaluate {job.cell_name} · {languages}")
    lines += [f"{task.kind:8} {task.name}" for task in tasks if task.kind == "analyse"]
    for line in lines[:MAX_LINES]:
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if len(lines) > MAX_LINES:
        console.print(f"  ... and {len(lines) - MAX_LINES} lines more like these", highlight=False)


def scripts(step: Step, plan: Plan, paths: StudyPaths, site: Site, code: Path) -> Iterator[Script]:
    """The sbatch calls of a step, in order."""
    assert site.profile is not None
    number = ledger.next_number(ledger.read(paths.ledger))
    placed = dict(step.queued)
    batches = [*step.batches, *([step.analysis] if step.analysis else [])]
    for at, batch in enumerate(batches, start=number):
        waits = ":".join(sorted({placed[need] for need in batch.needs}))
        options = [f" --dependency=afterok:{waits} --kill-on-invalid-dep=yes"] if waits else []
        if batch.kind == "analyse":
            options = [" --dependency=afterany:<arrays>"]
        text = sbatch.script(batch, at, paths, site.profile, code, study=plan.study)
        for index, task in enumerate(batch.tasks):
            placed |= dict.fromkeys(task.job_ids, f"<array of {at:04d}>_{index}")
        command = (
            f"sbatch --comment=calsweep:<token>{''.join(options)} {paths.submission(at) / sbatch.SCRIPT}"
        )
        yield Script(command, text)


def print_scripts(found: Sequence[Script], console: Console) -> None:
    """Each call and its script, as many as anybody would read."""
    for script in found[:MAX_SCRIPTS]:
        console.print(f"\n# {script.command}", markup=False, highlight=False, soft_wrap=True)
        console.print(script.text, markup=False, highlight=False, soft_wrap=True)
    if len(found) > MAX_SCRIPTS:
        more = len(found) - MAX_SCRIPTS
        console.print(f"\n# ... and {more} more like these; --json prints all", highlight=False)


def tell_open_revisions(plan: Plan) -> None:
    """Say on stderr which hub names of a plan have no commit; nothing when all have one."""
    sources: set[Source] = set()
    for job in plan.jobs:
        if isinstance(job.spec, TrainSpec):
            sources |= {job.spec.model, job.spec.dataset}
        elif isinstance(job.spec, EvalSpec):
            sources |= {job.spec.model, job.spec.benchmark.source}
    names = sorted(source.name for source in sources if source.revision == OPEN)
    if names:
        print(
            f"calsweep: the hub does not answer: the commits of {', '.join(names)} are not known, so job ids "
            "will be others; without a network a sweep needs them prefetched, or pinned as <name>@<commit>",
            file=sys.stderr,
        )
