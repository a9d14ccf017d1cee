"""Training data as token ids with a mask of targets: tokenised once for all jobs that share them."""

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
"""Version of the stored files; raise it when the same spec gives other tokens, or the files change."""
ROWS_AT_ONCE = 1000
LOG_EVERY_S = 10.0
META = "meta.json"
ARRAYS = {"tokens": np.int32, "is_target": np.bool_, "offsets": np.int64}
Ids: TypeAlias = npt.NDArray[np.int32]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenDataset:
    """All examples end to end.

    tokens: (N,) int32. is_target: (N,) bool, tokens that the loss is computed on. offsets: (E + 1,) int64,
    where each example begins. `token_dataset` maps all three from disk, so that only what is used is read.

    num_rows: rows of the dataset. num_excluded: rows left out by source. num_dropped: rows without a target.
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
    """The examples of a training job, from `cache`, or tokenised into it.

    Every rank of every job may call this at once: one tokenises, the others wait and read its files.
    Raises JobError for a tokenizer that does not report where its tokens are in the text, rows of an unknown
    schema, and when no row has a target; RecordError for an unreadable file.
    """
    if not tokenizer.is_fast:
        raise JobError(
            f"{tokenizer.name_or_path}: {type(tokenizer).__name__} does not report where its tokens are in "
            "the text; take a model with a tokenizer.json"
        )
    identity = _identity(spec, tokenizer)
    folder = cache / digest(identity)
    dataset = _read(folder, identity)
    if dataset is not None:
        return dataset
    with ExitStack() as locks:
        lock = cache / f"{folder.name}.lock"
        if locks.enter_context(locked(lock, wait=False)) is None:
            logger.info("%s is being tokenised by another process; waiting for it", spec.dataset.name)
            locks.enter_context(locked(lock))
        dataset = _read(folder, identity)
        if dataset is None:
            _write(folder, spec, tokenizer, identity)
            dataset = _read(folder, identity)
            assert dataset is not None
    return dataset


def _identity(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Everything that the tokens depend on, as JSON values."""
    hyper, source = spec.hyper, spec.dataset
    is_drawn = source.kind == "embedded" or hyper.num_examples is not None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # settings of earlier callers
        backend.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return {
        "format": FORMAT,
        "dataset": source.identity(),
        "exclude_sources": list(hyper.exclude_sources),
        "drawn": {"num_examples": hyper.num_examples, "seed": hyper.seed} if is_drawn else None,
        "template": hyper.template,
        "max_length_tokens": hyper.max_length_tokens,
        "tokenizer": digest([backend, tokenizer.chat_template, special, tokenizer.split_special_tokens]),
    }


def _read(folder: Path, identity: dict[str, Any]) -> TokenDataset | None:
    """The dataset in a folder; None when it is missing, torn, or of another identity."""
    try:
        meta = read_json(folder / META)
        sizes = {name: (folder / f"{name}.npy").stat().st_size for name in ARRAYS}
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(meta, dict) or meta.get("identity") != identity or meta.get("bytes") != sizes:
        return None
    # as plain arrays: indexing np.memmap is slow
    tokens, is_target, offsets = (
        np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS
    )
    return TokenDataset(tokens, is_target, offsets, **meta["counts"])


def _write(
    folder: Path, spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, identity: dict[str, Any]
) -> None:
    """Write the folder, complete or not at all. The caller holds its lock."""
    for left_behind in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left_behind)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}")
    temporary.mkdir()
    try:
        counts = _tokenise(spec, tokenizer, temporary)
        sizes = {name: (temporary / f"{name}.npy").stat().st_size for name in ARRAYS}
        write_json(temporary / META, {"identity": identity, "bytes": sizes, "counts": counts})
        sync(temporary)
        # a network file system may show another node's files late, and they may be in use by now
        if _read(folder, identity) is not None:
            shutil.rmtree(temporary)
            return
        if folder.exists():
            logger.warning("%s is torn or holds other data and is written again", folder)
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
        # numpy leaves room in the header for a larger first axis
        self._stream.seek(0)
        self._write_header()
        self._stream.close()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._stream, {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        )


def _tokenise(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, int]:
    """Write the arrays, some rows at a time; returns the counts of rows and examples."""
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
    """The examples of some rows at a time, None for a row without a target; logs the progress."""
    render = renderer(spec.hyper.template, tokenizer)
    encode = encoder(tokenizer, spec.hyper.max_length_tokens)
    started = logged = time.monotonic()
    done, rest = 0, iter(rows)
    while chunk := list(islice(rest, ROWS_AT_ONCE)):
        yield encode([render(messages_of(row, where), where) for where, row in chunk])
        done += len(chunk)
        if (now := time.monotonic()) - logged > LOG_EVERY_S:
            logged, rate = now, done / (now - started)
            share = 100 * done / len(rows)
            logger.info(
                "%s: %d of %d rows tokenised (%.0f%%), %.0f rows/s",
                spec.dataset.name, done, len(rows), share, rate,
            )  # fmt: skip
