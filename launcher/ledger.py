"""What was submitted: one line of intent before each submission, one with the cluster's ids after it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.files import append_line


@dataclass(frozen=True)
class Submission:
    """One array or job. tasks: cluster task id -> the jobs behind it; empty while only intended."""

    number: int
    kind: str
    cluster: str
    tasks: Mapping[str, Sequence[str]]


def next_number(ledger: Path) -> int:
    return 1 + max((entry.number for entry in read(ledger)), default=0)


def write_intent(
    ledger: Path, number: int, kind: str, cluster: str, job_ids: Sequence[Sequence[str]]
) -> None:
    line = {"number": number, "kind": kind, "cluster": cluster, "intent": [list(pack) for pack in job_ids]}
    append_line(ledger, json.dumps(line))


def write_ids(ledger: Path, number: int, kind: str, cluster: str, tasks: Mapping[str, Sequence[str]]) -> None:
    line = {
        "number": number,
        "kind": kind,
        "cluster": cluster,
        "tasks": {k: list(v) for k, v in tasks.items()},
    }
    append_line(ledger, json.dumps(line))


def read(ledger: Path) -> list[Submission]:
    """All submissions, oldest first. A torn last line (a launcher killed while writing) is left out."""
    if not ledger.is_file():
        return []
    found: dict[int, Submission] = {}
    for line in ledger.read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        tasks = entry.get("tasks", {})
        found[entry["number"]] = Submission(entry["number"], entry["kind"], entry["cluster"], tasks)
    return list(found.values())


def task_of(submissions: Sequence[Submission]) -> dict[str, str]:
    """job id -> the cluster task of its latest submission."""
    return {job: task for entry in submissions for task, pack in entry.tasks.items() for job in pack}
