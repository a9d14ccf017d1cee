"""Every command reads each prediction part once, as the kernel sees it, and hashes it once."""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analysis.cli import main
from analysis.reading import loading
from launcher.job import work
from study.jobs.job import Job
from study.paths import StudyPaths
from tests.analysis.studies import StudyFolder, random_letters, sweep
from tests.analysis.validation_studies import trained, with_validation

IN_OPEN, IN_CLOSE_NOWRITE = 0x20, 0x10
"""From inotify(7). Equal events in a row are merged: between two openings there has to be a close."""
EVENT = struct.Struct("iIII")
LIBC = ctypes.CDLL(None, use_errno=True)

Command = Callable[[StudyFolder, StudyFolder], object]


def analyse_job(folder: StudyFolder) -> None:
    """What the analyse job of a study does; it fails at the end, since shards are missing."""
    needs = tuple(job["job_id"] for job in folder.jobs)
    job = Job("analyse", None, needs, {})  # type: ignore[arg-type]
    with pytest.raises(Exception, match="evaluations are missing"):
        work._analyse(StudyPaths(folder.root), job)
    assert (folder.root / "tables" / "metrics.csv").is_file()
    assert (folder.root / "dashboard.html").is_file()


COMMANDS: dict[str, Command] = {
    "tables": lambda a, b: main(["tables", str(a.root)]),
    "dashboard": lambda a, b: main(["dashboard", str(a.root)]),
    "figures": lambda a, b: main(["figures", str(a.root), "--format", "png"]),
    "diagnose": lambda a, b: main(["diagnose", str(a.root)]),
    "verify": lambda a, b: main(["verify", str(a.root)]),
    "compare": lambda a, b: main(["compare", str(a.root), str(b.root)]),
    "the analyse job": lambda a, b: analyse_job(a),
}
IN_TWO_PROCESSES = ("tables", "diagnose")
"""The others read by the same two functions."""


def made(folder: StudyFolder) -> StudyFolder:
    """Two models, a validation split, two benchmarks, seeds; shards that failed, differ, or are torn."""
    sweep(folder, languages=["en", "sw"], seeds=2, count=30, skip=[(0.1, 0, "sw")])
    with_validation(folder, cells=[{"model": "m"}, trained()], count=30)
    folder.add({"model": "m"}, "en", random_letters("x", 30, 2.0, 0.6, 0.9), benchmark="other")
    for cell in ({"model": "first"}, {"model": "second"}):  # the first that can be used comes second
        job_id = folder.add(cell, "yo", random_letters("y", 30, 2.0, 0.6, 0.9))
        if cell["model"] == "first":
            part = folder.root / "jobs" / job_id / "predictions" / "part-000015-000030.parquet"
            part.write_bytes(part.read_bytes()[:-1] + b"x")
    return folder


@contextmanager
def openings(folder: StudyFolder) -> Iterator[Counter[Path]]:
    """Counts how often each part is opened, by any process, until the end of the block."""
    watcher = LIBC.inotify_init1(os.O_NONBLOCK)
    assert watcher >= 0, os.strerror(ctypes.get_errno())
    folders = {
        LIBC.inotify_add_watch(watcher, os.fsencode(path), IN_OPEN | IN_CLOSE_NOWRITE): path
        for path in folder.root.glob("jobs/*/predictions")
    }
    assert -1 not in folders, os.strerror(ctypes.get_errno())
    counts: Counter[Path] = Counter()
    try:
        yield counts
        while True:
            try:
                data = os.read(watcher, 1 << 16)
            except BlockingIOError:
                break
            while data:
                watch, mask, _, size = EVENT.unpack_from(data)
                name = data[EVENT.size : EVENT.size + size].rstrip(b"\0").decode()
                data = data[EVENT.size + size :]
                if mask & IN_OPEN and name.endswith(".parquet"):
                    counts[folders[watch] / name] += 1
    finally:
        os.close(watcher)


def parts(folder: StudyFolder) -> set[Path]:
    return set(folder.root.glob("jobs/*/predictions/*.parquet"))


def test_openings_are_counted(folder: StudyFolder) -> None:
    made(folder)
    twice, once, *_ = sorted(parts(folder))
    with openings(folder) as counts:
        for path in (twice, once, twice, twice):
            path.read_bytes()
    assert counts == {twice: 3, once: 1}


@pytest.mark.parametrize(
    ("command", "num_processes"),
    [*((name, 1) for name in COMMANDS), *((name, 2) for name in IN_TWO_PROCESSES)],
)
def test_each_part_is_read_and_hashed_once(
    command: str,
    num_processes: int,
    both: tuple[StudyFolder, StudyFolder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = both
    if command == "figures":  # each setting of a study takes seconds to draw
        sweep(a, languages=["en"], seeds=1, count=20)
    else:
        made(a)
    if command == "compare":
        made(b)
    if command == "verify":  # there has to be something to verify
        main(["tables", str(a.root)])
        main(["diagnose", str(a.root)])
    known = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in parts(a) | parts(b))
    hashed: Counter[str] = Counter()
    sha256 = hashlib.sha256

    def counted(data: bytes = b"", **options: bool) -> object:
        result = sha256(data, **options)
        if result.hexdigest() in known:
            hashed[result.hexdigest()] += 1
        return result

    monkeypatch.setattr(hashlib, "sha256", counted)
    if num_processes > 1:
        monkeypatch.setattr(loading, "WORTH_PROCESSES", 0)
        monkeypatch.setattr(loading, "_num_cores", lambda: num_processes)
    with openings(a) as counts, openings(b) as more:
        COMMANDS[command](a, b)
    assert counts + more == dict.fromkeys(parts(a) | parts(b), 1)
    if num_processes == 1:  # those of other processes cannot be counted
        assert hashed == known
