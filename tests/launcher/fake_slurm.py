"""SLURM's commands as executables that record their arguments, for tests without SLURM. Tests with a real one
are in tests/slurm.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
PROGRAM = f"""#!{sys.executable}
import fcntl, json, pathlib, sys
folder, name = pathlib.Path({{folder!r}}), pathlib.Path(sys.argv[0]).name
call = {{{{"name": name, "arguments": sys.argv[1:]}}}}
answer = json.loads((folder / "answers.json").read_text()).get(name, {{{{}}}})
if name == "sbatch":
    call["script"] = pathlib.Path(sys.argv[-1]).read_text()
if "locks" in answer:  # is this file locked, by whomever it was inherited from?
    with open(answer["locks"]) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            call["locked"] = False
        except BlockingIOError:
            call["locked"] = True
with (folder / "calls.jsonl").open("a") as stream:
    stream.write(json.dumps(call) + "\\n")
print(answer.get("error", ""), file=sys.stderr)
if answer.get("code"):
    sys.exit(answer["code"])
if name == "scancel" and not answer.get("in_vain"):
    answers = json.loads((folder / "answers.json").read_text())
    after = answers.get("squeue", {{{{}}}}).get("after_scancel", "")
    answers["squeue"] = {{{{"out": after}}}}
    (folder / "answers.json").write_text(json.dumps(answers))
if name == "sbatch":
    number = 100 + sum('"sbatch"' in line for line in (folder / "calls.jsonl").open())
    if number > answer.get("limit", 10**9):
        sys.exit(answer["refusal"])
    print(f"Submitted batch job {{{{number}}}}")
elif "--format=%E" in sys.argv:
    print(answer.get("dependency", "(null)"))
else:
    print(answer.get("out", ""), end="")
"""


@dataclass(frozen=True)
class FakeSlurm:
    """Job ids count from 101."""

    folder: Path

    def answer(self, **answers: dict[str, object]) -> None:
        """What each program answers from now on: out, code, error.

        For sbatch also: limit, the last id that it gives, and refusal, what it says then; locks, a file that
        may be locked while it runs. For squeue also: dependency, of every task, and after_scancel, the queue
        then, else empty. For scancel also: in_vain, when nothing ends.
        """
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def calls(self, name: str) -> list[dict[str, object]]:
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [call for call in map(json.loads, lines) if call["name"] == name]


def queue_of(*tasks: str) -> dict[str, object]:
    """An answer of squeue: each `task STATE`, or `task STATE comment`."""
    rows = [task.split(" ") for task in tasks]
    out = "".join(f"{row[0]}|{row[1]}|None|{row[2] if len(row) > 2 else '(null)'}\n" for row in rows)
    return {"out": out}


def install(folder: Path) -> FakeSlurm:
    """Put the programs into a folder, which belongs on the PATH."""
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(PROGRAM.format(folder=str(folder)))
        (folder / name).chmod(0o755)
    fake = FakeSlurm(folder)
    fake.answer()
    return fake
