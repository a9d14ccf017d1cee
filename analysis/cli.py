"""The command line of the analysis: `calsweep analyse tables|dashboard|figures|verify STUDY_DIR`, ...

`python -m analysis` is the same. Exit codes: 0 written, compared or verified, also if shards are missing or
cannot be used (each is marked and reported); 1 `verify` found tables that do not follow from the records, or
records that cannot be used, or `pull` or an import refused something; 2 a user's mistake, or a file that
cannot be read or written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.exchange import commands as exchange
from study.command import run_command

if TYPE_CHECKING:
    from analysis.reading.shards import Study

TEXT_FORMATS = ("csv", "markdown", "latex")
FORMATS = (*TEXT_FORMATS, "parquet")
FIGURE_FORMATS = ("png", "pdf")
MAX_NAMED = 100
"""Problems that `verify` prints."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_command("analysis", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calsweep analyse",
        description="Calibration tables and a dashboard from a study's predictions.",
        epilog="python -m analysis is the same, run from the root of the repository.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tables = commands.add_parser(
        "tables", help="write tables/{calibration,differences}.* and print a summary"
    )
    dashboard = commands.add_parser("dashboard", help="write dashboard.html, one file that needs no network")
    figures = commands.add_parser("figures", help="write figures/*, drawn for papers")
    methods = commands.add_parser(
        "methods", help="write tables/methods.{md,tex}: a methods paragraph and a reporting card"
    )
    verify = commands.add_parser("verify", help="compute the tables again from the records and compare")
    for command in (tables, dashboard, figures, methods, verify):
        command.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="the folder <outputs>/<study>")
    tables.add_argument(
        "--format",
        choices=FORMATS,
        help="write only this format, and print the calibration table (default: write all, print a summary)",
    )
    figures.add_argument("--format", choices=FIGURE_FORMATS, help="write only this format (default: both)")
    compare = commands.add_parser("compare", help="compare the cells that two studies have in common")
    compare.add_argument("study_dir", type=Path, metavar="A", help="the folder of a study")
    compare.add_argument("other_dir", type=Path, metavar="B", help="that of another; differences are B - A")
    compare.add_argument("--format", choices=("csv",), help="print full precision and job ids")
    diagnose = commands.add_parser(
        "diagnose",
        help="write every metric, temperature scaling, causes of changes, slices, correlations, and the "
        "choice of learning rates",
        description="Write tables/{metrics,temperature,decomposition,diagnostics,slices,correlations}.csv, "
        "selection.csv where learning rates can be chosen on a validation split, and manifest.json, "
        "and print summaries.",
    )
    diagnose.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="the folder <outputs>/<study>")
    diagnose.add_argument(
        "--select-by",
        choices=("macro", "english"),
        default="macro",
        help="choose learning rates by the NLL on validation splits: mean over languages, or English alone "
        "(selection.csv has both, and accuracy and Brier)",
    )
    exchange.add_commands(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.command in exchange.COMMANDS:
        return exchange.run(options)
    if options.command == "verify":
        return _verify(options.study_dir)
    if options.command == "methods":
        from analysis.diagnoses.methods import to_markdown, write_methods

        section, paths = write_methods(options.study_dir)
        print(to_markdown(section), end="")
        print("\n".join(map(str, paths)), file=sys.stderr)
        return 0
    if options.command == "compare":
        from analysis.terminal.comparison import print_comparison

        print_comparison(options.study_dir, options.other_dir, as_csv=options.format == "csv")
        return 0
    if options.command == "diagnose":
        return _diagnose(options)
    return _write(options)


def _diagnose(options: argparse.Namespace) -> int:
    from analysis.diagnoses.diagnose import diagnose
    from analysis.terminal.diagnosis import print_diagnosis
    from study.terminal import make_console

    diagnosis = diagnose(options.study_dir, select_by=options.select_by)
    print_diagnosis(diagnosis, make_console())
    for path in diagnosis.written:
        print(path)
    _print_missing(diagnosis.study)
    return 0


def _verify(study_dir: Path) -> int:
    from analysis.verification.verify import verify

    result = verify(study_dir)
    problems = [*result.refused, *result.differences]
    print("\n".join(problems[:MAX_NAMED]), end="\n" if problems else "")
    if len(problems) > MAX_NAMED:
        print(f"... and {len(problems) - MAX_NAMED} more")
    print(
        f"{'right' if result.is_right else 'WRONG'}: {result.num_rows} rows in "
        f"{', '.join(path.name for path in result.files)}; {len(result.differences)} differ from the "
        f"records; of {result.num_shards} shards {result.num_missing} are missing and {result.num_refused} "
        "unreadable"
    )
    return 0 if result.is_right else 1


def _write(options: argparse.Namespace) -> int:
    # imported here: --help has to answer at once
    from analysis.reading.loading import load_study

    study = load_study(options.study_dir)
    if options.command == "dashboard":
        from analysis.dashboard.page import write_dashboard

        written: Iterable[Path] = [write_dashboard(options.study_dir, study=study)]
    elif options.command == "figures":
        from analysis.figures.files import write_figures

        chosen = [options.format] if options.format else FIGURE_FORMATS
        written = write_figures(options.study_dir, formats=chosen, study=study)
    else:
        from analysis.tables.files import write_tables
        from analysis.terminal.summary import print_summary

        if options.format is None:
            from study.terminal import make_console

            print_summary(options.study_dir, make_console(), study=study)
        formats = [options.format] if options.format else None
        written = list(write_tables(options.study_dir, formats=formats, study=study).values())
        if options.format:
            written = written[:1]  # the calibration table; differences are written beside it
    for path in written:
        if options.command == "tables" and options.format in TEXT_FORMATS:
            print(path.read_text(encoding="utf-8"), end="")  # for a pipe: the path goes to stderr
            print(path, file=sys.stderr)
        else:
            print(path)
    _print_missing(study)
    return 0


def _print_missing(study: Study) -> None:
    for shard in study.missing:
        if shard.is_refused:
            print(f"analysis: {shard.missing}", file=sys.stderr)
    if study.missing:
        print(f"analysis: {len(study.missing)} of {len(study.shards)} shards are missing", file=sys.stderr)
