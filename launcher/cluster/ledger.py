"""The ledger: a line of intent before each submission, and one with the cluster's id after it."""

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
"""The last sbatch call of a killed launcher outlives it, and holds the lock until it has finished."""


@dataclass(frozen=True)
class Submission:
    """One array of tasks, or one local task.

    token: written before the submission and given to the cluster as the job's comment, so that a job whose
        id never reached this file can be found again.
    packs: the jobs of each task. array: the cluster's id (local: the process id); None while only intended.
    """

    number: int
    kind: str
    cluster: str
    token: str
    packs: Sequence[Sequence[str]]
    array: str | None = None

    @property
    def tasks(self) -> Mapping[str, Sequence[str]]:
        """Cluster task -> its jobs; empty while only intended."""
        if self.array is None:
            return {}
        if self.cluster == "local":
            return {self.array: self.packs[0]}
        return {f"{self.array}_{index}": pack for index, pack in enumerate(self.packs)}


def write_intent(ledger: Path, kind: str, cluster: str, packs: Sequence[Sequence[str]]) -> Submission:
    """Note a submission that is about to be made, with the next number; returns it.

    The token is random, so that a study deleted and swept again does not adopt jobs of its predecessor.
    """
    number, token = next_number(read(ledger)), uuid.uuid4().hex[:16]
    submission = Submission(number, kind, cluster, token, [list(pack) for pack in packs])
    keys = ("number", "kind", "cluster", "token", "packs")
    journal.append(ledger, {key: getattr(submission, key) for key in keys})
    return submission


def write_array(ledger: Path, submission: Submission, array: str) -> Submission:
    """Note the id that the cluster gave; returns the submission with it."""
    journal.append(ledger, {"number": submission.number, "array": array})
    return replace(submission, array=array)


def read(ledger: Path) -> list[Submission]:
    """All submissions, oldest first."""
    submissions: dict[int, Submission] = {}
    for line in journal.read(ledger):
        number = line["number"]
        if "array" not in line:
            submissions[number] = Submission(**line)
        elif number in submissions:  # else its intent was the torn line
            submissions[number] = replace(submissions[number], array=line["array"])
    return list(submissions.values())


@contextmanager
def held(paths: StudyPaths) -> Iterator[int]:
    """Hold a study's lock, so that one launcher works at a time; yields its descriptor.

    Raises UserError when another launcher still holds it after WAIT_S.
    """
    with locked(paths.lock, wait=WAIT_S) as lock:
        if lock is None:
            raise UserError(
                "another launcher is working on this study",
                where=str(paths.root),
                remedy="wait until it has finished",
            )
        yield lock


def next_number(submissions: Iterable[Submission]) -> int:
    return 1 + max((submission.number for submission in submissions), default=0)


def task_of(submissions: Iterable[Submission]) -> dict[str, str]:
    """job id -> the cluster task of its latest submission."""
    return {job_id: task for each in submissions for task, pack in each.tasks.items() for job_id in pack}
