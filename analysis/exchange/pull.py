"""`pull`: copies the records of evaluations from W&B, a project or offline run folders, into a study folder.

A folder that was swept keeps its plan, and only its own jobs are pulled. Any other folder gets a plan made
from what the runs say about themselves. Parts are copied byte by byte, job by job, DONE last: an interrupted
pull resumes at the job where it stopped. A job that the folder already has is compared with its run, and
never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.exchange.parity import difference
from analysis.exchange.wandb_runs import FoundRun, folder_runs, project_runs
from study.errors import RecordError, UserError
from study.files import canonical, locked, read_json, write_atomic, write_json
from study.jobs.job import Job, job_from
from study.jobs.plan import Plan, plan_to_dict, read_plan, write_specs
from study.jobs.specs import EvalSpec, Hyperparameters, Scratch
from study.paths import JobPaths, StudyPaths

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

PULLED = "pulled_from"
"""The key in a DONE that says where its records were pulled from."""
FLOATS = {f.name for spec in (Hyperparameters, Scratch) for f in fields(spec) if "float" in str(f.type)}
TRACKED = ("prepare", "train", "evaluate")
AXES = ("model", "dataset", *(field.name for field in fields(Hyperparameters)))


@dataclass
class Outcome:
    """Ids of jobs.

    pulled: copied now. before: pulled earlier. agree: evaluated here, the same as in W&B. waiting: not
    complete in W&B, or running here. not_theirs: from another study. problems, unreadable: id -> what is
    wrong.
    """

    pulled: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    agree: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    not_theirs: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return 1 if self.problems else 0


def pull(source: str, study_dir: Path, console: Console) -> Outcome:
    """Copy the records of a study from a W&B project (`entity/project`) or a folder with offline runs.

    Raises UserError when there are no evaluations, nobody is logged in, or the server cannot be used.
    """
    from rich.progress import Progress

    paths, outcome = StudyPaths(study_dir), Outcome()
    jobs: list[tuple[Job, FoundRun]] = []
    with (
        _runs(source) as (total, runs),
        Progress(console=console, disable=not console.is_terminal, transient=True) as progress,
    ):
        bar = progress.add_task("reading runs", total=total)
        for run in runs:
            progress.advance(bar)
            if run.kind in TRACKED:
                try:
                    jobs.append((_job_of(run), run))
                except RecordError as error:
                    outcome.unreadable[run.run_id] = str(error)
        jobs = _planned(jobs, paths, outcome)
        evaluations = [(job, run) for job, run in jobs if isinstance(job.spec, EvalSpec)]
        if not evaluations:
            why = next(iter({**outcome.unreadable, **outcome.problems}.values()), None)
            what = f"{total} runs, none of them an evaluation of this study" + (f" ({why})" if why else "")
            raise UserError(what, where=source, remedy="is it the project that the study tracked to?")
        bar = progress.add_task("pulling records", total=len(evaluations))
        for job, run in evaluations:
            _pull_one(job, run, source, paths.job(job.job_id), outcome)
            progress.advance(bar)
    return outcome


@contextmanager
def _runs(source: str) -> Iterator[tuple[int, Iterable[FoundRun]]]:
    if Path(source).is_dir():
        runs = folder_runs(Path(source))
        yield len(runs), runs
    elif source.count("/") == 1 and all(source.split("/")):
        with project_runs(source) as (total, remote):
            yield total, remote
    else:
        raise UserError(
            "neither a folder nor a project",
            where=source,
            remedy="give ENTITY/PROJECT, or a folder with runs",
        )


def _job_of(run: FoundRun) -> Job:
    """The job that a run's config describes; raises RecordError if its id does not fit that."""
    try:
        # W&B does not keep the order of a config's keys; a cell's is the order of the tables' columns
        cell = dict(sorted(run.config["cell"].items(), key=lambda item: _axis_order(item[0])))
        spec = dict(run.config["spec"])
        spec |= {key: _as_floats(spec[key]) for key in ("hyper", "scratch") if spec.get(key)}
        job = job_from(
            {"kind": run.kind, "needs": run.config["needs"], "cell": _as_floats(cell), "spec": spec}
        )
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise RecordError(f"run {run.run_id} was written by another version of calsweep: {error!r}") from None
    if job.job_id != run.run_id:
        what = f"its spec is that of {job.job_id}"
        raise RecordError(f"run {run.run_id} was written by another version of calsweep: {what}")
    return job


