"""After a task that ended badly, from its batch script: `python -m launcher.aftermath STUDY NUMBER CODE`.

A process that was killed cannot tell why, and ranks that save together cannot requeue without racing each
other. So the script looks at what they left: it requeues a task that was told to stop, and one that failed in
a way that another try may mend, and writes down the rest. Behind a requeued job its dependents keep waiting.
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
from launcher.cluster.diagnosis import write_down
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
PATIENCE = 6
"""How often SLURM is asked, each time with the usual back-off, before the task is left: some minutes."""


def main(study_dir: str, number: str, code: str) -> None:
    """Look at this task's jobs, and requeue it or write down why not."""
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
    if int(code) == TERMINATED and not _runs_still(task):
        return  # SLURM itself ended the task, and does with it what it wants
    if int(code) != STOPPED:
        logs = sorted(paths.submission(int(number)).glob(f"{task}_*_log.*"))
        for job in jobs:
            write_down(paths.job(job.job_id), attempt, task, logs)
    decisions = [decide(job, paths.job(job.job_id), site, {}, automatic=True) for job in jobs]
    again = [decision for decision in decisions if isinstance(decision, Execution)]
    if len(again) < len(jobs):
        for job, decision in zip(jobs, decisions, strict=True):
            if isinstance(decision, str) and int(code) == STOPPED:
                _give_up(job, paths, site)
        logger.info("not run again: %s", next(d for d in decisions if isinstance(d, str)))
        return
    _requeue(jobs, again, paths, site, task)


def _give_up(job: Job, paths: StudyPaths, site: Site) -> None:
    minutes = site.resources[job.kind].time_min
    message = f"got no further within its time limit of {minutes} min; raise resources.{job.kind}.time_min"
    report = {"cause": causes.TIME_LIMIT, "error": "Stopped", "message": message, "logs": []}
    write_json(paths.job(job.job_id).failed, report)


def _requeue(
    jobs: Sequence[Job], again: Sequence[Execution], paths: StudyPaths, site: Site, task: str
) -> None:
    """Put this task back into the queue, with more memory where that is the remedy."""
    before = [read_execution(paths.job(job.job_id)) for job in jobs]
    had = max(execution.resources.mem_gib for execution in before if execution is not None)
    needs = max(execution.resources.mem_gib for execution in again)
    for job, execution in zip(jobs, again, strict=True):
        write_execution(paths.job(job.job_id), execution, site)
        logger.info(
            "%s: %s", job.name, execution.changes[-1] if execution.changes else "runs again as it was"
        )
    # By its place in the array: the last task's own id is the array's, and would requeue all of them.
    # SLURM ends this script at once: it must live a moment longer
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if needs <= had:
        _scontrol("requeue", task)
        return
    _scontrol("requeuehold", task)  # held, or it would start before it has the memory
    try:
        _scontrol("update", f"JobId={task}", f"MinMemoryNode={math.ceil(needs * 1024)}")
    except UserError:
        # never again into the same lack: the job that goes on submits it anew
        logger.warning("SLURM gives task %s no more memory where it is; it is submitted anew later", task)
        scheduler.cancel([task])
        return
    _scontrol("release", task)


def _runs_still(task: str) -> bool:
    """Whether the task goes on for SLURM. A rank that srun ends, because another one was killed, may exit as
    if SLURM had ended the task.
    """
    return _ask("squeue", "--noheader", f"--jobs={task}", "--format=%T").strip() == "RUNNING"


def _scontrol(*arguments: str) -> None:
    _ask("scontrol", *arguments)


def _ask(*command: str) -> str:
    """Raises UserError when SLURM refuses, or does not answer for minutes: nobody asks again for this job."""
    for _ in range(PATIENCE - 1):
        with contextlib.suppress(scheduler.SchedulerBusyError):
            return scheduler.ask(command)
    return scheduler.ask(command)


if __name__ == "__main__":
    main(*sys.argv[1:])
