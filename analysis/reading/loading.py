"""From a study's folder to its shards, in one pass over the records: each part is read and hashed once.

Cells are independent of each other (`analysis/reading/cells.py`): where there are many records they are
shared out over processes, and the numbers are the same.

Replicates are drawn for all shards of a benchmark and split together, and cells are compared item by item. So
all jobs on one language must have asked the same items: the first job of the plan whose records can be used
says which, and a job that asked anything else is refused. These first records, about one cell for each
benchmark and split, stay in memory until their cell is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from analysis.reading.cell_records import Answers, reported, validation_of
from analysis.reading.cells import (
    CANNOT_BE_USED,
    CellWork,
    Items,
    Loaded,
    Planned,
    Visit,
    Work,
    comparison_order,
    items_of,
    load_cells,
    read_shard,
    refused,
)
from analysis.reading.shards import Cell, Missing, Shard, Study, Test
from study.errors import UserError
from study.files import read_json
from study.jobs.contrasts import EQUIVALENCE_MARGIN, DeclaredContrast, declared_contrasts
from study.jobs.plan import PLAN_VERSION
from study.paths import StudyPaths

WORTH_PROCESSES = 2_000_000
"""Examples; fewer are read before a process has started."""
MAX_PROCESSES = 16
"""Each takes about 0.4 GiB, and about 0.9 GiB where cells are visited."""

T = TypeVar("T")
Part = tuple[str, str]
"""Benchmark and split: what has one draw of replicates."""
Place = tuple[str, str, str]
"""And a language: what has one list of items."""
Visited = dict[tuple[Test, Cell], T]
"""What a visit returned for each cell."""


def load_study(study_dir: Path, *, num_processes: int | None = None) -> Study:
    """Read a study folder: its plan, and the records of every evaluate job that is complete.

    num_processes: by default one for each core if there is enough to read.
    Raises UserError where the folder is not a study, has another plan version, plans no evaluation, or the
    same one twice.
    """
    return load_studies([study_dir], num_processes=num_processes)[0]


def load_studies(study_dirs: Sequence[Path], *, num_processes: int | None = None) -> list[Study]:
    """Read study folders to be compared: their replicates are drawn together. As `load_study`."""
    plans, work = _planned_work(study_dirs)
    loaded, _ = _load([Work((cell,)) for cell in work], num_processes)
    return [plan.study(loaded) for plan in plans]


def visit_study(
    study_dir: Path, visit_for: Callable[[Study], Visit[T]], *, num_processes: int | None = None
) -> tuple[Study, Visited[T]]:
    """Read a study folder, and compute something from the records of each cell in the same pass.

    visit_for: called with the study as planned, without numbers. The function that it returns is called
    with each cell on each test but validation splits, in the process that read the cell: it is pickled.
    The cells of one model on one benchmark are read by one process, since they are compared with each other.
    Otherwise as `load_study`.
    """
    (plan,), cells = _planned_work([study_dir])
    planned = plan.study({})
    visit = visit_for(planned)
    in_plan = {cell: place for place, cell in enumerate(planned.runs())}
    by_model: dict[tuple[Any, ...], list[CellWork]] = {}
    for cell in sorted(cells, key=lambda work: in_plan[work.cell]):
        benchmark, _, protocol = cell.test
        by_model.setdefault((benchmark, protocol, cell.cell.get("model")), []).append(cell)
    validation = {(test[0], test[2]): validation_of(planned, test) for test in reported(planned)}
    work = [
        Work(tuple(comparison_order(group)), visit, validation.get((benchmark, protocol)))
        for (benchmark, protocol, _), group in by_model.items()
    ]
    loaded, visited = _load(work, num_processes)
    return plan.study(loaded), visited


def _load(
    work: Sequence[Work[T]], num_processes: int | None
) -> tuple[dict[tuple[Path, str], Shard], Visited[T]]:
    """The shards by the root of their study and job id, and what was computed from each cell."""
    cells = [cell for each in work for cell in each.cells]
    if num_processes is None:
        many = sum(cell.num_examples for cell in cells) > WORTH_PROCESSES
        num_processes = min(_num_cores(), MAX_PROCESSES) if many else 1
    loaded: dict[tuple[Path, str], Shard] = {}
    visited: Visited[T] = {}
    with _progress(sum(len(cell.shards) for cell in cells)) as advance:
        results = _each_cell(work, min(num_processes, len(work)))
        for cell, (shards, result) in zip(cells, results, strict=True):
            loaded.update({(cell.paths.root, shard.job_id): shard for shard in shards})
            if result is not None:
                visited[cell.test, cell.cell] = result
            advance(len(shards))
    return loaded, visited


@dataclass(frozen=True)
class _Plan:
    """What a study is to evaluate."""

    paths: StudyPaths
    name: str
    description: str
    shards: tuple[Planned, ...]
    contrasts: tuple[DeclaredContrast, ...]
    equivalence_margin: float

    def study(self, loaded: Mapping[tuple[Path, str], Shard]) -> Study:
        """The study, with the numbers of those shards that are loaded."""
        shards = (loaded.get((self.paths.root, shard.job_id), shard) for shard, _ in self.shards)
        return Study(self.name, self.description, tuple(shards), self.contrasts, self.equivalence_margin)


def _planned_work(study_dirs: Sequence[Path]) -> tuple[list[_Plan], list[CellWork]]:
    """The studies, and each of their cells on each test, in the order of the plans."""
    plans, first_usable = [], []
    for folder in study_dirs:
        plan, first = _first_usable(_read_plan(StudyPaths(Path(folder))))
        plans.append(plan)
        first_usable.append(first)
    resampled = _union(first_usable)
    work = [
        cell
        for plan, first in zip(plans, first_usable, strict=True)
        for cell in _cells(plan, first, resampled)
    ]
    return plans, work


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
        contrasts = declared_contrasts(plan.get("contrasts", []), str(paths.plan))
        margin = float(plan.get("equivalence_margin", EQUIVALENCE_MARGIN))
        read = _Plan(paths, str(plan["study"]), plan.get("description") or "", shards, contrasts, margin)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"is not a plan ({error!r})", **again) from None
    if not shards:
        raise UserError(
            "plans no evaluation", where=str(paths.plan), remedy="add evaluate.benchmarks to the grid"
        )
    _refuse_doubles(read)
    return read


def _planned(paths: StudyPaths, plan: Mapping[str, Any], job: Mapping[str, Any]) -> Planned:
    """A shard without its numbers, and its spec. Whether it is done is decided once: jobs may be running."""
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
    job_ids: dict[tuple[Any, ...], str] = {}
    for shard, _ in plan.shards:
        if shard.place in job_ids:
            what = ", ".join((*shard.test, shard.language))
            raise UserError(
                f"has two jobs for one cell and language, {job_ids[shard.place]} and {shard.job_id} ({what})",
                where=str(plan.paths.plan),
                remedy="name each benchmark and split once in the grid",
            )
        job_ids[shard.place] = shard.job_id


def _first_usable(plan: _Plan) -> tuple[_Plan, dict[Place, tuple[str, Answers]]]:
    """For each place the first job whose records can be used, and these.

    The plan is returned with the reasons of the jobs before it, whose records cannot be used.
    """
    first: dict[Place, tuple[str, Answers]] = {}
    shards = []
    for shard, spec in plan.shards:
        place = (shard.benchmark, shard.split, shard.language)
        if shard.missing is None and place not in first:
            try:
                first[place] = (shard.job_id, read_shard(plan.paths, shard, spec))
            except CANNOT_BE_USED as error:
                shard = refused(plan.paths, shard, error)
        shards.append((shard, spec))
    return replace(plan, shards=tuple(shards)), first


def _union(several: Sequence[Mapping[Place, tuple[str, Answers]]]) -> dict[Part, tuple[str, ...]]:
    """The example ids of each benchmark and split, over all languages and studies."""
    ids: dict[Part, set[str]] = {}
    for first in several:
        for (benchmark, split, _), (_, answers) in first.items():
            ids.setdefault((benchmark, split), set()).update(answers.scored.example_ids.tolist())
    return {part: tuple(sorted(names)) for part, names in ids.items()}


def _cells(
    plan: _Plan, first: Mapping[Place, tuple[str, Answers]], resampled: Mapping[Part, tuple[str, ...]]
) -> list[CellWork]:
    """The plan's shards by test and cell, each with the items that its jobs have to ask."""
    items: dict[Part, dict[str, Items]] = {}
    for (benchmark, split, language), (job_id, answers) in first.items():
        part = (benchmark, split)
        items.setdefault(part, {})[language] = items_of(job_id, answers.scored, resampled[part])
    already_read = dict(first.values())
    cells: dict[tuple[Test, Cell], list[Planned]] = {}
    for shard, spec in plan.shards:
        cells.setdefault((shard.test, shard.cell), []).append((shard, spec))
    return [
        CellWork(
            plan.paths,
            tuple(shards),
            resampled.get(test[:2], ()),
            items.get(test[:2], {}),
            {shard.job_id: already_read[shard.job_id] for shard, _ in shards if shard.job_id in already_read},
        )
        for (test, _), shards in cells.items()
    ]


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _each_cell(work: Sequence[Work[T]], num_processes: int) -> Iterator[Loaded[T]]:
    """The cells of each work in order, from several processes or this one; UserError if one is killed."""
    if num_processes == 1:
        for each in work:
            loaded = load_cells(each)
            yield from loaded
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of Arrow hold
    with _one_blas_thread(), ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        try:
            for several in pool.map(_load_all, work):
                yield from several
        except BrokenProcessPool:
            raise UserError(
                "a process that reads records was killed, most likely for lack of memory",
                remedy="try again on a machine with more of it, or with fewer cores (taskset -c 0)",
            ) from None


def _load_all(work: Work[T]) -> list[Loaded[T]]:
    loaded = load_cells(work)
    return list(loaded)


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
    """A bar on stderr if that is a terminal; it disappears at the end."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("reading records", total=num_shards)
        yield lambda count: progress.advance(bar, count)
