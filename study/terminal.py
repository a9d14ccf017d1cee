"""What commands print: text for people, JSON for scripts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.console import Console

REPORT_WIDTH = 110
"""Columns for output to a file or pipe: the tables need about 100."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """`| head` is handled in `study.command`; rich would end the program with code 1."""
        raise BrokenPipeError


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal or COLUMNS, else wide enough for the tables."""
    console = _Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = REPORT_WIDTH
    return console


def print_json(value: object) -> None:
    """Print indented JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_line_json(value: object) -> None:
    """Print JSON on one line, and flush it for a reader that follows."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def shown(path: Path) -> str:
    """A path as a user would type it: relative if it is below the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
