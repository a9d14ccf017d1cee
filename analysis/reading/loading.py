"""From a study's folder to its shards, a cell at a time.

Cells are independent of each other (`analysis/reading/cells.py`): where there are many records each goes to a
process, and the numbers are the same.

Replicates are drawn for all shards of a benchmark and split together, and cells are compared item by item. So
within one language all must have asked the same: the first job of the plan whose records can be used says
what, and one that asked anything else is refused.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reading.cells import CellWork, Items, Planned, items_of, load_cell, read_shard
from analysis.reading.scored import Scored
from analysis.reading.shards import Cell, Missing, Shard, Study, Test
from study.errors import UserError
from study.files import read_json
from study.jobs.plan import PLAN_VERSION
from study.paths import StudyPaths

WORTH_PROCESSES = 2_000_000
"""Examples; fewer are read before a process has started."""
MAX_PROCESSES = 16
"""Each takes about 0.4 GiB."""
Part = tuple[str, str]
"""Benchmark and split: what has one draw of replicates."""
Place = tuple[str, str, str]
"""And a language: what has one list of items."""


def load_study(study_dir: Path, *, num_processes: int | None = None) -> Study:
    """Read a study folder: its plan, and the records of every evaluate job that is complete.

    num_processes: by default as many as there are cores, where there is enough to read.
    Raises UserError where the folder is not a study, has another plan version, plans no evaluation, or the
    same one twice.
    """
    return load_studies([study_dir], num_processes=num_processes)[0]


def load_studies(study_dirs: Sequence[Path], *, num_processes: int | None = None) -> list[Study]:
    """Read study folders to be compared: their replicates are drawn together. As `load_study`."""
    plans = [_read_plan(StudyPaths(Path(folder))) for folder in study_dirs]
    first = [_first_readable(plan) for plan in plans]
    resampled = _union(first)
    work = [
        cell
        for plan, readable in zip(plans, first, strict=True)
        for cell in _cells(plan, readable, resampled)
    ]
    if num_processes is None:
        many = sum(cell.num_examples for cell in work) > WORTH_PROCESSES
        num_processes = min(_num_cores(), MAX_PROCESSES) if many else 1
    loaded: dict[tuple[Path, str], Shard] = {}
    with _progress(sum(len(cell.shards) for cell in work)) as advance:
        done = _each(load_cell, work, min(num_processes, len(work)))
        for cell, shards in zip(work, done, strict=True):
            loaded.update({(cell.paths.root, shard.job_id): shard for shard in shards})
            advance(len(shards))
    return [
        Study(
            plan.name,
            plan.description,
            tuple(loaded[plan.paths.root, shard.job_id] for shard, _ in plan.shards),
        )
        for plan in plans
    ]


@dataclass(frozen=True)
class _Plan:
    """What a study is to evaluate."""

    paths: StudyPaths
    name: str
    description: str
    shards: tuple[Planned, ...]


def _read_plan(paths: StudyPaths) -> _Plan:
    if not paths.plan.is_file():
        raise UserError(
            "is not a study (no plan.json)", where=str(paths.root), remedy="give the folder <outputs>/<study>"
        )
    again = {"where": str(paths.plan), "remedy": "sweep the grid again"}
    try:
        plan = read_json(paths.plan)
        if plan["schema_version"] != PLAN_VERSION:
            raise UserError("is not a plan of this version of calsweep", **again)
        jobs = [job for job in plan["jobs"] if job["kind"] == "evaluate"]
        shards = tuple(_planned(paths, plan, job) for job in jobs)
        found = _Plan(paths, str(plan["study"]), plan.get("description") or "", shards)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"is not a plan ({error!r})", **again) from None
    if not shards:
        raise UserError(
            "plans no evaluation", where=str(paths.plan), remedy="add evaluate.benchmarks to the grid"
        )
    _refuse_doubles(found)
    return found


def _planned(paths: StudyPaths, plan: Mapping[str, Any], job: Mapping[str, Any]) -> Planned:
    """A shard without its numbers, and its spec. What is done is decided here, once: jobs may be running."""
    spec, job_id = plan["shards"][job["shard"]], str(job["job_id"])
    folder = paths.job(job_id)
    shard = Shard(
        job_id=job_id,
        cell=Cell.of(plan["models"][job["model"]]["cell"]),
        benchmark=str(spec["benchmark"]["name"]),
        split=str(spec["benchmark"].get("split", "test")),
        protocol=str(spec["protocol"]),
        language=str(spec["language"]),
        metrics=None,
        bins=None,
        record_hash=None,
        missing=None if folder.done.exists() else Missing("failed" if folder.failed.exists() else "not done"),
    )
    return shard, spec


def _refuse_doubles(plan: _Plan) -> None:
    """Two answers of one cell to one test would be averaged, as if they were seeds."""
    found: dict[tuple[Any, ...], str] = {}
    for shard, _ in plan.shards:
        if shard.place in found:
            what = ", ".join((*shard.test, shard.language))
            raise UserError(
                f"has two jobs for one cell and language, {found[shard.place]} and {shard.job_id} ({what})",
                where=str(plan.paths.plan),
                remedy="name each benchmark and split once in the grid",
            )
        found[shard.place] = shard.job_id


def _first_readable(plan: _Plan) -> dict[Place, tuple[str, Scored]]:
    """Of each place the first job whose records can be used, and its examples."""
    found: dict[Place, tuple[str, Scored]] = {}
    for shard, spec in plan.shards:
        place = (shard.benchmark, shard.split, shard.language)
        if shard.missing is None and place not in found:
            numbers = read_shard(plan.paths, shard, spec)
            if not isinstance(numbers, Missing):
                found[place] = (shard.job_id, numbers.scored)
    return found


def _union(several: Sequence[Mapping[Place, tuple[str, Scored]]]) -> dict[Part, tuple[str, ...]]:
    """The example ids of each benchmark and split, over all languages and studies."""
    ids: dict[Part, set[str]] = {}
    for found in several:
        for (benchmark, split, _), (_, scored) in found.items():
            ids.setdefault((benchmark, split), set()).update(scored.example_ids.tolist())
    return {part: tuple(sorted(names)) for part, names in ids.items()}


def _cells(
    plan: _Plan, first: Mapping[Place, tuple[str, Scored]], resampled: Mapping[Part, tuple[str, ...]]
) -> list[CellWork]:
    """The plan's shards by test and cell, each with what its jobs should have asked."""
    items: dict[Part, dict[str, Items]] = {}
    for (benchmark, split, language), (job_id, scored) in first.items():
        part = (benchmark, split)
        items.setdefault(part, {})[language] = items_of(job_id, scored, resampled[part])
    cells: dict[tuple[Test, Cell], list[Planned]] = {}
    for shard, spec in plan.shards:
        cells.setdefault((shard.test, shard.cell), []).append((shard, spec))
    return [
        CellWork(plan.paths, tuple(shards), resampled.get(test[:2], ()), items.get(test[:2], {}))
        for (test, _), shards in cells.items()
    ]


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _each(
    function: Callable[[CellWork], list[Shard]], work: Sequence[CellWork], num_processes: int
) -> Iterator[list[Shard]]:
    """`map`, over processes where there are several; UserError where one of them is killed."""
    if num_processes == 1:
        yield from map(function, work)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of Arrow hold
    with _one_blas_thread(), ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        try:
            yield from pool.map(function, work)
        except BrokenProcessPool:
            raise UserError(
                "a process that reads records was killed, mostly for want of memory",
                remedy="try again where there is more of it, or with fewer cores (taskset -c 0)",
            ) from None


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """For processes started meanwhile: with one for every core they would wait for each other."""
    before = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _progress(num_shards: int) -> Iterator[Callable[[int], object]]:
    """A bar on stderr while a terminal watches, gone at the end."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("reading records", total=num_shards)
        yield lambda count: progress.advance(bar, count)
