"""The job that goes on with a study: `python -m launcher.going_on STUDY`, at the head of its batch script.

It submits what can be submitted by now and leaves another such job behind. Exit code GOES_ON; 0 when this was
the last one, and the tables can be made.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from launcher.cluster.advance import next_step, note_found_arrays, take
from launcher.cluster.sbatch import GOES_ON
from launcher.cluster.scheduler import ask_queue
from launcher.cluster.snapshot import take_snapshot
from launcher.job.work import place
from launcher.planning.sites import read_site
from study.errors import CalsweepError
from study.files import locked
from study.jobs.plan import read_plan
from study.paths import StudyPaths

logger = logging.getLogger("calsweep")


def go_on(paths: StudyPaths, task: str) -> bool:
    """Take the study's next step; whether another job makes the tables.

    task: the cluster task that asks. A cluster that does not let jobs submit jobs is no failure: the tables
    show what there is, and the command that a person types goes on.
    """
    plan, site = read_plan(paths), read_site(paths.site)
    with locked(paths.lock) as lock:
        try:
            queue = ask_queue()
            note_found_arrays(paths, queue)
            step = next_step(plan, paths, site, queue, automatic=True, own=task)
            for job_id, why in step.refused.items():
                logger.warning("%s is not run again: %s", job_id, why)
            analyses = {job.job_id for job in plan.of_kind("analyse")}
            if not step.batches and not step.deferred and not step.queued.keys() - analyses:
                return False
            outcome = take(step, plan, paths, site, take_snapshot(paths.code).write(), lock=lock)
        except CalsweepError as error:
            logger.warning("this job cannot go on with the study: %s", error)
            return False
    logger.info("submitted %d jobs, %d tasks wait", len(outcome.submitted), outcome.deferred)
    return outcome.goes_on or bool(step.queued.keys() & analyses)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(GOES_ON if go_on(StudyPaths(Path(sys.argv[1])), place()[1]) else 0)
