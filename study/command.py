"""How a command ends: its exit code, and one sentence for whatever a user can cause."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from study.errors import BudgetError, CalsweepError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A write says these without a name."""


def run_command(name: str, command: Callable[[], int]) -> int:
    """Run a command; returns its exit code.

    2 a user's mistake, or a file that cannot be read or written; 3 above the budget; 130 interrupted; 141
    nobody reads what is printed (as a shell says of a process that SIGPIPE ended). What nobody expects is
    raised. name: begins the sentence.
    """
    try:
        code = command()
        if sys.stdout is not None:  # it was closed
            sys.stdout.flush()
        return code
    except CalsweepError as error:
        told, code = str(error), 3 if isinstance(error, BudgetError) else 2
    except ModuleNotFoundError as error:  # the system's Python instead of the project's
        remedy = "run 'make setup', then 'source .venv/bin/activate'"
        told, code = f"{sys.executable} has no module '{error.name}'; {remedy}", 2
    except BrokenPipeError:  # `| head` has seen enough; else Python would complain again as it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:  # `outputs` is no place to write, `tables` is a file, the disk is full, ...
        if error.filename is None and error.errno not in FULL:
            raise
        # the second is where a finished file was to go
        place = error.filename2 or error.filename or "what was being written"
        told, code = f"{place}: {error.strerror}; mend that or name another place, and try again", 2
    except KeyboardInterrupt:
        told, code = "interrupted; run the same command to go on", 130
    print(f"{name}: {told}", file=sys.stderr)
    return code
