"""`calsweep logs`: where a job's logs are, and how they end."""

from __future__ import annotations

import argparse
import os
import sys

from launcher.job.causes import tail
from launcher.state.logs import logs_of, other_ranks
from launcher.state.lookup import add_study_arguments, find_job, open_study
from study.errors import UserError
from study.terminal import print_json

TAIL_LINES = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("job", metavar="JOB", help="a job's id, or the first characters of it")
    parser.add_argument("--follow", action="store_true", help="follow the newest log as it grows")


def run(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    job = find_job(plan, options.job)
    files, of_other_ranks = logs_of(job, paths), other_ranks(job, paths)
    if not files:
        raise UserError("has no logs yet", where=job.job_id, remedy="see calsweep status for its state")
    if options.json:
        logs = [{"path": str(file), "tail": tail(file, TAIL_LINES)} for file in files]
        print_json(
            {"job_id": job.job_id, "logs": logs, "other_ranks": [str(file) for file in of_other_ranks]}
        )
        return 0
    if options.follow:
        newest = [str(file) for file in files if file.stem == files[-1].stem]
        sys.stdout.flush()
        os.execvp("tail", ["tail", "-n", str(TAIL_LINES), "-F", *newest])
    for file in files:
        print(f"==> {file}")
        print(tail(file, TAIL_LINES), end="")
    for file in of_other_ranks:
        print(f"also {file}")
    return 0
