"""What SLURM said of a study, kept in it: however many people look at it, SLURM is asked now and then."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from launcher.cluster import ledger, scheduler
from launcher.cluster.advance import with_arrays
from launcher.cluster.ledger import Submission
from launcher.cluster.scheduler import Entry, Queue, SchedulerBusyError
from study.files import read_json, write_json
from study.paths import StudyPaths

MAX_DOUBLINGS = 4
"""While SLURM does not answer, the time between two tries doubles so often."""


@dataclass(frozen=True)
class Look:
    """What SLURM said of a study's tasks. Times are seconds since the epoch, 0 for never.

    queue: this study's tasks alone. ended: SLURM's word for tasks that squeue no longer tells, from sacct or
        from squeue before.
    told: when it said so. number: the latest submission then; it knows nothing of later ones.
    asked, asked_ended: when squeue and sacct were tried last. failures: tries since without an answer.
    trouble: why this is not the newest there could be; None when all is well.
    """

    queue: Queue = field(default_factory=Queue)
    ended: Mapping[str, str] = field(default_factory=dict)
    told: float = 0
    number: int = 0
    asked: float = 0
    asked_ended: float = 0
    failures: int = 0
    trouble: str | None = None

    @property
    def states(self) -> dict[str, str]:
        """SLURM's word for tasks that ended, wherever it is known from."""
        told = {task: entry.state for task, entry in self.queue.entries.items() if entry.alive is None}
        return {**self.ended, **told}


def look(
    paths: StudyPaths, interval_s: float, *, fresh: bool = False, before: Look | None = None
) -> tuple[Look, list[Submission]]:
    """What SLURM says, asked anew when the last answer is older than `interval_s`; and what was submitted.

    fresh: ask now. before: the last answer, where the study's own file need not be asked.
    A study that was never on SLURM asks nothing. Raises UserError when squeue refuses to answer; when it is
    only busy, the answer is the last one, with its trouble.
    """
    submissions = ledger.read(paths.ledger)
    if not any(entry.cluster == "slurm" for entry in submissions):
        return Look(), submissions
    before = before or _read(paths)
    if not scheduler.is_there():
        found = dataclasses.replace(before, trouble="SLURM is not on the PATH here")
        return found, with_arrays(submissions, found.queue)
    now = time.time()
    pause_s = interval_s * 2 ** min(before.failures, MAX_DOUBLINGS)
    if not fresh and 0 <= now - before.asked < pause_s:
        return before, with_arrays(submissions, before.queue)
    try:
        queue = scheduler.ask_queue(tries=1)
    except SchedulerBusyError as error:
        found = dataclasses.replace(
            before, asked=now, failures=before.failures + 1, trouble=f"SLURM does not answer: {error.what}"
        )
    else:
        queue = _only_ours(queue, submissions)
        # squeue forgets what ended after a few minutes; and a task that was requeued ends anew
        ended = {
            task: state
            for task, state in before.states.items()
            if task not in queue.entries and state != "COMPLETED"
        }
        number = max((entry.number for entry in submissions if entry.array is not None), default=0)
        found = Look(queue, ended, now, number, now, before.asked_ended)
    _write(paths, found)
    return found, with_arrays(submissions, found.queue)


def ask_ended(paths: StudyPaths, before: Look, tasks: Iterable[str], interval_s: float) -> Look:
    """The same, with sacct's word for tasks that ended and of which nothing else is known."""
    unknown = set(tasks) - before.states.keys()
    now = time.time()
    if not unknown or not scheduler.is_there() or 0 <= now - before.asked_ended < interval_s:
        return before
    told = scheduler.ask_ended([task.split("_")[0] for task in unknown]) or {}
    # accounting may lag behind: it calls running what has ended
    new = {task: told[task] for task in unknown & told.keys() if Entry(told[task], "", "").alive is None}
    found = dataclasses.replace(before, ended={**before.ended, **new}, asked_ended=time.time())
    _write(paths, found)
    return found


def _only_ours(queue: Queue, submissions: Sequence[Submission]) -> Queue:
    arrays = {entry.array for entry in with_arrays(submissions, queue)}
    return Queue({task: entry for task, entry in queue.entries.items() if task.split("_")[0] in arrays})


def _read(paths: StudyPaths) -> Look:
    if not paths.queue.is_file():
        return Look()
    try:
        data = read_json(paths.queue)
        entries = {task: Entry(*words) for task, words in data.pop("queue").items()}
        return Look(queue=Queue(entries), **data)
    except (KeyError, TypeError, ValueError):  # of another version of calsweep
        return Look()


def _write(paths: StudyPaths, found: Look) -> None:
    entries = {task: dataclasses.astuple(entry) for task, entry in found.queue.entries.items()}
    data = {
        entry.name: getattr(found, entry.name) for entry in dataclasses.fields(Look) if entry.name != "queue"
    }
    # the study may be another user's, who lets us read it
    with contextlib.suppress(PermissionError):
        write_json(paths.queue, {"queue": entries, **data})
