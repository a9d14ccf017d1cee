"""Where a model's weights are, for all that load them: a hub id, a folder of safetensors, or a GGUF file."""

from __future__ import annotations

import importlib.util
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from study.errors import JobError

UNREADABLE = (OSError, ValueError, NotImplementedError, SafetensorError)
"""What `from_pretrained` raises for weights that it cannot read."""
GGUF = ".gguf"
SPLIT_NAME = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
NEEDED_FOR_GGUF = ("gguf", "accelerate")
NAMED = 3
# the format's value types: those of a fixed size, text, array
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


class Weights(NamedTuple):
    """What `from_pretrained` takes.

    name: a hub id or a folder. common: keyword arguments for the model and for its tokenizer. model: more of
    them, for the model alone.
    """

    name: str
    common: dict[str, Any]
    model: dict[str, Any]


def weights_at(path: str, revision: str | None) -> Weights:
    """How the weights at a hub id, a folder or a GGUF file are loaded: no pickles, no code of a model's own.

    revision: a hub commit, None for a folder or a file.
    Raises JobError for a GGUF file when a package that reads it is missing.
    """
    safe: dict[str, Any] = {"trust_remote_code": False}
    if not path.endswith(GGUF):
        return Weights(path, {**safe, "revision": revision}, {"use_safetensors": True})
    for package in NEEDED_FOR_GGUF:
        if importlib.util.find_spec(package) is None:
            raise JobError(
                f"cannot load the model {path}: GGUF files are read with the package {package}; "
                "pip install -e '.[gguf]'"
            )
    file = Path(path)
    # whole matrices instead of blocks: blocks cannot be trained
    dequantize = {"quant_method": "gguf", "dequantize": True}
    return Weights(str(file.parent), {**safe, "gguf_file": file.name}, {"quantization_config": dequantize})


def cannot_load(path: str, error: Exception) -> JobError:
    """What `from_pretrained` complained of, in a sentence."""
    remedy = "; copy or download it again" if isinstance(error, SafetensorError) else ""
    return JobError(f"cannot load the model {path}: {(str(error).splitlines() or [''])[0]}{remedy}")


def cannot_load_tokenizer(path: str) -> JobError:
    """`from_pretrained` itself complains with a page of packages that one might install."""
    return JobError(
        f"cannot load the tokenizer of the model {path}: put its tokenizer.json and tokenizer_config.json "
        "beside the weights"
    )


def require_all(path: str, info: Mapping[str, Any]) -> None:
    """Refuse weights that lack some of the model's, which transformers would make up.

    info: as `output_loading_info` gives it. Raises JobError.
    """
    missing = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if missing:
        more = ", ..." if len(missing) > NAMED else ""
        raise JobError(
            f"the model {path} lacks {len(missing)} of its weights ({', '.join(missing[:NAMED])}{more}): "
            "give a complete causal language model"
        )


class GgufHeader(NamedTuple):
    """values: the metadata's numbers and texts by key, not its arrays. shapes: of each tensor, by name."""

    values: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def gguf_header(file: Path) -> GgufHeader:
    """What a GGUF file says of itself, without its weights.

    The package of this name takes ten seconds for it where the vocabulary is large.
    Raises ValueError for another kind of file.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(data)
    except (struct.error, KeyError, UnicodeDecodeError, ValueError, IsADirectoryError):
        raise ValueError("is no GGUF file of version 2 or 3") from None


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
    """A value and where the next begins; None for an array."""
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
