"""The commands that exchange records and results with other programs: pull, import-lm-eval, publish."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

COMMANDS = ("pull", "import-lm-eval", "publish")


def add_commands(commands: Any) -> None:
    """Add them to a parser's sub-commands."""
    pull = commands.add_parser(
        "pull", help="copy a study's records from W&B, and compare those that this machine has"
    )
    pull.add_argument(
        "source", metavar="SOURCE", help="ENTITY/PROJECT, or a folder with wandb/offline-run-* folders"
    )
    imported = commands.add_parser("import-lm-eval", help="make a study from the samples of lm_eval")
    imported.add_argument("folder", type=Path, metavar="DIR", help="its --output_path")
    imported.add_argument("--language", metavar="CODE", help="the language of tasks whose name has none")
    imported.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="the model's tokenizer.json, where options are text"
    )
    publish = commands.add_parser("publish", help="write a W&B report and a workspace")
    for command in (pull, imported, publish):
        command.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="the folder of the study")
    publish.add_argument("--project", metavar="ENTITY/PROJECT", help="default: where the study tracks to")


def run(options: argparse.Namespace) -> int:
    """Run one of COMMANDS; 1 where something was refused."""
    from study.terminal import make_console

    console = make_console()
    if options.command == "pull":
        from analysis.exchange.pull import print_outcome, pull

        outcome = pull(options.source, options.study_dir, console)
        print_outcome(outcome, console)
        return outcome.exit_code
    if options.command == "import-lm-eval":
        from analysis.exchange.lm_eval import import_lm_eval, print_imported

        imported = import_lm_eval(
            options.folder, options.study_dir, language=options.language, tokenizer=options.tokenizer
        )
        print_imported(imported, console)
        return imported.exit_code
    from analysis.exchange.publish import print_published, publish

    print_published(publish(options.study_dir, options.project), console)
    return 0
