"""Why a job ended, and its remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.job import causes
from launcher.job.attempts import Attempt
from launcher.job.causes import Execution, of_exception, of_silence, remedy, tries_left, with_remedies
from study.errors import JobError, RecordError
from study.jobs.resources import Resources

ASKED = Resources(mem_gib=4, micro_batch_size=8, micro_batch_tokens=4096, batch_tokens=1000)


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (JobError("row 3"), causes.USER_ERROR),
        (RecordError("torn"), causes.USER_ERROR),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), causes.GPU_MEMORY),
        (RuntimeError("CUDA error: CUDA out of memory"), causes.GPU_MEMORY),
        (MemoryError(), causes.HOST_MEMORY),
        (ValueError("a defect of ours"), causes.ERROR),
    ],
)
def test_the_cause_of_an_exception(error: Exception, cause: str) -> None:
    assert of_exception(error) == cause


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("slurmstepd: error: Exceeded job memory limit", causes.HOST_MEMORY),
        ("slurmstepd: error: StepId=1.0 exceeded memory limit (2 > 1), being killed", causes.HOST_MEMORY),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0", causes.HOST_MEMORY),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x DUE TO NODE FAILURE ***", causes.NODE_FAILURE),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***", causes.TIME_LIMIT),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT x DUE TO PREEMPTION ***", causes.PREEMPTED),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T21:07:27 ***", causes.CANCELLED),
        ("nothing that anybody knows", causes.KILLED),
    ],
)
def test_the_cause_of_a_silent_end_stands_in_its_log(tmp_path: Path, line: str, cause: str) -> None:
    log = tmp_path / "1_0_0_log.err"
    log.write_text(f"working\n{line}\n")
    assert of_silence(None, [log, tmp_path / "none"]) == cause
    assert of_silence("OUT_OF_MEMORY", [log]) == causes.HOST_MEMORY  # SLURM's state takes precedence
    # from an earlier attempt
    log.write_text(f"working\n{line}\n{causes.ATTEMPT_BEGINS}1_0.1\nworking\n")
    assert of_silence("FAILED", [log]) == causes.KILLED


def test_more_memory_each_time_and_never_the_same_lack_twice() -> None:
    first = remedy(causes.HOST_MEMORY, "train", Execution(ASKED), ASKED)
    assert first is not None
    second = remedy(causes.HOST_MEMORY, "train", first, ASKED, max_mem_gib=8)
    assert second is not None
    assert [first.resources.mem_gib, second.resources.mem_gib] == [6, 8]
    assert second.changes == (
        "out of host memory: mem_gib 4 -> 6", "out of host memory: mem_gib 6 -> 8",
    )  # fmt: skip
    assert remedy(causes.HOST_MEMORY, "train", second, ASKED, max_mem_gib=8) is None
    # but what the user gives since counts
    given = remedy(causes.HOST_MEMORY, "train", second, replace(ASKED, mem_gib=20), max_mem_gib=8)
    assert given is not None
    assert given.resources.mem_gib == 20


def test_half_of_both_bounds_of_a_micro_batch_as_long_as_there_is_a_half() -> None:
    execution = Execution(ASKED)
    sizes = []
    while (execution := remedy(causes.GPU_MEMORY, "train", execution, ASKED)) is not None:  # type: ignore[assignment]
        sizes.append((execution.resources.micro_batch_size, execution.resources.micro_batch_tokens))
        change = execution.changes[-1]
    assert sizes == [(4, 2048), (2, 1024), (1, 512)]
    assert change == f"{causes.GPU_MEMORY}: micro_batch_size 2 -> 1, micro_batch_tokens 1024 -> 512"
    smaller = remedy(causes.GPU_MEMORY, "evaluate", Execution(ASKED), ASKED)
    assert smaller is not None
    assert (smaller.resources.batch_tokens, smaller.resources.micro_batch_size) == (500, 8)


def test_what_a_remedy_gave_stays_given() -> None:
    """A preemption after a lack of memory does not take the memory away; other resources follow the grid."""
    first = remedy(causes.HOST_MEMORY, "train", Execution(ASKED), ASKED)
    assert first is not None
    later = remedy(causes.PREEMPTED, "train", first, replace(ASKED, mem_gib=5, time_min=90))
    assert later is not None
    assert (later.resources.mem_gib, later.resources.time_min) == (6, 90)
    assert later.changes == first.changes
    assert with_remedies(ASKED, {}) == ASKED


def attempts(*progress: int) -> list[Attempt]:
    return [Attempt(f"1_0.{i}", "1_0", "n1", began=i, progress=done) for i, done in enumerate(progress)]


@pytest.mark.parametrize(
    ("progress", "now", "left"),
    [
        ((0,), 0, 1),  # one attempt without progress
        ((0, 0), 0, 0),
        ((0, 0), 5, 2),  # the second made progress
        ((0, 5, 9), 12, 2),  # all made progress
        ((0, 5, 5), 5, 0),
        ((0, 5, 5), 6, 2),
    ],
)
def test_attempts_that_get_further_do_not_count(progress: tuple[int, ...], now: int, left: int) -> None:
    assert tries_left(causes.KILLED, attempts(*progress), now) == left


def test_some_failures_are_never_tried_again() -> None:
    for cause in (causes.USER_ERROR, causes.ERROR, causes.CANCELLED):
        assert tries_left(cause, attempts(0), 0) <= 0
