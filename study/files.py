"""Files that other processes may read at any time: they see complete files or none."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HASH_LENGTH = 16
LOCK_POLL_S = 0.05


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` so that readers, also after a crash, see either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    # not named by the process id, which nodes and containers on one file system may share
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # instead of no name, or of the temporary file's
            error.filename, error.filename2 = str(path), None
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN raises ValueError: it is not JSON."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def canonical(value: Any) -> str:
    """`value` as JSON that does not depend on the order of keys. NaN raises ValueError: it is not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()[:HASH_LENGTH]


@contextmanager
def locked(path: Path, *, wait: bool | float = True) -> Iterator[int | None]:
    """Hold an exclusive lock on `path`; yields its descriptor, or None when another holds it.

    wait: without a limit, not at all, or for so many seconds.
    The kernel releases the lock when its holder dies, so a killed process leaves nothing to clean up. A child
    that inherits the descriptor holds the lock too, until it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        if wait is True:
            fcntl.flock(stream, fcntl.LOCK_EX)
        elif not _lock_within(stream.fileno(), float(wait)):
            yield None
            return
        # not unlocked explicitly: that would also unlock it for a child that still holds it
        yield stream.fileno()


def _lock_within(descriptor: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(LOCK_POLL_S)
        else:
            return True
