"""`calsweep watch`: the status of a study, live. It only reads, so leaving it changes nothing."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from launcher.state.lookup import add_study_arguments, study_paths
from launcher.state.matrix import age, counts_of, matrix, pace_lines, print_status, totals, trouble_lines
from launcher.state.status import ACTIVE, Survey, is_held, running_json, survey_of
from study.jobs.plan import read_plan
from study.paths import StudyPaths
from study.terminal import make_console, print_line_json

EVERY_S = 2.0
"""Between two looks at the jobs' own files. SLURM is queried as often as the profile allows."""
LINES_EVERY_S = 30.0
"""Between two lists of paces on anything but a terminal, while the counts stay the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="query SLURM now, not only every 30 s or so")


def run(options: argparse.Namespace) -> int:
    paths = study_paths(options.study)
    return watch(paths, str(options.study), make_console(), as_json=options.json, fresh=options.fresh)


def watch(paths: StudyPaths, study: str, console: Console, *, as_json: bool, fresh: bool) -> int:
    """Show a study until nothing of it runs or waits in the queue; returns the exit code of `status`.

    study: as the user typed it.
    """
    plan, written = read_plan(paths), paths.plan.stat().st_mtime_ns
    survey = survey_of(plan, paths, fresh=fresh)
    with _view(paths, study, console, as_json=as_json) as show:
        show(survey)
        while is_active(survey, paths):
            time.sleep(EVERY_S)
            if paths.plan.stat().st_mtime_ns != written:  # a sweep has added to it
                plan, written = read_plan(paths), paths.plan.stat().st_mtime_ns
            survey = survey_of(plan, paths, before=survey.view)
            show(survey)
    if console.is_terminal and not as_json:
        print_status(survey, study, console)
    return survey.exit_code


def is_active(survey: Survey, paths: StudyPaths) -> bool:
    """Whether something runs or waits, or a launcher works on the study, e.g. between two local jobs."""
    return any(survey.counts[state] for state in ACTIVE) or is_held(paths.lock)


Show = Callable[[Survey], None]


@contextlib.contextmanager
def _view(paths: StudyPaths, study: str, console: Console, *, as_json: bool) -> Iterator[Show]:
    """A live matrix; on anything but a terminal, lines when the counts change, and now and then."""
    if as_json or not console.is_terminal:
        yield _line_view(console, as_json=as_json)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda survey: live.update(_frame(survey, study, console), refresh=True)


def _frame(survey: Survey, study: str, console: Console) -> Group:
    troubles = [Text.from_markup(line) for line in trouble_lines(survey, study)]
    blocks = max(1, survey.num_benchmarks)
    paces = pace_lines(survey, most=max(2, console.height // 5), width=console.width)
    # a frame taller than the terminal is cut at its end, so the least urgent rows of the matrix make room
    left = console.height - len(paces) - len(troubles) - 6 - blocks * 6
    when = f"SLURM as of {age(survey.view.answered)} ago; " if survey.view.answered else ""
    hint = Text(f"{when}Ctrl-C leaves this view, and the jobs continue", "dim")
    rows = matrix(survey, console, max_rows=max(4, left // blocks))
    return Group(rows, Text(), totals(survey, console), *paces, *troubles, hint)


def _line_view(console: Console, *, as_json: bool) -> Show:
    shown: dict[str, int] = {}
    last = 0.0

    def show(survey: Survey) -> None:
        nonlocal last
        paces = pace_lines(survey)
        due = time.monotonic() - last > LINES_EVERY_S
        if survey.counts == shown and not (paces and due):
            return
        shown.update(survey.counts)
        now, last = time.time(), time.monotonic()
        if as_json:
            print_line_json(
                {"study": survey.plan.study, "time": round(now, 3), "counts": survey.counts,
                 "note": survey.view.trouble, "running": running_json(survey)}
            )  # fmt: skip
            return
        counts = counts_of(survey.counts, console)
        console.print(f"{time.strftime('%H:%M:%S', time.localtime(now))}  {counts}")
        for line in paces:
            console.print(f"          {line}", markup=False, soft_wrap=True)

    return show
