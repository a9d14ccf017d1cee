"""After a failed task, at the end of its batch script: `python -m launcher.aftermath STUDY NUMBER CODE`.

A killed process cannot report why it ended, and ranks that save together cannot requeue their task without
racing each other. So the script examines what they left: it requeues a task that stopped on request or whose
failure has a remedy, and records the other failures. The dependents of a requeued job keep waiting for it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.cluster import scheduler
from launcher.cluster.endings import record_failure
from launcher.cluster.execution import decide, read_execution, write_execution
from launcher.job import causes
from launcher.job.causes import Execution
from launcher.job.work import STOPPED, TERMINATED, place
from launcher.planning.sites import Site, read_site
from study.errors import UserError
from study.files import read_json, write_json
from study.jobs.job import Job, job_from
from study.paths import StudyPaths

logger = logging.getLogger("calsweep")
MAX_TRIES = 6
"""Tries of a SLURM command, each with the usual back-off: some minutes in total."""


def main(study_dir: str, number: str, code: str) -> None:
    """Requeue this task, or record why its unfinished jobs failed.

    number: of the submission. code: the exit code of srun.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    paths = StudyPaths(Path(study_dir))
    site = read_site(paths.site)
    packs = read_json(paths.submission(int(number)) / "packs.json")
    jobs = [
        job_from(read_json(paths.job(job_id).spec))
        for job_id in packs[int(os.environ["SLURM_ARRAY_TASK_ID"])]
        if not paths.job(job_id).done.is_file()
    ]
    if not jobs or jobs[0].kind == "analyse":
        return
    _, task, attempt = place()
    if int(code) == TERMINATED and not _is_running(task):
        return  # SLURM itself ended the task, and requeues it or not
    if int(code) != STOPPED:
        logs = sorted(paths.submission(int(number)).glob(f"{task}_*_log.*"))
        for job in jobs:
            record_failure(paths.job(job.job_id), attempt, task, logs)
    decisions = [decide(job, paths.job(job.job_id), site, {}, automatic=True) for job in jobs]
    executions = [decision for decision in decisions if isinstance(decision, Execution)]
    if len(executions) < len(jobs):
        for job, decision in zip(jobs, decisions, strict=True):
            if isinstance(decision, str) and int(code) == STOPPED:
                _record_no_progress(job, paths, site)
        logger.info("not started again: %s", next(d for d in decisions if isinstance(d, str)))
        return
    _requeue(jobs, executions, paths, site, task)


def _record_no_progress(job: Job, paths: StudyPaths, site: Site) -> None:
    limit = f"its time limit of {site.resources[job.kind].time_min} min"
    message = f"made no progress within {limit}; raise resources.{job.kind}.time_min"
    report = {"cause": causes.TIME_LIMIT, "error": "Stopped", "message": message, "logs": []}
    write_json(paths.job(job.job_id).failed, report)


def _requeue(
    jobs: Sequence[Job], executions: Sequence[Execution], paths: StudyPaths, site: Site, task: str
) -> None:
    """Put this task back into the queue, with more memory if that is the remedy."""
    before = [read_execution(paths.job(job.job_id)) for job in jobs]
    had = max(execution.resources.mem_gib for execution in before if execution is not None)
    needs = max(execution.resources.mem_gib for execution in executions)
    for job, execution in zip(jobs, executions, strict=True):
        write_execution(paths.job(job.job_id), execution, site)
        logger.info("%s: %s", job.name, execution.changes[-1] if execution.changes else "starts again")
    # `task` is ARRAY_INDEX: the job id of an array's last task is that of the array, and requeues all of it.
    # SLURM terminates this script as soon as the task is requeued, before it has finished
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if needs <= had:
        _scontrol("requeue", task)
        return
    _scontrol("requeuehold", task)  # held, or it could start without the additional memory
    try:
        _scontrol("update", f"JobId={task}", f"MinMemoryNode={math.ceil(needs * 1024)}")
    except UserError:
        # it must not start again with too little memory; the continuing job submits it again
        logger.warning("SLURM cannot give more memory to task %s; it will be submitted again", task)
        scheduler.cancel([task])
        return
    _scontrol("release", task)


def _is_running(task: str) -> bool:
    """Whether the task still runs for SLURM.

    A rank that srun ends because another one was killed exits with the same code as when SLURM ends the task.
    """
    return _ask("squeue", "--noheader", f"--jobs={task}", "--format=%T").strip() == "RUNNING"


def _scontrol(*arguments: str) -> None:
    _ask("scontrol", *arguments)


def _ask(*command: str) -> str:
    """Raises UserError when SLURM refuses, or does not answer for minutes: no later process tries again."""
    for _ in range(MAX_TRIES - 1):
        with contextlib.suppress(scheduler.SchedulerBusyError):
            return scheduler.ask(command)
    return scheduler.ask(command)


if __name__ == "__main__":
    main(*sys.argv[1:])
