"""sbatch, squeue and scancel as executables that write down what they were asked. For tests without SLURM;
those with a real one are in tests/slurm.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = f"""#!{sys.executable}
import json, pathlib, sys
folder, name = pathlib.Path({{folder!r}}), pathlib.Path(sys.argv[0]).name
call = {{{{"name": name, "arguments": sys.argv[1:]}}}}
if name == "sbatch":
    call["script"] = pathlib.Path(sys.argv[-1]).read_text()
with (folder / "calls.jsonl").open("a") as stream:
    stream.write(json.dumps(call) + "\\n")
answer = json.loads((folder / "answers.json").read_text()).get(name, {{{{}}}})
print(answer.get("error", ""), file=sys.stderr)
if answer.get("code"):
    sys.exit(answer["code"])
if name == "sbatch":
    number = 100 + sum('"sbatch"' in line for line in (folder / "calls.jsonl").open())
    if number > answer.get("limit", 10**9):
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    print(f"Submitted batch job {{{{number}}}}")
else:
    print(answer.get("out", ""))
"""


@dataclass(frozen=True)
class FakeSlurm:
    """Job ids count from 101."""

    folder: Path

    def answer(self, **answers: dict[str, object]) -> None:
        """What each program answers from now on: out, code, error; for sbatch the last id it gives, limit."""
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def calls(self, name: str) -> list[dict[str, object]]:
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [call for call in map(json.loads, lines) if call["name"] == name]

    def scripts(self) -> list[str]:
        return [str(call["script"]) for call in self.calls("sbatch")]


def install(folder: Path) -> FakeSlurm:
    """Put the three programs into a folder, which belongs on the PATH."""
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (folder / name).write_text(PROGRAM.format(folder=str(folder)))
        (folder / name).chmod(0o755)
    fake = FakeSlurm(folder)
    fake.answer()
    return fake
