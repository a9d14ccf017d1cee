"""Logs of W&B runs, read and copied, against the SDK that writes them and the reader of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.paths import JobPaths
from study.tracking import run_files as run_log
from study.tracking.run_files import read_log, write_without
from study.tracking.runs import track
from tests.study.tracking.test_runs import TRAIN
from tests.waiting import HANG_S
from tests.wandb_reader import read_run, run_files
from tests.wandb_server import forget_wandb

LENGTHS = (10, 10, 40_000, 10, 100_000, 32_700, 10)
"""Characters: some rows are longer than a block of 32 KiB."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the SDK writes for a run of some rows."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        forget_wandb(monkeypatch)
        (folder / "predictions").mkdir()
        (folder / "predictions" / "part.parquet").write_bytes(b"scores")
        job: Job = TRAIN
        with track(TrackingConfig(mode="offline", project="p", entity="e"), job, JobPaths(folder)) as run:
            run.save(folder / "predictions" / "part.parquet", folder)
            for item, length in enumerate(LENGTHS):
                run.log({"item": item, "pad": "x" * length})  # type: ignore[dict-item]
    (file,) = run_files(folder)
    return file


def test_a_log_has_what_the_sdk_wrote(log: Path) -> None:
    found, expected = read_log(log), read_run(log)
    assert (found.run_id, found.entity, found.project) == (TRAIN.job_id, "e", "p")
    assert found.rows == [round(row["_timestamp"], 6) for row in expected.history]
    assert len(found.rows) == len(LENGTHS)
    assert found.files == list(dict.fromkeys(expected.files))
    assert "predictions/part.parquet" in found.files


def test_a_copy_that_leaves_nothing_out_is_the_log(log: Path, tmp_path: Path) -> None:
    write_without(log, Counter([0.5]), tmp_path / "copy.wandb")
    assert (tmp_path / "copy.wandb").read_bytes() == log.read_bytes()


@given(left_out=st.sets(st.integers(0, len(LENGTHS) - 1)))
@settings(max_examples=20, deadline=None)
def test_a_copy_has_all_but_the_rows_left_out(
    log: Path, tmp_path_factory: pytest.TempPathFactory, left_out: set[int]
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "run.wandb"
    rows = read_log(log).rows
    write_without(log, Counter(rows[number] for number in left_out), copy)
    before, after = read_run(log), read_run(copy)
    kept = [row for number, row in enumerate(before.history) if number not in left_out]
    assert after.history == kept
    assert (after.config, after.files, after.exit_code) == (before.config, before.files, before.exit_code)


def test_the_sdk_reads_a_copy(log: Path, tmp_path: Path) -> None:
    write_without(log, Counter(read_log(log).rows[:4]), tmp_path / "run-x.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
    done = subprocess.run(
        [*command, str(tmp_path / "run-x.wandb")], capture_output=True, check=True, timeout=HANG_S
    )
    shown = json.loads(done.stdout)
    assert (shown["run_id"], shown["exit_code"]) == (TRAIN.job_id, 0)
    assert shown["summary"]["item"] == len(LENGTHS) - 1


@given(payloads=st.lists(st.binary(max_size=200) | st.integers(0, 90_000).map(bytes), max_size=8))
def test_frames_hold_any_records(payloads: list[bytes]) -> None:
    data = b":W&B" + bytes(3) + run_log._framed(payloads)
    assert list(run_log._payloads(data)) == payloads


@given(cut=st.integers(0, 10**6), flip=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_a_torn_or_spoilt_log_is_read_up_to_there(
    log: Path, tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    data = log.read_bytes()
    whole = list(run_log._payloads(data))
    torn = data[: cut % len(data)]
    spoilt = bytearray(data)
    spoilt[7 + flip % (len(data) - 7)] ^= 0x10
    for broken in (torn, bytes(spoilt)):
        found = list(run_log._payloads(broken))
        assert found == whole[: len(found)]
