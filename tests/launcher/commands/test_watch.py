"""`watch`: lines without a terminal, an end when nothing runs or waits, and no file is changed."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher.commands import watch as watching
from launcher.commands.watch import is_active, watch
from launcher.state.status import Survey, survey_of
from study.files import locked, write_json
from study.paths import StudyPaths
from tests.launcher.fake_slurm import FakeSlurm, queue_of
from tests.launcher.studies import PROFILE, begin, done, fail, put_on_path, submit, swept
from tests.sweeping import ROOT
from tests.waiting import HANG_S


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setattr(watching, "EVERY_S", 0.05)
    return put_on_path(tmp_path, monkeypatch)


@pytest.fixture
def quick(tmp_path: Path, fake: FakeSlurm) -> tuple[StudyPaths, list[str]]:
    """A study in the queue, at a site that may be queried at any time."""
    plan, paths, _ = swept(tmp_path, profile=PROFILE.replace("30\n", "0\n", 1))
    ids = [job.job_id for job in plan.jobs]
    submit(paths, "7", [[job_id] for job_id in ids])
    fake.answer(squeue=queue_of(*(f"7_{i} PENDING" for i in range(5))))
    return paths, ids


def watched(paths: StudyPaths, *, as_json: bool = False) -> tuple[int, list[str]]:
    console = Console(file=io.StringIO(), width=110)
    code = watch(paths, "out/s", console, as_json=as_json, fresh=False)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue().splitlines()


def after_looks(monkeypatch: pytest.MonkeyPatch, *events: Callable[[], None], looks: int = 3) -> None:
    """Make the events happen during `watch`, one after another, with so many looks before each."""
    seen = 0

    def look(*arguments: Any, **how: Any) -> Survey:
        nonlocal seen
        number, rest = divmod(seen, looks)
        if rest == 0 and 0 < number <= len(events):
            events[number - 1]()
        seen += 1
        return survey_of(*arguments, **how)

    monkeypatch.setattr(watching, "survey_of", look)


@pytest.fixture
def later(quick: tuple[StudyPaths, list[str]], fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """During `watch` a job begins and fails; then all leave the queue."""
    paths, ids = quick

    def one_begins() -> None:
        fake.answer(squeue=queue_of("7_0 RUNNING", *(f"7_{i} PENDING" for i in range(1, 5))))

    def one_fails() -> None:
        fail(paths, ids[0])
        for job_id in (ids[1], ids[3]):
            done(paths, job_id)
        fake.answer(squeue=queue_of("7_0 FAILED"))

    after_looks(monkeypatch, one_begins, one_fails)


def test_a_line_for_each_change_and_the_exit_code_of_status(
    quick: tuple[StudyPaths, list[str]], later: None
) -> None:
    code, printed = watched(quick[0])
    assert code == 1
    assert [line.split("  ", 1)[1] for line in (printed[0], printed[1], printed[-1])] == [
        "○ 5 queued",
        "▶ 1 running  ○ 4 queued",
        "● 2 done  ✗ 1 failed  ⊘ 1 blocked  · 1 missing",
    ]
    assert len({*printed}) == len(printed)


def test_as_json_each_change_is_a_line(
    quick: tuple[StudyPaths, list[str]], later: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = watched(quick[0], as_json=True)
    assert (code, printed) == (1, [])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["counts"]["queued"] == 5
    assert lines[1]["counts"] == {**lines[0]["counts"], "queued": 4, "running": 1}
    assert lines[-1]["counts"]["failed"] == 1
    assert all(before["time"] <= after["time"] for before, after in itertools.pairwise(lines))


@pytest.fixture
def at_work(quick: tuple[StudyPaths, list[str]], fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """During `watch` a job progresses, stalls, and is done; the counts change only at the end."""
    paths, ids = quick
    fake.answer(squeue=queue_of("7_0 RUNNING"))
    begin(paths, ids[0], "7_0")
    progress = {"total": 400, "unit": "steps", "steps_per_s": 0.5}
    write_json(paths.job(ids[0]).progress, {"done": 100, **progress})
    attempt = paths.job(ids[0]).attempts
    attempt.write_text(re.sub(r'"time": [\d.]+', '"time": 1.0', attempt.read_text()))

    def it_gets_on() -> None:
        write_json(paths.job(ids[0]).progress, {"done": 200, **progress})

    def it_stalls() -> None:
        os.utime(paths.job(ids[0]).progress, (time.time() - 900,) * 2)

    def all_end() -> None:
        for job_id in ids:
            done(paths, job_id)
        fake.answer()

    after_looks(monkeypatch, it_gets_on, it_stalls, all_end)


SEEN = [
    "100 of 400 steps, 0.5 steps/s, 10 min left",
    "200 of 400 steps, 0.5 steps/s, 7 min left",
    "200 of 400 steps, stalled: no progress for 15 min",
]


def test_paces_are_printed_now_and_then(
    quick: tuple[StudyPaths, list[str]], at_work: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a plain pipe; and never an estimate for a stalled job."""
    monkeypatch.setattr(watching, "LINES_EVERY_S", 0)
    code, printed = watched(quick[0])
    assert code == 0
    seen = [line.split("  ")[-1] for line in printed if "of 400 steps" in line]
    assert seen == [line for line in SEEN for _ in range(3)]  # at each look
    assert all(line.startswith("          train m/cldr-instruct") for line in printed if "of 400" in line)


