"""`calsweep gc`: give back the disk that optimizer states take once nothing needs them.

Code snapshots stay: they are small, and may be the only copy of uncommitted code behind a result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from study.errors import UserError
from study.files import locked
from study.jobs.plan import Plan
from study.paths import JobPaths, StudyPaths

KEPT = ("model", "wandb")
"""Folders of a job that are not looked into: results, and what others may be writing."""


@dataclass(frozen=True)
class Freed:
    """Something that goes: a folder or a file. num_bytes: the sizes of its files."""

    job_id: str
    path: Path
    num_bytes: int


def collect(plan: Plan, paths: StudyPaths, *, delete: bool = False) -> list[Freed]:
    """What can go, in plan order; with `delete` it is gone.

    Checkpoints of a training run, when it and every job of the plan that needs it are complete; files that a
    writer was killed over, in complete jobs. Never a model or a record, never anything of a job at work or
    outside the study's folder, and nothing of jobs that another plan left here.
    Raises UserError for what may not be deleted.
    """
    jobs = paths.root.resolve() / "jobs"
    done = set() if jobs.is_symlink() else {marker.parent.name for marker in jobs.glob("*/DONE")}
    # (the analysis reads records alone)
    unfinished = [job for job in plan.jobs if job.kind != "analyse" and job.job_id not in done]
    needed = {need for job in unfinished for need in job.needs}
    freed: list[Freed] = []
    for job in plan.jobs if done else ():
        folder = JobPaths(jobs / job.job_id)
        if job.job_id not in done or folder.root.is_symlink():
            continue
        found = list(_torn(folder))
        trained = job.kind in ("prepare", "train") and job.job_id not in needed
        if trained and folder.checkpoints.is_dir() and not folder.checkpoints.is_symlink():
            found = [path for path in found if not path.is_relative_to(folder.checkpoints)]
            found.append(folder.checkpoints)
        if not found:
            continue
        with _at_rest(folder) as at_rest:
            if at_rest:
                freed += [Freed(job.job_id, path, _num_bytes(path)) for path in found]
                for path in found if delete else ():
                    _delete(path)
    return freed


def _torn(folder: JobPaths) -> Iterator[Path]:
    """What a killed writer left: names that end in .tmp, as everything of ours does until it is whole."""
    for place, folders, files in os.walk(folder.root):  # does not follow links
        here = Path(place)
        torn = [name for name in (*folders, *files) if name.endswith(".tmp")]
        yield from (here / name for name in torn)
        left_out = {*torn, *(KEPT if here == folder.root else ())}
        folders[:] = [name for name in folders if name not in left_out]


@contextmanager
def _at_rest(folder: JobPaths) -> Iterator[bool]:
    """Whether no process works on the job; none can begin while the block runs."""
    if not folder.lock.exists():  # nor is one made here: a look changes nothing
        yield True
        return
    with locked(folder.lock, wait=False) as lock:
        yield lock is not None


def _num_bytes(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum((Path(place) / name).lstat().st_size for place, _, files in os.walk(path) for name in files)


def _delete(path: Path) -> None:
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise UserError(
            f"cannot be deleted ({error.strerror})",
            where=str(error.filename or path),
            remedy="see whose it is, then run calsweep gc again",
        ) from None
