"""`calsweep status`: the state of each job, and each distinct failure."""

from __future__ import annotations

import argparse

from launcher.state.lookup import add_study_arguments, open_study
from launcher.state.matrix import print_status
from launcher.state.status import status_json, survey_of
from study.terminal import make_console, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="query SLURM now, not only every 30 s or so")


def run(options: argparse.Namespace) -> int:
    plan, paths = open_study(options.study)
    survey = survey_of(plan, paths, fresh=options.fresh, all_attempts=options.json)
    if options.json:
        print_json(status_json(survey))
    else:
        print_status(survey, str(options.study), make_console())
    return survey.exit_code
