"""The ledger: an intent, then the cluster's id; a launcher killed while writing loses no other line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from launcher.cluster import ledger
from launcher.cluster.ledger import Submission
from tests.sweeping import ROOT
from tests.waiting import HANG_S


def note(path: Path, packs: list[list[str]], array: str | None) -> Submission:
    entry = ledger.write_intent(path, "train", "slurm", packs)
    return entry if array is None else ledger.write_array(path, entry, array)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert ledger.read(path) == []
    assert ledger.next_number([]) == 1
    first = note(path, [["a"], ["b"]], None)
    assert ledger.read(path) == [first]
    assert first.tasks == {}
    assert ledger.next_number([first]) == 2  # an intent alone takes its number too
    first = ledger.write_array(path, first, "7")
    second = note(path, [["c", "d"]], "8")
    found = ledger.read(path)
    assert found == [first, second]
    assert ledger.task_of(found) == {"a": "7_0", "b": "7_1", "c": "8_0", "d": "8_0"}


def test_a_local_task_is_its_process(tmp_path: Path) -> None:
    entry = ledger.write_intent(tmp_path / "ledger.jsonl", "train", "local", [["a"]])
    assert replace(entry, array="4242").tasks == {"4242": ["a"]}


def test_no_two_intents_have_the_same_token(tmp_path: Path) -> None:
    """A study that is deleted and swept again must not adopt jobs of its predecessor."""
    assert note(tmp_path / "a", [["a"]], None).token != note(tmp_path / "b", [["a"]], None).token


def test_the_latest_submission_of_a_job_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    note(path, [["a"]], "7")
    note(path, [["a"]], "9")
    note(path, [["a"]], None)  # whose sbatch refused
    assert ledger.task_of(ledger.read(path)) == {"a": "9_0"}


def test_a_torn_last_line_costs_neither_what_is_before_nor_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first = note(path, [["a"]], "7")
    whole = path.read_bytes()
    note(path, [["b"]], "8")
    second = path.read_bytes()[len(whole) :]
    for cut in range(len(second)):
        path.write_bytes(whole + second[:cut])
        lines = second[:cut].count(b"\n") + (second[:cut].endswith(b"}"))
        expected = {1: "7", **({2: "8" if lines == 2 else None} if lines else {})}
        assert {entry.number: entry.array for entry in ledger.read(path)} == expected
        new = note(path, [["c"]], "9")
        assert new.number == len(expected) + 1
        assert {entry.number: entry.array for entry in ledger.read(path)} == {**expected, new.number: "9"}
    assert ledger.read(path)[0] == first


def test_several_writers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    program = (
        "import sys; from pathlib import Path; from launcher.cluster import ledger\n"
        "from study.paths import StudyPaths\n"
        "paths = StudyPaths(Path(sys.argv[1]))\n"
        "for i in range(50):\n"
        "    with ledger.held(paths):\n"
        "        entry = ledger.write_intent(paths.ledger, 'train', 'slurm', [['x' * 3000]])\n"
        "    ledger.write_array(paths.ledger, entry, str(entry.number))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT) for _ in range(3)]
    assert [writer.wait(timeout=HANG_S) for writer in writers] == [0, 0, 0]
    found = ledger.read(path)
    assert sorted(entry.number for entry in found) == list(range(1, 151))
    assert all(entry.array == str(entry.number) for entry in found)
