"""How a command ends: its exit code, and one sentence for every error that a user can cause."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

from study.errors import BudgetError, CalsweepError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a write, which carry no file name."""


def run_command(name: str, command: Callable[[], int]) -> int:
    """Run a command; returns its exit code.

    2 a user's mistake, or a file that cannot be read or written; 3 above the budget; 130 interrupted; 141 the
    reader of the output is gone (as shells report a process that SIGPIPE ended). Unexpected exceptions are
    raised. name: the first word of an error message.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # job names have an ε, which not every terminal can show
            stream.reconfigure(errors="replace")
    try:
        code = command()
        if sys.stdout is not None:  # it is None where it was closed
            sys.stdout.flush()
        return code
    except CalsweepError as error:
        message, code = str(error), 3 if isinstance(error, BudgetError) else 2
    except ModuleNotFoundError as error:  # the system's Python instead of the project's
        remedy = "run 'make setup', then 'source .venv/bin/activate'"
        message, code = f"{sys.executable} has no module '{error.name}'; {remedy}", 2
    except BrokenPipeError:  # e.g. `| head`; without this, Python would report it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:  # `outputs` is not writable, `tables` is a file, the disk is full, ...
        if error.filename is None and error.errno not in FULL:
            raise
        # the second name is the target of a rename
        place = error.filename2 or error.filename or "what was being written"
        message, code = f"{place}: {error.strerror}; fix that or choose another place, and try again", 2
    except KeyboardInterrupt:
        message, code = "interrupted; run the same command to continue", 130
    print(f"{name}: {message}", file=sys.stderr)
    return code
