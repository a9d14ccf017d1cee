"""The beginning of a GGUF file, by the format's description; what follows it is never read."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence


def gguf_bytes(
    values: Mapping[str, str | int | float | bool | Sequence[str] | Sequence[int]],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    version: int = 3,
) -> bytes:
    """values: metadata by key. shapes: of tensors, the dimension that runs fastest first."""
    entries = [_text(key) + _value(value) for key, value in values.items()]
    tensors = [
        _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", 0, 0)
        for name, shape in shapes.items()
    ]  # fmt: skip
    start = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    return start + b"".join(entries) + b"".join(tensors)


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    assert isinstance(value, Sequence)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(item) for item in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
