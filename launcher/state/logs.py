"""Where a job's logs are: of all its attempts, whichever rank wrote them, and also when it never began."""

from __future__ import annotations

from pathlib import Path

from launcher.cluster import ledger
from study.jobs.job import Job
from study.paths import StudyPaths


def logs_of(job: Job, paths: StudyPaths) -> list[Path]:
    """Logs of the first rank of each task that a job was given to, the oldest task first."""
    linked = list(paths.job(job.job_id).logs.glob("*"))
    known = {path.resolve() for path in linked}
    # a task that died before the job began has left no link
    others = [path for path in _submitted(job, paths) if "_0_log." in path.name and path not in known]
    return sorted((path for path in (*linked, *others) if path.exists()), key=_order)


def other_ranks(job: Job, paths: StudyPaths) -> list[Path]:
    """Logs of the other ranks."""
    return sorted((path for path in _submitted(job, paths) if "_0_log." not in path.name), key=_order)


def _submitted(job: Job, paths: StudyPaths) -> list[Path]:
    found: list[Path] = []
    for entry in ledger.read(paths.ledger):
        folder = paths.submission(entry.number).resolve()
        for task, pack in entry.tasks.items():
            if job.job_id in pack:
                found += [*folder.glob(f"{task}_*_log.*"), *folder.glob(f"{task}/{task}_*_log.*")]
    return found


def _order(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name
