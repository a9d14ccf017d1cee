"""The command line: `calsweep sweep|status|watch|logs|explain|retry|cancel|gc|prefetch|sync|doctor|analyse`.

Exit codes: 0 complete or submitted, 1 some cells failed, 2 usage or configuration error, 3 budget refused,
130 interrupted, 141 nobody reads what is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from study.command import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_command("calsweep", lambda: _dispatch(arguments))


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["analyse"]:
        from analysis.cli import main as analyse

        return analyse(arguments[1:])
    parser = _parser()
    options, extra = parser.parse_known_args(arguments)
    rest = {"sweep": "overrides", "retry": "jobs", "cancel": "jobs"}.get(options.command)
    if rest is not None and not any(item.startswith("-") for item in extra):
        # those after an option: argparse takes the list in one piece only
        setattr(options, rest, [*getattr(options, rest), *extra])
    elif extra:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if options.command == "sweep":
        from launcher.commands.sweep import sweep

        return sweep(options)
    if options.command == "doctor":
        from launcher.commands.doctor import doctor

        return doctor(options)
    from launcher.commands import study_commands as commands

    on_a_study = {
        "status": commands.status,
        "watch": commands.watch,
        "logs": commands.logs,
        "explain": commands.explain,
        "retry": commands.retry,
        "cancel": commands.cancel,
        "gc": commands.gc,
        "prefetch": commands.prefetch,
        "sync": commands.sync,
    }
    return on_a_study[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calsweep",
        description="Calibration sweeps of instruction-tuned language models, on SLURM or a laptop.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sweep = commands.add_parser("sweep", help="run or submit what is missing of a grid")
    sweep.add_argument("grid", type=Path, metavar="GRID.yaml")
    sweep.add_argument(
        "overrides",
        nargs="*",
        default=[],  # or argparse calls them required when the grid is missing
        metavar="key=value",
        help="e.g. train.num_steps=10 cluster=local",
    )
    sweep.add_argument(
        "--dry-run", action="store_true", help="show what would be submitted, and submit nothing"
    )
    sweep.add_argument(
        "--pilot", action="store_true", help="run one cell with few steps, to measure what the grid will cost"
    )
    sweep.add_argument("--json", action="store_true", help="print the outcome as JSON")
    sweep.add_argument("--yes", action="store_true", help="do not ask before submitting to a cluster")
    status = commands.add_parser("status", help="what became of each job, and what to do about it")
    watch = commands.add_parser("watch", help="status, live, until nothing runs any more")
    logs = commands.add_parser("logs", help="where a job's logs are, and their ends")
    explain = commands.add_parser("explain", help="why a job failed or waits, and what to type next")
    retry = commands.add_parser("retry", help="run what failed again, after the mend, and what it blocks")
    cancel = commands.add_parser("cancel", help="take a study's jobs out of the queue")
    gc = commands.add_parser("gc", help="drop the checkpoints that no job needs any more")
    prefetch = commands.add_parser("prefetch", help="fetch what a grid takes from the hub, on a login node")
    sync = commands.add_parser("sync", help="upload to W&B what jobs logged without a network")
    doctor = commands.add_parser(
        "doctor", help="prove that the installed stack computes the loss and gradient it should"
    )
    doctor.add_argument(
        "items",
        nargs="+",
        metavar="loss|STUDY",
        help="for the models of a study or a grid file; without one, for small Llama, Mistral and Gemma-2",
    )
    doctor.add_argument("--json", action="store_true", help="print the outcome as JSON")
    for command in (status, watch, logs, explain, retry, cancel, gc, sync):
        command.add_argument("study", type=Path, metavar="STUDY", help="a study's folder, or its grid file")
        command.add_argument("--json", action="store_true", help="print the outcome as JSON")
    for command in (status, watch, explain):
        command.add_argument("--fresh", action="store_true", help="ask SLURM now, not every 30 s or so")
    logs.add_argument("job", metavar="JOB", help="a job's id, or its first characters")
    logs.add_argument("--follow", action="store_true", help="go on with the newest as it grows")
    explain.add_argument("job", nargs="?", metavar="JOB", help="all that failed, if none is given")
    retry.add_argument(
        "jobs", nargs="*", metavar="JOB", help="all that failed or is blocked, if none is given"
    )
    retry.add_argument("--yes", action="store_true", help="do not ask before submitting to a cluster")
    cancel.add_argument("jobs", nargs="*", metavar="JOB", help="all of the study, if none is given")
    gc.add_argument("--dry-run", action="store_true", help="show what would go, and drop nothing")
    prefetch.add_argument(
        "study", type=Path, metavar="GRID.yaml", help="a grid file, or the folder of a study"
    )
    parser.epilog = "Also: analyse (the same as python -m analysis)."
    return parser


if __name__ == "__main__":
    sys.exit(main())
