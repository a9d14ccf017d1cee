"""Files that others read while we write: whole or absent; locks that die with their holder; digests."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.files import digest, locked, read_json, write_atomic, write_json
from tests.sweeping import ROOT


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, "0" * 200_000)
    stop, seen = threading.Event(), set[tuple[int, int]]()

    def read() -> None:
        while not stop.is_set():
            content = path.read_text()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(100):
            write_atomic(path, str(number % 10) * 200_000)
    finally:
        stop.set()
        reader.join()
    assert seen == {(200_000, 1)}
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, problems = tmp_path / "file", list[BaseException]()

    def write(letter: str) -> None:
        try:
            for _ in range(100):
                write_atomic(path, letter * 50_000)
        except OSError as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not problems
    assert path.read_text() in ("a" * 50_000, "b" * 50_000)


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", "old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(tmp_path / "file", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": object()}, "\ud800"])
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, value: object) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": "ä"})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert read_json(path) == {"a": "ä"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock when it has said so."""
    program = (
        "import sys, time; from pathlib import Path; from study.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "lock")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_is_exclusive_and_dies_with_its_holder(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with locked(tmp_path / "lock", wait=False) as free:
        assert not free
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "lock", wait=False) as free:
        assert free
    with locked(tmp_path / "lock", wait=False) as free:  # given back at the end of the block
        assert free


def test_a_lock_is_given_back_when_its_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    with locked(tmp_path / "lock", wait=False) as free:
        assert free


def test_waiting_for_a_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    timer = threading.Timer(0.3, holder.kill)
    timer.start()
    with locked(tmp_path / "lock") as free:
        assert free
    timer.join()


def test_digest_golden() -> None:
    """Job ids are digests: another canonical form would orphan every study on disk."""
    value = {"b": [1, 1.0, None, True], "a": {"ä": "x"}}
    text = '{"a":{"ä":"x"},"b":[1,1.0,null,true]}'
    assert digest(value) == hashlib.sha256(text.encode()).hexdigest()[:16] == "38acc5eda21b0f28"
    assert digest(1) != digest(1.0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("inf")})


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("äb")
)


@given(st.dictionaries(st.text("abc"), st.lists(SCALARS) | SCALARS))
def test_digest_knows_no_key_order(values: dict[str, object]) -> None:
    assert digest(dict(reversed(list(values.items())))) == digest(values)
    assert digest(json.loads(json.dumps(values))) == digest(values)