def _as_floats(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters that are floats as floats again: W&B writes 1.0 as 1."""
    return {
        key: float(value) if key in FLOATS and isinstance(value, int) else value
        for key, value in values.items()
    }


def _planned(
    pulled: list[tuple[Job, FoundRun]], paths: StudyPaths, outcome: Outcome
) -> list[tuple[Job, FoundRun]]:
    """The jobs that are in the folder's plan; where nothing was swept, they become the plan."""
    known = read_plan(paths).jobs if paths.plan.is_file() else ()
    if paths.grid.is_file():
        planned = {job.job_id: job for job in known}
        outcome.not_theirs += [job.job_id for job, _ in pulled if job.job_id not in planned]
        return [(planned[job.job_id], run) for job, run in pulled if job.job_id in planned]
    jobs = {job.job_id: job for job in (*(job for job, _ in pulled), *known)}
    for job_id in sorted(_doubled(jobs.values()) - {job.job_id for job in known}):
        outcome.problems[job_id] = (
            f"{jobs.pop(job_id).name} was evaluated in two ways, which tables could not tell apart: pull "
            "from a folder or project with one of them"
        )
    if any(isinstance(job.spec, EvalSpec) for job in jobs.values()):
        plan = Plan(paths.root.resolve().name, None, tuple(sorted(jobs.values(), key=_order)))
        text = json.dumps(plan_to_dict(plan), ensure_ascii=False, allow_nan=False) + "\n"
        if not paths.plan.is_file() or paths.plan.read_text(encoding="utf-8") != text:
            write_atomic(paths.plan, text)
    return [(job, run) for job, run in pulled if job.job_id in jobs]


def _doubled(jobs: Iterable[Job]) -> set[str]:
    """The ids of evaluations that a table could not tell apart, say of two revisions of a benchmark."""
    places: dict[str, list[str]] = {}
    for job in jobs:
        if isinstance(job.spec, EvalSpec):
            benchmark, cell = job.spec.benchmark, {k: v for k, v in job.cell.items() if v is not None}
            place = [cell, benchmark.name, benchmark.split, job.spec.protocol, job.spec.language]
            places.setdefault(canonical(place), []).append(job.job_id)
    return {job_id for several in places.values() if len(several) > 1 for job_id in several}


def _axis_order(axis: str) -> tuple[int, str]:
    return (AXES.index(axis) if axis in AXES else len(AXES), axis)


def _order(job: Job) -> tuple[object, ...]:
    """Needs first, base models before trained ones, axes by their values; the same for every pull."""
    axes = [
        (axis, (0, value, "") if isinstance(value, int | float) else (1, 0, str(value)))
        for axis, value in job.cell.items()
    ]
    shard = (job.spec.benchmark.name, job.spec.language) if isinstance(job.spec, EvalSpec) else ("", "")
    return (TRACKED.index(job.kind), len(axes), axes, shard, job.job_id)


def _pull_one(job: Job, run: FoundRun, source: str, folder: JobPaths, outcome: Outcome) -> None:
    # `num_skipped` is the last value that an evaluation logs, once its records are complete
    if not run.ended or "num_skipped" not in run.summary:
        outcome.waiting.append(job.job_id)
        return
    with locked(folder.lock, wait=False) as lock:
        if lock is None:
            outcome.waiting.append(job.job_id)
            return
        try:
            done = read_json(folder.done) if folder.done.is_file() else None
            if done is not None and done.get(PULLED) == source:
                _check_hashes(folder, done["parts"])
                outcome.before.append(job.job_id)
                return
            parts = run.read_parts()
            theirs = _checked(parts, job, run)
            _check_agree(folder, parts, theirs, is_complete=done is not None)
            if done is not None:
                outcome.agree.append(job.job_id)
                return
            for name, content in parts.items():
                if not (folder.predictions / name).is_file():
                    write_atomic(folder.predictions / name, content)
        except RecordError as error:
            outcome.problems[job.job_id] = str(error)
            return
        write_specs([job], StudyPaths(folder.root.parents[1]))
        write_json(
            folder.done,
            {
                "job_id": job.job_id,
                "num_items": len(set(theirs["example_id"].to_pylist())),  # each in all its rotations
                "num_skipped": run.summary["num_skipped"],
                "num_cut": run.summary.get("num_cut"),
                "parts": {name: _hash(folder.predictions / name) for name in sorted(parts)},
                PULLED: source,
            },
        )
        outcome.pulled.append(job.job_id)


def _checked(parts: Mapping[str, bytes], job: Job, run: FoundRun) -> pa.Table:
    """The records of a run; raises RecordError if they are incomplete, or belong to another job."""
    from study.records import read_predictions

    assert isinstance(job.spec, EvalSpec)
    try:
        table, info = read_predictions(Path("predictions"), parts)
    except RecordError as error:
        raise RecordError(f"run {run.run_id}: {error}") from None
    expected = (job.job_id, job.spec.benchmark.name, job.spec.language, job.spec.protocol)
    actual = (info.job_id, info.benchmark, info.language, info.protocol)
    if actual != expected:
        raise RecordError(f"run {run.run_id}: its records belong to {', '.join(actual)}")
    if table.num_rows != run.summary.get("num_items"):
        counts = f"{table.num_rows} of {run.summary.get('num_items')} records"
        raise RecordError(f"run {run.run_id}: {counts} are in W&B; sync it again from where it ran")
    return table


def _check_agree(
    folder: JobPaths, parts: Mapping[str, bytes], theirs: pa.Table, *, is_complete: bool
) -> None:
    """Raises RecordError where local records differ from a run's; unless complete, some may be missing."""
    from study.records import parts as local_parts
    from study.records import read_part, read_predictions

    if not is_complete:
        for path in local_parts(folder.predictions):
            if path.name not in parts:
                raise RecordError(f"{path}: W&B has other parts: {', '.join(sorted(parts))}")
            ours, _ = read_part(path)
            start = int(path.name.split("-")[1])
            _refuse(difference(ours, theirs.slice(start, ours.num_rows)), path)
    elif any(
        not (folder.predictions / name).is_file() or (folder.predictions / name).read_bytes() != content
        for name, content in parts.items()
    ):
        _refuse(difference(read_predictions(folder.predictions)[0], theirs), folder.predictions)


def _refuse(text: str | None, path: Path) -> None:
    if text is not None:
        raise RecordError(f"{path}: differs from W&B's: {text}; nothing was changed")


def _check_hashes(folder: JobPaths, expected: Mapping[str, str]) -> None:
    for name, known in expected.items():
        path = folder.predictions / name
        if not path.is_file() or _hash(path) != known:
            state = "was changed since it was pulled" if path.is_file() else "is missing"
            raise RecordError(f"{path}: {state}; remove {folder.root} and pull again")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print what was pulled, what agrees, what does not and why."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    for job_id, problem in outcome.problems.items():
        say(f"{job_id}  {problem}")
    counts: dict[str, Any] = {
        "were pulled before": outcome.before,
        "are here already, the same": outcome.agree,
        "are not complete": outcome.waiting,
        "belong to another study": outcome.not_theirs,
        "were written by another version of calsweep": outcome.unreadable,
        "refused": outcome.problems,
    }
    pulled = f"pulled {len(outcome.pulled)} evaluations"
    say("; ".join([pulled, *(f"{len(ids)} {text}" for text, ids in counts.items() if ids)]))
