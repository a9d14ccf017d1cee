"""The headers of GGUF files: sizes and settings of a model, without its weights."""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

GGUF = ".gguf"
SPLIT_NAME = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# codes of the format's value types: numbers as `struct` formats, text, array
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


class GgufHeader(NamedTuple):
    """values: numbers and texts of the metadata by key, without arrays. shapes: of each tensor, by name."""

    values: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def gguf_header(file: Path) -> GgufHeader:
    """Metadata and tensor shapes of a GGUF file, without reading its weights.

    The package gguf takes ten seconds for this with a large vocabulary.
    Raises ValueError for another kind of file.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(data)
    except (struct.error, KeyError, UnicodeDecodeError, ValueError, IsADirectoryError):
        raise ValueError("is not a GGUF file of version 2 or 3") from None


def _header(data: mmap.mmap) -> GgufHeader:
    magic, version, num_tensors, num_values = struct.unpack_from("<4sIQQ", data, 0)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError
    at = 24
    values: dict[str, Any] = {}
    for _ in range(num_values):
        key, at = _text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        values[key], at = _value(data, at + 4, kind)
    shapes = {}
    for _ in range(num_tensors):
        name, at = _text(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        shapes[name] = struct.unpack_from(f"<{rank}Q", data, at + 4)
        at += 4 + 8 * rank + 12  # its type and offset
    if at > len(data):
        raise ValueError
    return GgufHeader({key: value for key, value in values.items() if value is not None}, shapes)


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    """A value (None for an array) and the offset of what follows."""
    if kind == TEXT:
        return _text(data, at)
    if kind != ARRAY:
        return struct.unpack_from("<" + FIXED[kind], data, at)[0], at + struct.calcsize("<" + FIXED[kind])
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind in FIXED:
        return None, min(at + count * struct.calcsize("<" + FIXED[kind]), len(data))
    for _ in range(count):
        _, at = _value(data, at, kind)
    return None, at


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise ValueError
    return data[at + 8 : end].decode(), end
