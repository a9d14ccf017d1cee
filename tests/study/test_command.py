"""How commands end, by whatever name they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NoReturn

import pytest

from study.command import run_command
from study.errors import BudgetError, RecordError, UserError
from tests.sweeping import ROOT
from tests.waiting import HANG_S


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("is wrong", where="grid.yaml", remedy="mend it"), 2, "grid.yaml: is wrong; mend it"),
        (RecordError("torn"), 2, "torn"),
        (BudgetError("too much"), 3, "too much"),
        (
            FileExistsError(17, "File exists", "a/tables"),
            2,
            "a/tables: File exists; fix that or choose another place, and try again",
        ),
        (
            IsADirectoryError(21, "Is a directory", "a/.x.tmp", None, "a/x"),
            2,
            "a/x: Is a directory; fix that or choose another place, and try again",
        ),
        (
            OSError(28, "No space left on device"),
            2,
            "what was being written: No space left on device; "
            "fix that or choose another place, and try again",
        ),
        (
            ModuleNotFoundError("No module named 'rich'", name="rich"),
            2,
            f"{sys.executable} has no module 'rich'; run 'make setup', then 'source .venv/bin/activate'",
        ),
        (KeyboardInterrupt(), 130, "interrupted; run the same command to continue"),
    ],
)
def test_what_a_user_can_cause_is_one_sentence(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> NoReturn:
        raise error

    assert run_command("calsweep", command) == code
    assert capsys.readouterr() == ("", f"calsweep: {message}\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("without a file"), AssertionError()])
def test_an_unexpected_error_is_raised(error: Exception) -> None:
    def command() -> NoReturn:
        raise error

    with pytest.raises(type(error)) as caught:
        run_command("calsweep", command)
    assert caught.value is error


def test_a_command_has_its_own_code() -> None:
    assert run_command("calsweep", lambda: 1) == 1


def test_a_terminal_that_cannot_show_an_epsilon() -> None:
    program = "from study.command import run_command; run_command('x', lambda: print('ε=0.1') or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True, timeout=HANG_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"?=0.1\n"), done.stderr
