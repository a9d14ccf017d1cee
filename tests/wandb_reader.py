"""Reads the transaction log of one W&B run, `run-<id>.wandb`, as the SDK writes it offline.

The file is a 7-byte header, then blocks of 32 KiB in LevelDB's log format: chunks of
(checksum uint32, length uint16, type uint8, payload), where a record too long for its block is split into a
first, some middle and a last chunk. A record is one of the SDK's protobuf messages.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import HANG_S

IDENT = b":W&B"
FILE_HEADER_BYTES = 7
BLOCK_BYTES = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """The content of one run file. exit_code: None if the run was killed before it could record one."""

    run_id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    preempting: bool = False
    exit_code: int | None = None


def read_run(path: Path) -> WandbRun:
    """Everything in a run file, up to its end or to the record that a kill tore."""
    from wandb.proto import wandb_internal_pb2 as messages

    run = WandbRun()
    for payload in _payloads(path.read_bytes()):
        record = messages.Record()  # type: ignore[attr-defined]
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id, run.group, run.job_type = record.run.run_id, record.run.run_group, record.run.job_type
            run.name, run.tags = record.run.display_name, list(record.run.tags)
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            run.history.append(row)
            # only explicit values have summary records: the server derives the rest from the history
            run.summary.update(row)
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "files":
            run.files += [item.path for item in record.files.files]
        elif kind == "preempting":
            run.preempting = True
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def read_finished_run(path: Path, *, timeout_s: float = HANG_S) -> WandbRun:
    """A finished run, once its file is complete: offline, `finish` may return before that.

    Raises TimeoutError if no exit record comes.
    """
    deadline = time.monotonic() + timeout_s
    while (run := read_run(path)).exit_code is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path}: no exit record after {timeout_s} s")
        time.sleep(0.05)
    return run


def run_files(folder: Path) -> list[Path]:
    """The files of the offline runs in a folder, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        values[".".join(item.nested_key) or item.key] = json.loads(item.value_json)


def _payloads(data: bytes) -> Iterator[bytes]:
    if not data.startswith(IDENT):
        raise ValueError(f"not a run file: starts with {data[:FILE_HEADER_BYTES]!r}")
    position, started = FILE_HEADER_BYTES, b""
    while position + CHUNK_HEADER.size <= len(data):
        left_in_block = BLOCK_BYTES - position % BLOCK_BYTES
        if left_in_block < CHUNK_HEADER.size:
            position += left_in_block
            continue
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        if kind == 0 and length == 0:  # zero padding to the end of the block
            position += left_in_block
            continue
        start = position + CHUNK_HEADER.size
        chunk = data[start : start + length]
        if len(chunk) < length or zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return  # torn by a kill
        position = start + length
        if kind == FULL:
            yield chunk
        elif kind == FIRST:
            started = chunk
        elif kind == MIDDLE:
            started += chunk
        elif kind == LAST:
            yield started + chunk
