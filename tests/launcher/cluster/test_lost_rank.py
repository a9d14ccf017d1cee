"""The report of a rank that misses another one is replaced by any report about the cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster.endings import record_failure
from launcher.job import causes
from launcher.job.work import _report
from study.errors import JobError
from study.files import read_json
from study.paths import JobPaths

GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:48520")
NCCL = RuntimeError("NCCL error: remote process exited or there was a network error")


@pytest.mark.parametrize("error", [GLOO, NCCL])
def test_a_lost_rank_is_not_an_error_of_the_one_that_misses_it(error: RuntimeError) -> None:
    assert causes.of_exception(error) == causes.KILLED


def test_a_lost_connection_to_something_else_is() -> None:
    assert causes.of_exception(ConnectionResetError("Connection closed by peer")) == causes.ERROR


@pytest.mark.parametrize("first", [0, 1])
def test_the_rank_that_failed_is_believed_whoever_speaks_first(tmp_path: Path, first: int) -> None:
    folder = JobPaths(tmp_path)
    errors = [GLOO, JobError("the loss is nan")]
    _report(folder, errors[first])
    _report(folder, errors[1 - first])
    assert read_json(folder.failed)["cause"] == causes.USER_ERROR
    assert read_json(folder.failed)["message"] == "the loss is nan"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("slurmstepd: error: Exceeded job memory limit", causes.HOST_MEMORY),
        (
            "slurmstepd-n1: error: StepId=7.0 exceeded memory limit (900 > 820), being killed",
            causes.HOST_MEMORY,
        ),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***", causes.KILLED),
        ("", causes.KILLED),
    ],
)
def test_what_befell_the_missed_rank_is_read_from_its_log(tmp_path: Path, said: str, cause: str) -> None:
    folder, log = JobPaths(tmp_path / "job"), tmp_path / "7_0_1_log.err"
    log.write_text(f"{said}\n")
    _report(folder, GLOO)
    record_failure(folder, "7_0.0", "7_0", [log])
    assert read_json(folder.failed)["cause"] == cause
