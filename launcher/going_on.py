"""Continue a study: `python -m launcher.going_on STUDY`, at the start of an analysis job's batch script.

Submits what can be submitted by now, and another job like this one behind it. Exit code CONTINUED; 0 when
nothing is left to submit and this job is to make the tables.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from launcher.cluster.advance import next_step, note_found_arrays, submit_step
from launcher.cluster.sbatch import CONTINUED
from launcher.cluster.scheduler import ask_queue
from launcher.cluster.snapshot import take_snapshot
from launcher.job.work import place
from launcher.planning.sites import SlurmSite, read_site
from study.errors import CalsweepError
from study.files import locked
from study.jobs.plan import read_plan
from study.paths import StudyPaths

logger = logging.getLogger("calsweep")


def continue_study(paths: StudyPaths, task: str) -> bool:
    """Take the study's next step; returns whether another job makes the tables.

    task: the cluster task that runs this. A cluster whose jobs may not submit jobs is no failure: the tables
    then show what is complete, and the user's next command submits the rest.
    """
    plan, site = read_plan(paths), read_site(paths.site)
    if not isinstance(site, SlurmSite):
        logger.warning("the study has been swept with cluster=local since; this job submits nothing")
        return False
    with locked(paths.lock) as lock:
        assert lock is not None  # it waits as long as it takes
        try:
            queue = ask_queue()
            note_found_arrays(paths, queue)
            step = next_step(plan, paths, site, queue, automatic=True, own=task)
            for job_id, why in step.refused.items():
                logger.warning("%s is not started again: %s", job_id, why)
            analyses = {job.job_id for job in plan.of_kind("analyse")}
            if not step.arrays and not step.deferred and not step.queued.keys() - analyses:
                return False
            submitted = submit_step(step, plan, paths, site, take_snapshot(paths.code).write(), lock=lock)
        except CalsweepError as error:
            logger.warning("this job cannot continue the study: %s", error)
            return False
    logger.info("submitted %d jobs, %d tasks wait", len(submitted.jobs), submitted.deferred)
    return submitted.continues or bool(step.queued.keys() & analyses)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(CONTINUED if continue_study(StudyPaths(Path(sys.argv[1])), place()[1]) else 0)