def test_between_two_lines_there_is_time(quick: tuple[StudyPaths, list[str]], at_work: None) -> None:
    _, printed = watched(quick[0])
    assert len([line for line in printed if "of 400 steps" in line]) == 1


def test_json_has_running_jobs_with_their_speed(
    quick: tuple[StudyPaths, list[str]],
    at_work: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(watching, "LINES_EVERY_S", 0)
    watched(quick[0], as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first, *_, stalled, last = (line["running"] for line in lines)
    assert [(one["job_id"], one["done"], one["per_s"], one["stalled"]) for one in first] == [
        (quick[1][0], 100, 0.5, False)
    ]
    assert [(one["done"], one["per_s"], one["left_s"], one["stalled"]) for one in stalled] == [
        (200, None, None, True)
    ]
    assert last == []


def test_slurm_is_not_asked_at_each_look(
    tmp_path: Path, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, paths, _ = swept(tmp_path)
    submit(paths, "7", [[job.job_id] for job in plan.jobs])
    fake.answer(squeue=queue_of(*(f"7_{i} PENDING" for i in range(5))))

    def finish() -> None:
        for job in plan.jobs:
            done(paths, job.job_id)

    after_looks(monkeypatch, finish, looks=10)
    code, printed = watched(paths)
    assert (code, printed[-1].split("  ", 1)[1]) == (0, "● 5 done")
    assert len(fake.calls("squeue")) == 1


def test_without_activity_it_ends_at_once(tmp_path: Path, fake: FakeSlurm) -> None:
    _, paths, _ = swept(tmp_path, profile=None)
    code, printed = watched(paths)
    assert (code, len(printed)) == (0, 1)


def test_it_waits_for_a_launcher(tmp_path: Path, fake: FakeSlurm) -> None:
    """On this machine nothing runs for a moment between two jobs."""
    plan, paths, _ = swept(tmp_path, profile=None)
    with locked(paths.lock):
        assert is_active(survey_of(plan, paths), paths)
    assert not is_active(survey_of(plan, paths), paths)


def test_on_a_terminal_it_paints_and_ctrl_c_leaves_at_once(
    quick: tuple[StudyPaths, list[str]], fake: FakeSlurm
) -> None:
    paths, ids = quick
    fake.answer(squeue=queue_of("7_0 RUNNING", *(f"7_{i} PENDING" for i in range(1, 5))))
    begin(paths, ids[0], "7_0")
    write_json(paths.job(ids[0]).progress, {"done": 9, "total": 400, "unit": "steps", "steps_per_s": 0.01})
    before = sorted(path.name for path in paths.root.rglob("*"))
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", "watch", str(paths.root)],
        cwd=ROOT, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    end = time.monotonic() + HANG_S
    while b"Ctrl-C leaves" not in seen and time.monotonic() < end:
        if select.select([leader], [], [], 0.2)[0]:
            seen += os.read(leader, 65536)
    assert "4 queued" in seen.decode()
    assert "9 of 400 steps, 0.01 steps/s, 10.9 h left" in seen.decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=HANG_S) == 130
    while select.select([leader], [], [], 0.2)[0]:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(leader)
    assert b"\x1b[?25h" in seen  # the cursor is back
    assert b"Traceback" not in seen
    assert sorted(path.name for path in paths.root.rglob("*")) == sorted([*before, "queue.json"])
    assert not fake.calls("scancel")
