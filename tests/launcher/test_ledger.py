"""The ledger: an intent, then the cluster's ids; a launcher killed while writing loses nobody else's line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from launcher import ledger
from launcher.ledger import Submission

ROOT = Path(__file__).resolve().parents[2]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert ledger.read(path) == []
    assert ledger.next_number(path) == 1
    ledger.write_intent(path, 1, "train", "slurm", [["a"], ["b"]])
    assert ledger.read(path) == [Submission(1, "train", "slurm", {})]
    assert ledger.next_number(path) == 2  # an intent alone takes its number too
    ledger.write_ids(path, 1, "train", "slurm", {"7_0": ["a"], "7_1": ["b"]})
    ledger.write_intent(path, 2, "evaluate", "slurm", [["c", "d"]])
    ledger.write_ids(path, 2, "evaluate", "slurm", {"8": ("c", "d")})
    found = ledger.read(path)
    assert found == [
        Submission(1, "train", "slurm", {"7_0": ["a"], "7_1": ["b"]}),
        Submission(2, "evaluate", "slurm", {"8": ["c", "d"]}),
    ]
    assert ledger.task_of(found) == {"a": "7_0", "b": "7_1", "c": "8", "d": "8"}


def test_the_latest_submission_of_a_job_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.write_ids(path, 1, "train", "slurm", {"7": ["a"]})
    ledger.write_ids(path, 2, "train", "slurm", {"9": ["a"]})
    ledger.write_intent(path, 3, "train", "slurm", [["a"]])  # whose sbatch refused
    assert ledger.task_of(ledger.read(path)) == {"a": "9"}


def test_a_torn_last_line_costs_neither_what_is_before_nor_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.write_ids(path, 1, "train", "slurm", {"7": ["a"]})
    whole = path.read_bytes()
    ledger.write_ids(path, 2, "train", "slurm", {"8": ["b"]})
    second = path.read_bytes()[len(whole) :]
    for cut in range(len(second)):
        path.write_bytes(whole + second[:cut])
        expected = {1, 2} if second[:cut] == second.rstrip(b"\n") else {1}
        assert {entry.number for entry in ledger.read(path)} == expected
        ledger.write_ids(path, 3, "train", "slurm", {"9": ["c"]})
        assert {entry.number for entry in ledger.read(path)} == expected | {3}


def test_several_writers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    program = (
        "import sys; from pathlib import Path; from launcher import ledger; n = int(sys.argv[2])\n"
        "for i in range(50):\n"
        "    number = n * 50 + i\n"
        "    ledger.write_ids(Path(sys.argv[1]), number, 'train', 'slurm', {str(number): ['x' * 3000]})"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(n)], cwd=ROOT) for n in range(3)
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert sorted(entry.number for entry in ledger.read(path)) == list(range(150))
    assert ledger.next_number(path) == 150
