"""Journals: a torn line costs itself alone, and writers never mix theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from study import journal
from tests.sweeping import ROOT
from tests.waiting import HANG_S


def test_a_journal_that_does_not_exist_has_no_entries(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "none") == []


def test_an_entry_after_a_torn_line_starts_on_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    journal.append(path, {"n": 1})
    with path.open("ab") as stream:
        stream.write('{"torn": "é'.encode()[:-1])  # in the middle of a character
    journal.append(path, {"n": 3, "text": "ü\u2028\n"})
    journal.append(path, {"n": 4})
    lines = [b'{"n": 1}', b'{"torn": "\xc3', rb'{"n": 3, "text": "\u00fc\u2028\n"}', b'{"n": 4}', b""]
    assert path.read_bytes().split(b"\n") == lines
    assert journal.read(path) == [{"n": 1}, {"n": 3, "text": "ü\u2028\n"}, {"n": 4}]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal.append(path, {"n": 1})
    whole = path.read_bytes()
    journal.append(path, {"n": 2})
    last = path.read_bytes()[len(whole) :]
    for length in range(len(last) - 1):  # without its closing brace, at least
        path.write_bytes(whole + last[: min(length, len(last) - 2)])
        assert journal.read(path) == [{"n": 1}]


def test_entries_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    program = (
        "import sys; from pathlib import Path; from study import journal\n"
        "for i in range(200): journal.append(Path(sys.argv[1]), {'key': [sys.argv[2], i], 'pad': 'x' * 3000})"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), letter], cwd=ROOT) for letter in "abc"
    ]
    assert [writer.wait(timeout=HANG_S) for writer in writers] == [0, 0, 0]
    entries = journal.read(path)
    assert len(entries) == len(path.read_text().splitlines()) == 600
    assert {tuple(entry["key"]) for entry in entries} == {(letter, i) for letter in "abc" for i in range(200)}
    assert {entry["pad"] for entry in entries} == {"x" * 3000}
