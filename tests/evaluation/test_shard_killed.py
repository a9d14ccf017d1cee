"""SIGKILL at random moments, in the middle of saves too: the records are those of a shard left alone."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

import evaluation.shard
from launcher.job import attempts
from launcher.job.work import run_job
from study import records
from study.files import read_json, write_json
from study.grid.sources import content_revision
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import Benchmark, Source
from study.paths import JobPaths, StudyPaths
from tests.evaluation.shards import digests, make_job
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.training.attempts import KILLED, processes
from tests.waiting import HANG_S, eventually
from tests.wandb_reader import FILE_HEADER_BYTES, read_finished_run, read_run, run_files

NUM_ITEMS = 500
PARTS = 100
PART_SIZE = NUM_ITEMS // PARTS
KILLS = 20
SYNC_S = 0.015
"""What a file takes to reach the disk: long enough for a kill to fall into it."""


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder = tmp_path_factory.mktemp("benchmark")
    rows = [
        {
            "sample_id": f"s/{i}",
            "subject": "ab"[i % 2],
            "question": f"{i} {'?' * (i * 7 % 11)}",
            **{f"option_{k}": f"{k} {i}" for k in "abcd"},
            "answer": "ABCD"[i * i % 4],
        }
        for i in range(NUM_ITEMS)
    ]
    (folder / "sw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Benchmark("mine", Source("local", str(folder), content_revision(folder)), "global_mmlu")


def study_of(folder: Path, job: Job) -> StudyPaths:
    """A study with a trained model and one evaluation of it, to be tracked offline."""
    paths = StudyPaths(folder)
    (model,) = job.needs
    save(make_llama(), make_tokenizer(bos=True), paths.job(model).model)
    write_json(paths.job(model).done, {})
    write_json(paths.job(job.job_id).spec, job.to_dict())
    write_json(
        paths.job(job.job_id).execution,
        {"resources": Resources(batch_tokens=2000).__dict__, "tracking": {"mode": "offline"}},
    )
    return paths


@pytest.fixture
def started() -> Iterator[list[ForkServerProcess]]:
    """The attempts. None outlives the test, and no service of W&B outlives its attempt for long."""
    actual: list[ForkServerProcess] = []
    yield actual
    for process in actual:
        process.kill()
        process.join()
    parents = [process.pid for process in actual]
    eventually(lambda: not services(parents), "the services of W&B end")


def services(parents: Sequence[int | None]) -> list[int]:
    """The processes of W&B that were started by these."""
    actual = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "wandb-core" and {*map(str, parents)} & {*(process.info["cmdline"] or [])}:
            actual.append(process.pid)
    return actual


def start(paths: StudyPaths, job: Job, started: list[ForkServerProcess]) -> ForkServerProcess:
    process = processes.Process(target=_attempt, args=(str(paths.root), job.job_id, len(started)))
    process.start()
    started.append(process)
    return process


def _attempt(study_dir: str, job_id: str, number: int) -> None:
    log = os.open(Path(study_dir) / f"log-{number}.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(
        SUBMITIT_EXECUTOR="local", SUBMITIT_LOCAL_JOB_ID=str(number), SUBMITIT_LOCAL_GLOBALID="0"
    )
    evaluation.shard.PART_SIZE = PART_SIZE
    fsync = os.fsync

    def slow(descriptor: Any) -> None:
        time.sleep(SYNC_S)
        fsync(descriptor)

    os.fsync = slow  # type: ignore[assignment]
    run_job(study_dir, job_id)


def log_of(paths: StudyPaths, number: int) -> str:
    return (paths.root / f"log-{number}.txt").read_text()


def wait_until(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    def gets_on() -> bool:
        came = condition()
        assert came or process.is_alive()
        return came

    eventually(gets_on, "the attempt gets on", every_s=0.001)


def finish(paths: StudyPaths, job: Job, started: list[ForkServerProcess]) -> None:
    process = start(paths, job, started)
    process.join(HANG_S)
    assert process.exitcode == 0, log_of(paths, len(started) - 1)


def saves(folder: JobPaths, name: str) -> list[Path]:
    """Files that are being written."""
    return list(folder.root.rglob(f".{name}.*.tmp"))


def wait_for_the_loop(folder: JobPaths, process: ForkServerProcess) -> None:
    """An attempt tells how far the shard is when it enters the loop."""
    before = folder.progress.stat().st_mtime_ns if folder.progress.exists() else 0
    wait_until(lambda: folder.progress.exists() and folder.progress.stat().st_mtime_ns > before, process)


def wait_for_parts(folder: JobPaths, count: int, process: ForkServerProcess) -> None:
    wait_until(lambda: len(list(folder.predictions.glob("part-*"))) >= count, process)


def test_a_shard_that_is_killed_twenty_times(
    benchmark: Benchmark, tmp_path: Path, started: list[ForkServerProcess]
) -> None:
    """On its way into the loop, in the loop, while a part is written, and while the marker is."""
    job = make_job(benchmark)
    alone, killed = study_of(tmp_path / "alone", job), study_of(tmp_path / "killed", job)
    finish(alone, job, started)
    expected, folder = digests(alone.job(job.job_id)), killed.job(job.job_id)
    assert len(expected) == PARTS

    moments, actual, in_a_save = random.Random(0), 0, 0
    for number in range(KILLS):
        process = start(killed, job, started)
        if number == KILLS - 1:
            wait_until(lambda: bool(saves(folder, "DONE")), process)
        elif number % 4 == 0:
            time.sleep(moments.uniform(0, 2))
        else:
            wait_for_the_loop(folder, process)
            wait_for_parts(folder, actual + moments.randint(0, 5), process)
            if number % 2:
                wait_until(lambda: bool(saves(folder, "part-*")), process)
            time.sleep(moments.uniform(0, SYNC_S))
        process.kill()
        process.join()
        assert process.exitcode == KILLED, log_of(killed, number)
        in_a_save += bool(saves(folder, "*"))
        for left in saves(folder, "*"):  # to tell it from those of the next attempt
            left.unlink()
        assert_whole(folder, expected)
        before, actual = actual, len(digests(folder))
        assert actual >= before
    assert in_a_save >= KILLS // 2, "the test has not tested what it says"
    assert actual == PARTS, "the last kill was to fall into the marker"
    finish(killed, job, started)

    assert digests(folder) == expected
    assert folder.done.read_bytes() == alone.job(job.job_id).done.read_bytes()
    *silent, last = attempts.read(folder)  # who was killed early has not begun
    assert len(silent) > KILLS / 2
    assert {attempt.outcome for attempt in silent} == {None}
    assert last.outcome == "done"
    assert_one_run(folder, job)


def assert_whole(folder: JobPaths, expected: dict[str, str]) -> None:
    """After a kill: what has a name is what it is to be, to the byte, and can be read."""
    assert not folder.done.exists()
    assert not folder.failed.exists()
    assert digests(folder).items() <= expected.items()
    for path in records.parts(folder.predictions):  # which refuses gaps
        records.read_part(path)
    for file in (folder.progress, folder.env):
        assert not file.exists() or read_json(file)
    for items in (folder.root.parent.parent / "items").rglob("*.parquet"):
        assert pq.read_table(items).num_rows == NUM_ITEMS


def assert_one_run(folder: JobPaths, job: Job) -> None:
    """All attempts are one W&B run; whichever is synced last, with it every part goes up."""
    files = run_files(folder.root)
    assert len(files) > KILLS / 2
    assert {file.name for file in files} == {f"run-{job.job_id}.wandb"}
    # of who was killed at once there is a file's beginning
    runs = [read_run(file) for file in files if file.stat().st_size > FILE_HEADER_BYTES]
    assert {run.run_id for run in runs} == {job.job_id}
    last = read_finished_run(files[-1])
    assert last.exit_code == 0
    assert last.summary["num_items"] == NUM_ITEMS
    parts = {f"predictions/{name}" for name in digests(folder)}
    assert {name for name in last.files if name.endswith(".parquet")} == parts
    for name in parts:
        assert (files[-1].parent / "files" / name).read_bytes() == (folder.root / name).read_bytes()
