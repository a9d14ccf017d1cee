"""Training data as token ids with a target mask: made once for all jobs that share them, read from disk."""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from study.errors import JobError
from study.files import digest, locked, read_json, sync, write_json
from study.jobs.specs import TrainSpec
from training.data.encoding import Example, encoder
from training.data.messages import messages_of, renderer
from training.data.rows import Rows, open_rows

logger = logging.getLogger(__name__)
IGNORE_INDEX = -100
FORMAT = 1
"""Of what is stored: higher when other tokens would come of the same spec, or other files of the tokens."""
ROWS_AT_ONCE = 1000
LOG_EVERY_S = 10.0
META = "meta.json"
ARRAYS = {"tokens": np.int32, "is_target": np.bool_, "offsets": np.int64}
Ids: TypeAlias = npt.NDArray[np.int32]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenDataset:
    """All examples end to end.

    tokens: (N,) int32. is_target: (N,) bool, tokens the loss is taken on. offsets: (E + 1,) int64, where
    each example begins. From `token_dataset` all three lie on disk and are read where they are touched.

    num_rows: of the dataset. num_excluded: left out by source. num_dropped: read, and without a target.
    num_truncated: examples that lost target tokens at `max_length_tokens`.
    """

    tokens: Ids
    is_target: Mask
    offsets: npt.NDArray[np.int64]
    num_rows: int
    num_excluded: int
    num_dropped: int
    num_truncated: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def length(self, example: int) -> int:
        return int(self.offsets[example + 1] - self.offsets[example])

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


def token_dataset(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, cache: Path) -> TokenDataset:
    """The examples of a run, from `cache`, or tokenised into it.

    Every rank of every job may call this at once: one tokenises, the others wait and read what it wrote.
    Raises JobError for a tokenizer that cannot say where its tokens are in the text, rows of no known
    schema, and when no row has a target; RecordError for an unreadable file.
    """
    if not tokenizer.is_fast:
        raise JobError(
            f"{tokenizer.name_or_path}: {type(tokenizer).__name__} does not tell where its tokens are in the "
            "text; take a model with a tokenizer.json"
        )
    identity = _identity(spec, tokenizer)
    folder = cache / digest(identity)
    found = _read(folder, identity)
    if found is not None:
        return found
    with ExitStack() as held:
        lock = cache / f"{folder.name}.lock"
        if held.enter_context(locked(lock, wait=False)) is None:
            logger.info("%s is being tokenised by another process; waiting for it", spec.dataset.name)
            held.enter_context(locked(lock))
        found = _read(folder, identity)
        if found is None:
            _write(folder, spec, tokenizer, identity)
            found = _read(folder, identity)
            assert found is not None
    return found


def _identity(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """All that the tokens depend on, as JSON values."""
    hyper, source = spec.hyper, spec.dataset
    drawn = source.kind == "embedded" or hyper.num_examples is not None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # what the tokenizer's latest caller asked for
        backend.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return {
        "format": FORMAT,
        "dataset": source.identity(),
        "exclude_sources": list(hyper.exclude_sources),
        "drawn": {"num_examples": hyper.num_examples, "seed": hyper.seed} if drawn else None,
        "template": hyper.template,
        "max_length_tokens": hyper.max_length_tokens,
        "tokenizer": digest([backend, tokenizer.chat_template, special, tokenizer.split_special_tokens]),
    }


def _read(folder: Path, identity: dict[str, Any]) -> TokenDataset | None:
    """What a folder holds; None when it is not there, torn, or of something else."""
    try:
        meta = read_json(folder / META)
        sizes = {name: (folder / f"{name}.npy").stat().st_size for name in ARRAYS}
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(meta, dict) or meta.get("identity") != identity or meta.get("bytes") != sizes:
        return None
    # plain arrays over the maps: np.memmap's own indexing is slow
    tokens, is_target, offsets = (
        np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS
    )
    return TokenDataset(tokens, is_target, offsets, **meta["counts"])


def _write(
    folder: Path, spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, identity: dict[str, Any]
) -> None:
    """Make the folder, whole or not at all. The caller holds its lock."""
    for left_behind in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left_behind)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}")
    temporary.mkdir()
    try:
        counts = _tokenise(spec, tokenizer, temporary)
        sizes = {name: (temporary / f"{name}.npy").stat().st_size for name in ARRAYS}
        write_json(temporary / META, {"identity": identity, "bytes": sizes, "counts": counts})
        sync(temporary)
        # a network file system may show late what another node wrote; that may be in use by now
        if _read(folder, identity) is not None:
            shutil.rmtree(temporary)
            return
        if folder.exists():
            logger.warning("%s is torn or of something else and is made again", folder)
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class _Column:
    """A one-dimensional .npy file that grows."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.dtype, self.length = np.dtype(dtype), 0
        self._stream = path.open("wb")
        self._write_header()

    def append(self, values: npt.NDArray[Any]) -> None:
        self._stream.write(values.astype(self.dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        # numpy leaves room in a header for the first axis to grow
        self._stream.seek(0)
        self._write_header()
        self._stream.close()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._stream, {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        )


def _tokenise(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, int]:
    """Write the arrays of all rows, some rows at a time; returns the counts."""
    rows = open_rows(spec.dataset, spec.hyper)
    tokens, is_target = (_Column(folder / f"{name}.npy", ARRAYS[name]) for name in ("tokens", "is_target"))
    lengths: list[int] = []
    num_dropped = num_truncated = 0
    for examples in _examples(rows, spec, tokenizer):
        kept = [example for example in examples if example is not None]
        for example in kept:
            tokens.append(example.ids)
            is_target.append(example.is_target)
            lengths.append(len(example.ids))
        num_truncated += sum(example.is_cut for example in kept)
        num_dropped += len(examples) - len(kept)
    tokens.close()
    is_target.close()
    if not lengths:
        raise JobError(
            f"{spec.dataset.name}: no row has a target token within {spec.hyper.max_length_tokens} tokens"
        )
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(ARRAYS["offsets"]))
    for name in ARRAYS:
        sync(folder / f"{name}.npy")
    return {
        "num_rows": rows.num_read,
        "num_excluded": rows.num_excluded,
        "num_dropped": num_dropped,
        "num_truncated": num_truncated,
    }


def _examples(
    rows: Rows, spec: TrainSpec, tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[Example | None]]:
    """The examples of some rows at a time, None for a row without a target; logs how far it is."""
    render = renderer(spec.hyper.template, tokenizer)
    encode = encoder(tokenizer, spec.hyper.max_length_tokens)
    started = told = time.monotonic()
    done, placed = 0, iter(rows)
    while chunk := list(islice(placed, ROWS_AT_ONCE)):
        yield encode([render(messages_of(row, where), where) for where, row in chunk])
        done += len(chunk)
        if (now := time.monotonic()) - told > LOG_EVERY_S:
            told, rate = now, done / (now - started)
            share = 100 * done / len(rows)
            logger.info(
                "%s: %d of %d rows tokenised (%.0f%%), %.0f rows/s",
                spec.dataset.name, done, len(rows), share, rate,
            )  # fmt: skip
