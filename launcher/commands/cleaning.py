"""`calsweep gc`: delete checkpoints that no job needs any more, and files that killed writers left.

Code snapshots stay: they are small, and may be the only copy of uncommitted code behind a result.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import ledger
from launcher.state.lookup import add_study_arguments, open_study
from study.errors import UserError
from study.files import locked
from study.jobs.plan import Plan
from study.paths import JobPaths, StudyPaths
from study.terminal import print_json, shown

KEPT = ("model", "wandb")
"""Folders of a job that are never searched: results, and files that other programs may be writing."""


@dataclass(frozen=True)
class Removable:
    """A folder or file that can be deleted. num_bytes: total size of its files."""

    job_id: str
    path: Path
    num_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be deleted, and delete nothing"
    )


def run(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    with nullcontext() if options.dry_run else ledger.held(paths):
        removed = collect(plan, paths, delete=not options.dry_run)
    total = sum(each.num_bytes for each in removed)
    if options.json:
        freed = [{"job_id": each.job_id, "path": str(each.path), "bytes": each.num_bytes} for each in removed]
        print_json({"freed": freed, "bytes": total, "deleted": not options.dry_run})
        return 0
    for each in removed:
        print(f"{each.num_bytes / 2**30:10.3f} GiB  {shown(each.path)}")
    verb = "would be freed" if options.dry_run else "freed"
    print(f"{total / 2**30:.3f} GiB {verb}" if removed else "nothing to delete: all that is left is needed")
    return 0


def collect(plan: Plan, paths: StudyPaths, *, delete: bool = False) -> list[Removable]:
    """What can be deleted, in plan order; `delete` deletes it.

    Checkpoints of a training if it and all jobs of the plan that need it are complete; unfinished files of
    killed writers in complete jobs. Never a model or a record, nothing of a running job, nothing outside the
    study's folder, and nothing of jobs that are not in the plan.
    Raises UserError for what may not be deleted.
    """
    jobs = paths.root.resolve() / "jobs"
    done = set() if jobs.is_symlink() else {marker.parent.name for marker in jobs.glob("*/DONE")}
    # (the analysis reads only records)
    unfinished = [job for job in plan.jobs if job.kind != "analyse" and job.job_id not in done]
    needed = {need for job in unfinished for need in job.needs}
    result: list[Removable] = []
    for job in plan.jobs if done else ():
        folder = JobPaths(jobs / job.job_id)
        if job.job_id not in done or folder.root.is_symlink():
            continue
        removable = list(_torn(folder))
        trained = job.kind in ("prepare", "train") and job.job_id not in needed
        if trained and folder.checkpoints.is_dir() and not folder.checkpoints.is_symlink():
            removable = [path for path in removable if not path.is_relative_to(folder.checkpoints)]
            removable.append(folder.checkpoints)
        if not removable:
            continue
        with _idle(folder) as idle:
            if idle:
                result += [Removable(job.job_id, path, _num_bytes(path)) for path in removable]
                for path in removable if delete else ():
                    _delete(path)
    return result


def _torn(folder: JobPaths) -> Iterator[Path]:
    """What killed writers left: every file and folder of ours has a name in .tmp until it is complete."""
    for place, folders, files in os.walk(folder.root):  # does not follow links
        parent = Path(place)
        torn = [name for name in (*folders, *files) if name.endswith(".tmp")]
        yield from (parent / name for name in torn)
        left_out = {*torn, *(KEPT if parent == folder.root else ())}
        folders[:] = [name for name in folders if name not in left_out]


@contextmanager
def _idle(folder: JobPaths) -> Iterator[bool]:
    """Whether no process works on the job; none can begin to while the block runs."""
    if not folder.lock.exists():  # and none is created, so that a dry run changes nothing
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
            remedy="check its owner and permissions, then run calsweep gc again",
        ) from None
