"""Where a job's logs are: those of all attempts and ranks, and of tasks that ended before the job began."""

from __future__ import annotations

from pathlib import Path

from launcher.cluster import ledger
from study.jobs.job import Job
from study.paths import StudyPaths


def logs_of(job: Job, paths: StudyPaths) -> list[Path]:
    """Logs of the first rank of each task that had the job, oldest task first."""
    linked = list(paths.job(job.job_id).logs.glob("*"))
    known = {path.resolve() for path in linked}
    # a task that ended before the job began has left no link
    unlinked = [path for path in _submitted(job, paths) if "_0_log." in path.name and path not in known]
    return sorted((path for path in (*linked, *unlinked) if path.exists()), key=_order)


def other_ranks(job: Job, paths: StudyPaths) -> list[Path]:
    """Logs of the other ranks."""
    return sorted((path for path in _submitted(job, paths) if "_0_log." not in path.name), key=_order)


def _submitted(job: Job, paths: StudyPaths) -> list[Path]:
    logs: list[Path] = []
    for submission in ledger.read(paths.ledger):
        folder = paths.submission(submission.number).resolve()
        for task, pack in submission.tasks.items():
            if job.job_id in pack:
                logs += [*folder.glob(f"{task}_*_log.*"), *folder.glob(f"{task}/{task}_*_log.*")]
    return logs


def _order(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name
