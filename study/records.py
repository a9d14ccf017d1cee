"""The prediction record: one row per item, written as Parquet parts, read back whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import RecordError
from study.files import write_atomic

SCHEMA_VERSION = "1"
PART_NAME = "part-{lo:06d}-{hi:06d}.parquet"

COLUMNS: pa.Schema = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("label", pa.int16(), nullable=False),
        pa.field("scores", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False),
        pa.field("option_mass", pa.float32()),
        pa.field("option_num_tokens", pa.list_(pa.field("element", pa.int16(), nullable=False))),
        pa.field("rotation", pa.int16(), nullable=False),
        pa.field("num_prompt_tokens", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ShardInfo:
    """What a part belongs to; stored as the Parquet schema's metadata."""

    job_id: str
    model: str
    benchmark: str
    language: str
    split: str
    protocol: str
    schema_version: str = SCHEMA_VERSION


@dataclass(frozen=True)
class Prediction:
    """One scored item.

    scores: one summed log-probability per option, nats over the full vocabulary, not normalised.
    option_mass: letter protocol: probability on the option letters; else None.
    option_num_tokens: option_text protocol: tokens of each option; else None.
    """

    example_id: str
    subject: str
    label: int
    scores: Sequence[float]
    option_mass: float | None
    option_num_tokens: Sequence[int] | None
    rotation: int
    num_prompt_tokens: int


def part_name(lo: int, hi: int) -> str:
    """Name of the part with items lo (included) to hi (excluded) of the shard's fixed order."""
    return PART_NAME.format(lo=lo, hi=hi)


def part_range(path: Path) -> tuple[int, int]:
    """The inverse of `part_name`.

    Raises RecordError when the name is not a part's.
    """
    pieces = path.name.removesuffix(".parquet").split("-")
    if len(pieces) != 3 or pieces[0] != "part" or not (pieces[1].isdecimal() and pieces[2].isdecimal()):
        raise RecordError(f"{path}: not the name of a prediction part")
    return int(pieces[1]), int(pieces[2])


def write_part(
    folder: Path, lo: int, predictions: Sequence[Prediction], info: ShardInfo, *, num_cut: int | None = None
) -> Path:
    """Write predictions of the items from `lo` on as one part; the file appears by rename, complete.

    num_cut: how many of their prompts lost their beginning, to be told again by whoever goes on from here.
    Raises RecordError for a value that is missing.
    """
    rows = [asdict(p) for p in predictions]
    metadata = {key: str(value) for key, value in asdict(info).items()}
    if num_cut is not None:
        metadata["num_cut"] = str(num_cut)
    table = pa.Table.from_pylist(rows, schema=COLUMNS.with_metadata(metadata))
    _refuse_nulls(table, str(folder))
    path = folder / part_name(lo, lo + len(rows))
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())
    return path


def _refuse_nulls(table: pa.Table, place: str) -> None:
    """Parquet itself would write a missing list as an empty one."""
    for field in COLUMNS:
        if table[field.name].null_count and not field.nullable:
            raise RecordError(f"{place}: column {field.name} holds nulls")


def parts(folder: Path) -> list[Path]:
    """The parts in a folder in the order of their items; raises RecordError as `in_order` does."""
    return in_order(folder.glob("part-*.parquet"))


def in_order(paths: Iterable[Path]) -> list[Path]:
    """The parts of one shard in the order of their items.

    Raises RecordError when they overlap or leave a gap: a shard is scored in order, so either means
    that files were lost or copied in.
    """
    ordered = sorted(paths, key=part_range)
    expected = 0
    for path in ordered:
        lo, hi = part_range(path)
        if lo != expected:
            problem = (
                "overlaps the part before it" if lo < expected else f"follows a gap after item {expected}"
            )
            raise RecordError(f"{path}: {problem}")
        expected = hi
    return ordered


def read_part(path: Path, content: bytes | None = None) -> tuple[pa.Table, ShardInfo]:
    """One part and what it belongs to.

    content: the bytes of the file, if they were read already; `path` then names it in messages.
    Raises RecordError for a torn file, text that is not UTF-8, another schema version, other columns or
    types, or a row count that denies its name.
    """
    try:
        stream = pa.BufferReader(path.read_bytes() if content is None else content)
        # no threads: one that still holds Python's bytes as the interpreter ends aborts the process
        table = pq.ParquetFile(stream, pre_buffer=False).read(use_threads=False)
        table.validate(full=True)  # pages have no checksum
        raw = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"{path}: schema version {raw.get('schema_version')!r}, this program reads {SCHEMA_VERSION}"
        )
    try:
        info = ShardInfo(**{name: raw[name] for name in ShardInfo.__dataclass_fields__})
    except KeyError as error:
        raise RecordError(f"{path}: metadata lacks {error.args[0]}") from None
    if table.schema.names != COLUMNS.names:
        raise RecordError(f"{path}: columns are {table.schema.names}, expected {COLUMNS.names}")
    for found, expected in zip(table.schema, COLUMNS, strict=True):
        if found.type != expected.type:
            raise RecordError(f"{path}: column {found.name} is {found.type}, expected {expected.type}")
    _refuse_nulls(table, str(path))
    lo, hi = part_range(path)
    if table.num_rows != hi - lo:
        raise RecordError(f"{path}: holds {table.num_rows} rows, its name says {hi - lo}")
    return table, info


def num_cut(path: Path) -> int | None:
    """Prompts of a part that lost their beginning; None where the part does not say."""
    found = (pq.read_schema(path).metadata or {}).get(b"num_cut")
    return None if found is None else int(found)


def read_predictions(folder: Path, contents: Mapping[str, bytes] | None = None) -> tuple[pa.Table, ShardInfo]:
    """All parts of one shard as one table, in item order.

    contents: the bytes of each part by its file name, if they were read already: `folder` is not read then.
    Raises RecordError when there are none, when they disagree on what they belong to, or when an
    example id occurs twice.
    """
    if contents is None:
        contents = {path.name: path.read_bytes() for path in parts(folder)}
    paths = in_order(folder / name for name in contents)
    if not paths:
        raise RecordError(f"{folder}: no prediction parts")
    read = [read_part(path, contents[path.name]) for path in paths]
    infos = {info for _, info in read}
    if len(infos) != 1:
        raise RecordError(f"{folder}: parts of {len(infos)} different shards")
    table = pa.concat_tables([part for part, _ in read])
    keys = list(zip(table["example_id"].to_pylist(), table["rotation"].to_pylist(), strict=True))
    if len(set(keys)) != len(keys):
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise RecordError(f"{folder}: example '{doubled[0]}' (rotation {doubled[1]}) occurs more than once")
    return table, infos.pop()
