"""The command line, `calsweep COMMAND ...`: each command is a module of `launcher.commands`.

Exit codes: 0 complete or submitted, 1 some cells failed, 2 usage or configuration error, 3 budget refused,
130 interrupted, 141 the reader of the output is gone.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from study.command import run_command

COMMANDS = {
    "sweep": "run or submit the missing jobs of a grid",
    "status": "show the state of each job, and what to do about failures",
    "watch": "show the status, live, until nothing runs or waits",
    "logs": "show where a job's logs are, and how they end",
    "explain": "show why a job failed or waits, and what to type next",
    "retry": "re-run failed jobs (once you have fixed the cause) and the jobs they block",
    "cancel": "remove a study's jobs from the queue",
    "gc": "delete checkpoints that no job needs any more",
    "power": "show which changes the languages, questions and seeds of a grid can find",
    "prefetch": "download what a grid needs from the Hugging Face hub, on a login node",
    "sync": "upload to W&B what jobs logged without a network",
    "doctor": "check that the installed stack computes the right loss and gradient",
}
MODULES = {
    "doctor": "preparation.doctor",
    "gc": "cleaning",  # Python has a module `gc`
    "power": "preparation.power",
    "prefetch": "preparation.prefetch",
}
"""Commands whose module is not simply named after them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_command("calsweep", lambda: _dispatch(arguments))


def _dispatch(arguments: list[str]) -> int:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name == "analyse":
        from analysis.cli import main as analyse

        return analyse(rest)
    if name not in COMMANDS:
        _parser().parse_args(arguments)  # prints the help, or says what is wrong, and exits
    command = importlib.import_module(f"launcher.commands.{MODULES.get(name, name)}")
    parser = argparse.ArgumentParser(prog=f"calsweep {name}", description=COMMANDS[name])
    command.add_arguments(parser)
    code: int = command.run(parser.parse_intermixed_args(rest))
    return code


def _parser() -> argparse.ArgumentParser:
    """For the help: it knows no arguments of the commands, whose modules would take long to import."""
    parser = argparse.ArgumentParser(
        prog="calsweep",
        description="Calibration sweeps of instruction-tuned language models, on a SLURM cluster or laptop.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in {**COMMANDS, "analyse": "tables, figures and dashboards of a study"}.items():
        commands.add_parser(name, help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
