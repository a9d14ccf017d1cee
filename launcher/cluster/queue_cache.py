"""SLURM's last answer about a study, kept in its folder, so that SLURM is rarely queried."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from launcher.cluster import ledger, scheduler
from launcher.cluster.advance import with_arrays
from launcher.cluster.ledger import Submission
from launcher.cluster.scheduler import Queue, QueueEntry, SchedulerBusyError
from study.files import read_json, write_json
from study.paths import StudyPaths

MAX_DOUBLINGS = 4
"""While SLURM does not answer, the time between two tries doubles, at most this often."""


@dataclass(frozen=True)
class QueueView:
    """What SLURM said about a study's tasks. Times are seconds since the epoch, 0 for never.

    queue: this study's tasks only. ended: states of ended tasks that squeue no longer lists, from sacct or
        from squeue before.
    answered: when squeue last did. number: the latest submission then; later ones are unknown to it.
    asked, asked_ended: when squeue and sacct were last tried. failures: tries since without an answer.
    trouble: why the view is out of date; None if it is not.
    """

    queue: Queue = field(default_factory=Queue)
    ended: Mapping[str, str] = field(default_factory=dict)
    answered: float = 0
    number: int = 0
    asked: float = 0
    asked_ended: float = 0
    failures: int = 0
    trouble: str | None = None

    @property
    def states(self) -> dict[str, str]:
        """States of ended tasks, from whichever source they are known."""
        listed = {task: entry.state for task, entry in self.queue.entries.items() if entry.alive is None}
        return {**self.ended, **listed}


def look(
    paths: StudyPaths, interval_s: float, *, fresh: bool = False, before: QueueView | None = None
) -> tuple[QueueView, list[Submission]]:
    """The queue, asked again when the last answer is older than `interval_s`; and the study's submissions.

    fresh: ask now. before: the last view, read from the study's folder if None.
    For a study that was never on SLURM, nothing is asked. Raises UserError when squeue fails; when SLURM is
    busy, the result is the last view with its `trouble`.
    """
    submissions = ledger.read(paths.ledger)
    if not any(submission.cluster == "slurm" for submission in submissions):
        return QueueView(), submissions
    before = before or _read(paths)
    if not scheduler.is_installed():
        view = dataclasses.replace(before, trouble="SLURM is not on the PATH here")
        return view, with_arrays(submissions, view.queue)
    now = time.time()
    pause_s = interval_s * 2 ** min(before.failures, MAX_DOUBLINGS)
    if not fresh and 0 <= now - before.asked < pause_s:
        return before, with_arrays(submissions, before.queue)
    try:
        queue = scheduler.ask_queue(tries=1)
    except SchedulerBusyError as error:
        view = dataclasses.replace(
            before, asked=now, failures=before.failures + 1, trouble=f"SLURM does not answer: {error.what}"
        )
    else:
        queue = _only_ours(queue, submissions)
        # squeue forgets ended tasks after a few minutes; a task that was requeued ends again later
        ended = {
            task: state
            for task, state in before.states.items()
            if task not in queue.entries and state != "COMPLETED"
        }
        number = max((each.number for each in submissions if each.array is not None), default=0)
        view = QueueView(queue, ended, now, number, now, before.asked_ended)
    _write(paths, view)
    return view, with_arrays(submissions, view.queue)


def ask_ended(paths: StudyPaths, before: QueueView, tasks: Iterable[str], interval_s: float) -> QueueView:
    """The view with sacct's states of ended tasks about which nothing else is known."""
    unknown = set(tasks) - before.states.keys()
    now = time.time()
    if not unknown or not scheduler.is_installed() or 0 <= now - before.asked_ended < interval_s:
        return before
    states = scheduler.ask_ended([task.split("_")[0] for task in unknown]) or {}
    # accounting lags, and may list a task as running that has ended
    new = {
        task: states[task]
        for task in unknown & states.keys()
        if QueueEntry(states[task], "", "").alive is None
    }
    view = dataclasses.replace(before, ended={**before.ended, **new}, asked_ended=time.time())
    _write(paths, view)
    return view


def _only_ours(queue: Queue, submissions: Sequence[Submission]) -> Queue:
    arrays = {submission.array for submission in with_arrays(submissions, queue)}
    return Queue({task: entry for task, entry in queue.entries.items() if task.split("_")[0] in arrays})


def _read(paths: StudyPaths) -> QueueView:
    if not paths.queue.is_file():
        return QueueView()
    try:
        data = read_json(paths.queue)
        entries = {task: QueueEntry(*words) for task, words in data.pop("queue").items()}
        return QueueView(queue=Queue(entries), answered=data.pop("told"), **data)
    except (KeyError, TypeError, ValueError):  # written by another version of calsweep
        return QueueView()


def _write(paths: StudyPaths, view: QueueView) -> None:
    data = {each.name: getattr(view, each.name) for each in dataclasses.fields(QueueView)}
    data["told"] = data.pop("answered")
    data["queue"] = {task: dataclasses.astuple(entry) for task, entry in view.queue.entries.items()}
    # the study may belong to another user, who lets this one only read it
    with contextlib.suppress(PermissionError):
        write_json(paths.queue, data)
