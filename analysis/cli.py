"""The command line of the analysis: `python -m analysis tables|dashboard STUDY_DIR`.

Exit codes: 0 written, also where shards are missing (each is marked, and their number printed); 2 a mistake.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from study.errors import CalsweepError, UserError

LATER = ("compare", "pull", "publish", "verify")
TEXT_FORMATS = ("csv", "markdown", "latex")
FORMATS = (*TEXT_FORMATS, "parquet")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in LATER:
            raise UserError("not built yet", where=arguments[0], remedy="tables and dashboard are")
        return _run(_parser().parse_args(arguments))
    except CalsweepError as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Calibration tables and a dashboard from a study's predictions.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tables = commands.add_parser("tables", help="write tables/calibration.* and print a summary")
    dashboard = commands.add_parser("dashboard", help="write dashboard.html, one file that needs no network")
    for command in (tables, dashboard):
        command.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="the folder <outputs>/<study>")
    tables.add_argument(
        "--format",
        choices=FORMATS,
        help="write and print just this one (default: write all, print a summary)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    # what these import takes longer than --help may
    from analysis.aggregate import load_study

    study = load_study(options.study_dir)
    if options.command == "dashboard":
        from analysis.dashboard import write_dashboard

        written = [write_dashboard(options.study_dir, study=study)]
    else:
        from analysis.tables import print_summary, write_tables

        if options.format is None:
            from rich.console import Console

            print_summary(options.study_dir, Console(), study=study)
        formats = [options.format] if options.format else None
        written = list(write_tables(options.study_dir, formats=formats, study=study).values())
    for path in written:
        if options.command == "tables" and options.format in TEXT_FORMATS:
            print(path.read_text(encoding="utf-8"), end="")  # to be piped; the place goes to stderr
            print(path, file=sys.stderr)
        else:
            print(path)
    if study.missing:
        print(f"analysis: {len(study.missing)} of {len(study.shards)} shards are missing", file=sys.stderr)
    return 0
