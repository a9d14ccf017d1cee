"""What was submitted: a line of intent before each submission, one with the cluster's id after it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from study import journal
from study.errors import UserError
from study.files import locked
from study.paths import StudyPaths

WAIT_S = 10
"""A launcher that was killed leaves its last sbatch call behind, which holds the lock until it is through."""


@dataclass(frozen=True)
class Submission:
    """One array of tasks, or one local task.

    token: written before the submission and given to the cluster as the job's comment, so that a job whose
        id never reached this file can be found again.
    packs: the jobs behind each task. array: the cluster's id (local: the process id); None while only
        intended.
    """

    number: int
    kind: str
    cluster: str
    token: str
    packs: Sequence[Sequence[str]]
    array: str | None = None

    @property
    def tasks(self) -> Mapping[str, Sequence[str]]:
        """Cluster task -> the jobs behind it; empty while only intended."""
        if self.array is None:
            return {}
        if self.cluster == "local":
            return {self.array: self.packs[0]}
        return {f"{self.array}_{index}": pack for index, pack in enumerate(self.packs)}


def new_intent(number: int, kind: str, cluster: str, packs: Sequence[Sequence[str]]) -> Submission:
    """A submission that is about to be made. The token is random: a study made anew takes no old jobs."""
    return Submission(number, kind, cluster, uuid.uuid4().hex[:16], [list(pack) for pack in packs])


def write_intent(ledger: Path, entry: Submission) -> None:
    line = {
        "number": entry.number,
        "kind": entry.kind,
        "cluster": entry.cluster,
        "token": entry.token,
        "packs": entry.packs,
    }
    journal.append(ledger, line)


def write_array(ledger: Path, entry: Submission, array: str) -> Submission:
    """Note the id that the cluster gave; returns the submission with it."""
    journal.append(ledger, {"number": entry.number, "array": array})
    return replace(entry, array=array)


def read(ledger: Path) -> list[Submission]:
    """All submissions, oldest first."""
    found: dict[int, Submission] = {}
    for entry in journal.read(ledger):
        number = entry["number"]
        if "array" in entry:
            if number in found:  # else its intent was the torn line
                found[number] = replace(found[number], array=entry["array"])
        else:
            found[number] = Submission(
                number, entry["kind"], entry["cluster"], entry["token"], entry["packs"]
            )
    return list(found.values())


@contextmanager
def held(paths: StudyPaths) -> Iterator[int]:
    """Hold a study's lock: one launcher at a time. Raises UserError when another is at work for long."""
    with locked(paths.lock, wait=WAIT_S) as lock:
        if lock is None:
            raise UserError(
                "another launcher is at work on this study", where=str(paths.root), remedy="wait for it"
            )
        yield lock


def next_number(submissions: Iterable[Submission]) -> int:
    return 1 + max((entry.number for entry in submissions), default=0)


def task_of(submissions: Iterable[Submission]) -> dict[str, str]:
    """job id -> the cluster task of its latest submission."""
    return {job: task for entry in submissions for task, pack in entry.tasks.items() for job in pack}
