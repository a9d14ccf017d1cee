"""Journals: append-only files of JSON lines that survive a kill, with several writers."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one line in a single write, under a lock that other writers respect.

    After a line that a killed writer left torn, the entry starts on a new line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by close
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (("\n" if torn else "") + json.dumps(entry) + "\n").encode("utf-8"))
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """All entries, oldest first, without torn lines; empty where there is no file."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:  # torn, or the empty text after the last line
            continue
    return entries
