"""The command line: `calsweep sweep|status|logs|cancel|analyse`.

Exit codes: 0 complete or submitted, 1 some cells failed, 2 usage or configuration error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from study.errors import CalsweepError, UserError

LATER = ("watch", "explain", "retry", "prefetch", "sync", "gc", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except CalsweepError as error:
        print(f"calsweep: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # `outputs` is no place to write, the disk is full, ...
        if error.filename is None:
            raise
        print(f"calsweep: {error.filename}: {error.strerror}; give another folder", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("calsweep: interrupted; run the same command to go on", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["analyse"]:
        from analysis.cli import main as analyse

        return analyse(arguments[1:])
    if arguments and arguments[0] in LATER:
        raise UserError(
            "is not built yet", where=f"calsweep {arguments[0]}", remedy="status, logs and cancel are"
        )
    parser = _parser()
    options, extra = parser.parse_known_args(arguments)
    if options.command == "sweep" and not any(item.startswith("-") for item in extra):
        options.overrides = [
            *options.overrides,
            *extra,
        ]  # those after an option: argparse takes the list in one piece only
    elif extra:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if options.command == "sweep":
        from launcher.sweeping import sweep

        return sweep(options)
    from launcher.commands import cancel, logs, status

    return {"status": status, "logs": logs, "cancel": cancel}[options.command](options)


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
    sweep.add_argument("--json", action="store_true", help="print the outcome as JSON")
    sweep.add_argument("--yes", action="store_true", help="do not ask before submitting to a cluster")
    status = commands.add_parser("status", help="what became of each job")
    logs = commands.add_parser("logs", help="where a job's logs are, and their ends")
    cancel = commands.add_parser("cancel", help="take a study's jobs out of the queue")
    for command in (status, logs, cancel):
        command.add_argument("study", type=Path, metavar="STUDY", help="a study's folder, or its grid file")
    logs.add_argument("job", metavar="JOB", help="a job's id, or its first characters")
    for command in (status, cancel):
        command.add_argument("--json", action="store_true", help="print the outcome as JSON")
    names = ", ".join(LATER)
    parser.epilog = f"Also: analyse (the same as python -m analysis). Not built yet: {names}."
    return parser


if __name__ == "__main__":
    sys.exit(main())
