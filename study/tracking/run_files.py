"""The log of one W&B run, `run-<id>.wandb`: read it, and copy it without some of its rows.

A 7-byte header, then blocks of 32 KiB in LevelDB's log format: chunks of (checksum uint32, length uint16,
type uint8, payload), where a record too long for its block is split into a first, some middle and a last
chunk. A record is a protobuf message of the SDK; history records are the rows.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IDENT = b":W&B"
FILE_HEADER_BYTES = 7
BLOCK_BYTES = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class RunLog:
    """entity: empty for the user's own. rows: when each was logged, in seconds since the epoch, to
    the microsecond, which identifies it, also on the server. files: paths below `files/`.
    """

    path: Path
    run_id: str = ""
    entity: str = ""
    project: str = ""
    rows: list[float] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def read_log(path: Path) -> RunLog:
    """The content of a log up to its end, or to where a kill tore it; run_id is empty if it holds no run."""
    log = RunLog(path)
    files: dict[str, None] = {}
    for record in records_in(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            log.run_id, log.entity, log.project = record.run.run_id, record.run.entity, record.run.project
        elif kind == "history":
            log.rows.append(_logged_at(record))
        elif kind == "files":
            files.update((item.path, None) for item in record.files.files)
    log.files = list(files)
    return log


def records_in(path: Path) -> Iterator[Any]:
    """The SDK's records, up to the end of a log or to where a kill tore it."""
    for payload in _payloads(path.read_bytes()):
        yield _record(payload)


def write_without(source: Path, rows: Counter[float], target: Path, add: Iterable[str] = ()) -> None:
    """Copy a log without the rows in `rows`, each as often as it is counted there.

    add: further files for the copy to name.
    """
    data, left = source.read_bytes(), Counter(rows)
    kept, ends = [], False
    added = _files_record(add)
    for payload in _payloads(data):
        record = _record(payload)
        kind = record.WhichOneof("record_type")
        ends = ends or kind == "exit"
        if ends and added:
            kept.append(added)
            added = b""
        if kind == "history":
            at = _logged_at(record)
            if left[at] > 0:
                left[at] -= 1
                continue
        kept.append(payload)
    kept += [added] if added else []
    target.write_bytes(data[:FILE_HEADER_BYTES] + _framed(kept))


def _files_record(names: Iterable[str]) -> bytes:
    """The record that `run.save(policy="now")` writes to a log; empty for no files."""
    from wandb.proto import wandb_internal_pb2

    record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
    for name in names:
        record.files.files.add(path=name, policy=wandb_internal_pb2.FilesItem.PolicyType.NOW)  # type: ignore[attr-defined]
    payload: bytes = record.SerializeToString()
    return payload


def when(seconds: float) -> float:
    """A time, rounded as rows are identified by it."""
    return round(seconds, 6)


def _record(payload: bytes) -> Any:
    from wandb.proto import wandb_internal_pb2

    record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
    record.ParseFromString(payload)
    return record


def _logged_at(record: Any) -> float:
    for item in record.history.item:
        if (item.key or ".".join(item.nested_key)) == "_timestamp":
            return when(json.loads(item.value_json))
    raise ValueError("a row without a time: this version of the W&B SDK is not supported")


def _payloads(data: bytes) -> Iterator[bytes]:
    if not data.startswith(IDENT):
        return  # the disk was full, or the job was killed at once
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
        if len(chunk) < length or _checksum(kind, chunk) != checksum:
            return  # torn
        position = start + length
        started = chunk if kind in (FULL, FIRST) else started + chunk
        if kind in (FULL, LAST):
            yield started


def _framed(payloads: Iterable[bytes]) -> bytes:
    """Records as bytes, to follow the header of a file."""
    framed = bytearray()
    for payload in payloads:
        rest, first = payload, True
        while rest or first:
            room = BLOCK_BYTES - (FILE_HEADER_BYTES + len(framed)) % BLOCK_BYTES
            if room < CHUNK_HEADER.size:
                framed += bytes(room)
                continue
            chunk, rest = rest[: room - CHUNK_HEADER.size], rest[room - CHUNK_HEADER.size :]
            kind = (FULL if first else LAST) if not rest else (FIRST if first else MIDDLE)
            framed += CHUNK_HEADER.pack(_checksum(kind, chunk), len(chunk), kind) + chunk
            first = False
    return bytes(framed)


def _checksum(kind: int, chunk: bytes) -> int:
    return zlib.crc32(chunk, zlib.crc32(bytes([kind])))
