"""The command line of the analysis: `python -m analysis tables|dashboard|figures|verify STUDY_DIR`, ...

Exit codes: 0 written, compared or verified, also where shards are missing or cannot be used (each is marked,
and told); 1 `verify` found tables that do not follow from the records, or records that cannot be used, or
something was not taken over by `pull` or an import; 2 a mistake, or a place that cannot be read or written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from analysis.exchange import commands as exchange
from study.command import run_command

TEXT_FORMATS = ("csv", "markdown", "latex")
FORMATS = (*TEXT_FORMATS, "parquet")
FIGURE_FORMATS = ("png", "pdf")
MAX_NAMED = 100
"""Differences that `verify` prints."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_command("analysis", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calsweep analyse",
        description="Calibration tables and a dashboard from a study's predictions.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tables = commands.add_parser(
        "tables", help="write tables/{calibration,differences}.* and print a summary"
    )
    dashboard = commands.add_parser("dashboard", help="write dashboard.html, one file that needs no network")
    figures = commands.add_parser("figures", help="write figures/*, drawn for papers")
    verify = commands.add_parser("verify", help="compute the tables again from the records, and compare")
    for command in (tables, dashboard, figures, verify):
        command.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="the folder <outputs>/<study>")
    tables.add_argument(
        "--format",
        choices=FORMATS,
        help="write just this one, and print the calibration (default: write all, print a summary)",
    )
    figures.add_argument("--format", choices=FIGURE_FORMATS, help="write just this one (default: both)")
    compare = commands.add_parser("compare", help="two studies side by side, where both have the same cells")
    compare.add_argument("study_dir", type=Path, metavar="A", help="the folder of a study")
    compare.add_argument("other_dir", type=Path, metavar="B", help="of another; differences are B - A")
    compare.add_argument("--format", choices=("csv",), help="print full precision and job ids")
    diagnose = commands.add_parser(
        "diagnose",
        help="every metric, temperature scaling, what changed, slices, correlations, choice of learning rate",
        description="Write tables/{metrics,temperature,decomposition,diagnostics,slices,correlations}.csv "
        "and tables/manifest.json, and print summaries.",
    )
    diagnose.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="the folder <outputs>/<study>")
    diagnose.add_argument(
        "--select-by",
        choices=("macro", "english"),
        default="macro",
        help="learning rates by the NLL on validation splits over all languages alike, or in English alone",
    )
    exchange.add_commands(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.command in exchange.COMMANDS:
        return exchange.run(options)
    if options.command == "verify":
        return _verify(options.study_dir)
    if options.command == "compare":
        from analysis.terminal.comparison import print_comparison

        print_comparison(options.study_dir, options.other_dir, as_csv=options.format == "csv")
        return 0
    if options.command == "diagnose":
        return _diagnose(options)
    return _write(options)


def _diagnose(options: argparse.Namespace) -> int:
    from rich.text import Text

    from analysis.diagnoses.diagnose import diagnose
    from analysis.reading.loading import load_study
    from analysis.terminal.diagnosis import print_diagnosis
    from study.terminal import make_console

    study = load_study(options.study_dir)  # it has a progress bar of its own
    with make_console(stderr=True).status("diagnosing") as status:
        found = diagnose(
            options.study_dir,
            study=study,
            select_by=options.select_by,
            tell=lambda cell: status.update(Text(cell)),
        )
    print_diagnosis(found, make_console())
    for path in found.written:
        print(path)
    for shard in found.study.missing:
        if shard.is_refused:
            print(f"analysis: {shard.missing}", file=sys.stderr)
    if found.study.missing:
        missing, planned = len(found.study.missing), len(found.study.shards)
        print(f"analysis: {missing} of {planned} shards are missing", file=sys.stderr)
    return 0


def _verify(study_dir: Path) -> int:
    from rich.text import Text

    from analysis.reading.loading import load_study
    from analysis.verification.verify import verify
    from study.terminal import make_console

    study = load_study(study_dir)  # it has a progress bar of its own
    with make_console(stderr=True).status("verifying") as status:
        found = verify(study_dir, study=study, tell=lambda cell: status.update(Text(cell)))
    problems = [*found.refused, *found.differences]
    print("\n".join(problems[:MAX_NAMED]), end="\n" if problems else "")
    if len(problems) > MAX_NAMED:
        print(f"... and {len(problems) - MAX_NAMED} more")
    print(
        f"{'right' if found.is_right else 'WRONG'}: {found.num_rows} rows in "
        f"{', '.join(path.name for path in found.files)}; {len(found.differences)} differ from the records; "
        f"of {found.num_shards} shards {found.num_missing} are missing and {found.num_refused} unreadable"
    )
    return 0 if found.is_right else 1


def _write(options: argparse.Namespace) -> int:
    # what these import takes longer than --help may
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
            written = written[:1]  # the calibration; differences lie beside it
    for path in written:
        if options.command == "tables" and options.format in TEXT_FORMATS:
            print(path.read_text(encoding="utf-8"), end="")  # to be piped; the place goes to stderr
            print(path, file=sys.stderr)
        else:
            print(path)
    for shard in study.missing:
        if shard.is_refused:
            print(f"analysis: {shard.missing}", file=sys.stderr)
    if study.missing:
        print(f"analysis: {len(study.missing)} of {len(study.shards)} shards are missing", file=sys.stderr)
    return 0
