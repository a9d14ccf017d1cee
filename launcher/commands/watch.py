"""`calsweep watch`: a study as it goes on. It only looks: leaving it changes nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from launcher.state.matrix import age, counts_of, matrix, pace_lines, print_status, totals, trouble_lines
from launcher.state.status import ACTIVE, STATES, Survey, is_held, running_json, survey
from study.jobs.plan import read_plan
from study.paths import StudyPaths
from study.terminal import print_line_json

EVERY_S = 2.0
"""Between two looks at the jobs' own markers. SLURM is asked as often as the profile says."""
TELL_EVERY_S = 30.0
"""Between two lines of how far jobs are, where this is no terminal and nothing else changes."""


def watch(paths: StudyPaths, study: str, console: Console, *, as_json: bool, fresh: bool) -> int:
    """Show a study until nothing of it runs or waits in the queue; returns the exit code of `status`.

    study: as its user types it.
    """
    plan, written = read_plan(paths), paths.plan.stat().st_mtime_ns
    found = survey(plan, paths, fresh=fresh)
    with _view(paths, study, console, as_json=as_json) as show:
        show(found)
        while is_going_on(found, paths):
            time.sleep(EVERY_S)
            if paths.plan.stat().st_mtime_ns != written:  # a sweep has added to it
                plan, written = read_plan(paths), paths.plan.stat().st_mtime_ns
            found = survey(plan, paths, before=found.look)
            show(found)
    if console.is_terminal and not as_json:
        print_status(found, study, console)
    return found.exit_code


def is_going_on(found: Survey, paths: StudyPaths) -> bool:
    """Whether something runs or waits, or a launcher is at work: here it starts one job after another."""
    return any(found.counts[state] for state in ACTIVE) or is_held(paths.lock)


Show = Callable[[Survey], None]


@contextlib.contextmanager
def _view(paths: StudyPaths, study: str, console: Console, *, as_json: bool) -> Iterator[Show]:
    """The matrix, painted over and over; where this is no terminal, lines when the counts change, or now and
    then.
    """
    if as_json or not console.is_terminal:
        yield _line_view(console, as_json=as_json)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda found: live.update(_frame(found, study, console), refresh=True)


def _frame(found: Survey, study: str, console: Console) -> Group:
    troubles = [Text.from_markup(line) for line in trouble_lines(found, study)]
    blocks = max(1, found.num_benchmarks)
    paces = pace_lines(found, most=max(2, console.height // 5), width=console.width)
    # what is taller than the terminal is cut at its end: the rows that need no look go first
    left = console.height - len(paces) - len(troubles) - 6 - blocks * 6
    when = f"SLURM as of {age(found.look.told)} ago; " if found.look.told else ""
    hint = Text(f"{when}Ctrl-C leaves, and the jobs go on", "dim")
    rows = matrix(found, console, max_rows=max(4, left // blocks))
    return Group(rows, Text(), totals(found, console), *paces, *troubles, hint)


def _line_view(console: Console, *, as_json: bool) -> Show:
    told: dict[str, int] = {}
    last = 0.0

    def show(found: Survey) -> None:
        nonlocal last
        paces = pace_lines(found)
        due = time.monotonic() - last > TELL_EVERY_S
        if found.counts == told and not (paces and due):
            return
        told.update(found.counts)
        now, last = time.time(), time.monotonic()
        if as_json:
            print_line_json(
                {"study": found.plan.study, "time": round(now, 3), "counts": found.counts,
                 "note": found.look.trouble, "running": running_json(found)}
            )  # fmt: skip
            return
        words = counts_of({state: found.counts[state] for state in STATES}, console)
        console.print(f"{time.strftime('%H:%M:%S', time.localtime(now))}  {words}", highlight=False)
        for line in paces:
            console.print(f"          {line}", highlight=False, markup=False, soft_wrap=True)

    return show
