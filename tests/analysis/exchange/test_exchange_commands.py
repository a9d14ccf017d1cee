"""pull, import-lm-eval and publish from a command line: what they print and return."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from analysis.exchange.commands import COMMANDS, add_commands, run
from study.errors import UserError

KEPT = Path(__file__).with_name("lm_eval_output")


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command", required=True))
    return run(parser.parse_args(arguments))


def test_an_import_says_what_it_did_and_returns_1_where_a_task_was_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(tmp_path / "s")
    assert call("import-lm-eval", str(KEPT), study) == 1
    *why, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in why] == ["toymutual_en", "toytext_en"]
    assert last == "imported 2 shards; 2 tasks refused"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_the_users(command: str, tmp_path: Path) -> None:
    before = {"pull": ["neither"], "import-lm-eval": [str(tmp_path)], "publish": []}[command]
    with pytest.raises(UserError):
        call(command, *before, str(tmp_path))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_its_arguments(command: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(command)
    assert stopped.value.code == 2
