"""What `sweep --dry-run` prints: the tasks that would run, and on SLURM the batch scripts, byte for byte."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from launcher.cluster import ledger, sbatch
from launcher.cluster.advance import NextStep
from launcher.planning.sites import SlurmSite
from launcher.planning.tasks import Task
from study.grid.sources import OPEN
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.jobs.specs import EvalSpec, Source, TrainSpec
from study.paths import StudyPaths

MAX_LINES = 40
MAX_SCRIPTS = 100


def print_matrix(tasks: Sequence[Task], console: Console) -> None:
    """A line for each training, and one for each model with the number of languages it is evaluated in."""
    lines = [f"{task.kind:8} {task.name}" for task in tasks if task.kind in ("prepare", "train")]
    counts: dict[int, Counter[str]] = {}
    models: dict[int, Job] = {}  # by the cell, an object that the jobs of a model share
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
        console.print(f"  {escape(line)}", soft_wrap=True)
    if len(lines) > MAX_LINES:
        console.print(f"  ... and {len(lines) - MAX_LINES} more lines like these")


def scripts(
    step: NextStep, plan: Plan, paths: StudyPaths, site: SlurmSite, code: Path
) -> Iterator[dict[str, str]]:
    """The sbatch calls of a step, in order: the `command`, with what is not known yet in angle brackets, and
    the `text` of its script. code: the folder that the snapshot will have.
    """
    first = ledger.next_number(ledger.read(paths.ledger))
    placed = dict(step.queued)
    arrays = [*step.arrays, *([step.analysis] if step.analysis else [])]
    for number, array in enumerate(arrays, start=first):
        tasks = ":".join(sorted({placed[need] for need in array.needs}))
        dependency = f" --dependency=afterok:{tasks} --kill-on-invalid-dep=yes" if tasks else ""
        if array.kind == "analyse":
            dependency = " --dependency=afterany:<arrays>"
        text = sbatch.script(array, number, paths, site.profile, code, study=plan.study)
        for index, task in enumerate(array.tasks):
            placed |= dict.fromkeys(task.job_ids, f"<array of {number:04d}>_{index}")
        file = paths.submission(number) / sbatch.SCRIPT
        command = f"sbatch --comment=calsweep:<token>{dependency} {file}"
        yield {"command": command, "text": text}


def print_scripts(calls: Sequence[Mapping[str, str]], console: Console) -> None:
    """The first sbatch calls, each with its script."""
    for call in calls[:MAX_SCRIPTS]:
        console.print(f"\n# {call['command']}", markup=False, soft_wrap=True)
        console.print(call["text"], markup=False, soft_wrap=True)
    if len(calls) > MAX_SCRIPTS:
        more = len(calls) - MAX_SCRIPTS
        console.print(f"\n# ... and {more} more like these; --json prints all")


def print_open_revisions(plan: Plan) -> None:
    """Say on stderr which hub names of a plan have no commit; nothing if all have one."""
    sources: set[Source] = set()
    for job in plan.jobs:
        if isinstance(job.spec, TrainSpec):
            sources |= {job.spec.model, job.spec.dataset}
        elif isinstance(job.spec, EvalSpec):
            sources |= {job.spec.model, job.spec.benchmark.source}
    names = sorted(source.name for source in sources if source.revision == OPEN)
    if names:
        print(
            f"calsweep: the hub does not answer, so the commits of {', '.join(names)} are unknown and the "
            "job ids shown here will change; to sweep without a network, run calsweep prefetch first, or "
            "pin them as <name>@<commit>",
            file=sys.stderr,
        )
