"""Sizes of models (parameters) and data (rows and tokens), without loading them.

What is not known is None with a reason, never zero.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from study.benchmarks.definition import definition_of
from study.errors import RecordError
from study.grid.sources import hub_cache
from study.jobs.specs import ARCHITECTURES, Benchmark, Scratch, Source, TrainSpec
from study.models.shapes import config_of
from study.models.weights import GGUF, gguf_header
from study.presets import PRESETS, Preset
from study.rows import Row, iterate_rows

CHARACTERS_PER_TOKEN = 4
SAMPLE_ROWS = 1000
COUNT_BELOW_BYTES = 64 * 2**20
SCRATCH_VOCABULARY = 4126
"""Tokens that models from scratch know: the size of `training.data.wordlevel.cldr_tokenizer(DEMO_SHARES)`."""


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from.

    value: None when it is not known; then `basis` says why. estimate: it may be off by more than rounding.
    """

    value: float | None
    basis: str
    estimate: bool = False


def unknown(why: str) -> Figure:
    return Figure(None, why)


def parameters(model: Source, scratch: Scratch | None = None) -> Figure:
    """How many parameters a model has, tied ones counted once.

    From its shape, its files, the hub's cache, or its name. scratch: the shape of a model without weights.
    """
    if scratch is not None:
        config = {**config_of(scratch), "vocab_size": SCRATCH_VOCABULARY}
        return Figure(decoder_parameters(config), "its shape")
    if model.kind == "local":
        path = Path(model.name)
        if path.suffix == GGUF:
            return _in_gguf(path)
        return _in_folder(path) or unknown(f"{path} holds no safetensors")
    if model.kind == "hub":
        snapshot = hub_cache(model.name, "model") / "snapshots" / model.revision
        return _in_folder(snapshot) or _by_name(model.name)
    return unknown(f"the size of {model.name} is not known")


def decoder_parameters(config: Mapping[str, Any]) -> int:
    """How many parameters a Llama, Mistral or Gemma-2 has, by its config.json."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_size = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    attention = 2 * hidden * heads * head_size + 2 * hidden * kv_heads * head_size
    norms = 4 if config["model_type"] == "gemma2" else 2
    layer = attention + 3 * hidden * config["intermediate_size"] + norms * hidden
    # a config.json leaves out what is its architecture's default
    tied = config.get("tie_word_embeddings", config["model_type"] == "gemma2")
    embeddings = config["vocab_size"] * hidden * (1 if tied else 2)
    return int(embeddings + config["num_hidden_layers"] * layer + hidden)


def _in_gguf(file: Path) -> Figure:
    try:
        shapes = gguf_header(file).shapes.values()
    except (FileNotFoundError, ValueError):  # the job that loads the model reports it
        return unknown(f"{file} cannot be read")
    return Figure(sum(math.prod(shape) for shape in shapes), "its weights")


def _in_folder(folder: Path) -> Figure | None:
    """By the headers of the weights, their index, or the config; None when the folder has none of them."""
    index, config = _json(folder / "model.safetensors.index.json"), _json(folder / "config.json")
    names = set(index["weight_map"].values()) if index else {p.name for p in folder.glob("*.safetensors")}
    headers = [_header(folder / name) for name in names]
    if headers and None not in headers:
        shapes = {name: shape for header in headers for name, shape in (header or {}).items()}
        return Figure(sum(math.prod(shape) for shape in shapes.values()), "its weights")
    if index and config and (dtype := config.get("dtype") or config.get("torch_dtype")):
        size = 4 if dtype == "float32" else 2
        return Figure(index["metadata"]["total_size"] / size, "the index of its weights")
    if config and config.get("model_type") in ARCHITECTURES and "vocab_size" in config:
        return Figure(decoder_parameters(config), "its config")
    return None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # the job that loads the model reports it
        return None


def _header(file: Path) -> dict[str, list[int]] | None:
    """Shapes by name; None when the file is missing or not a safetensors file."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            # the format limits a header to 100 MB: anything larger is another kind of file
            header = json.loads(stream.read(length)) if length <= 100_000_000 else None
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(header, dict):
        return None
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


def _by_name(name: str) -> Figure:
    sizes = re.findall(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bm])(?![A-Za-z0-9])", name.lower())
    if len(sizes) != 1:
        return unknown(f"the size of {name} is not in its name, and it is not in the Hugging Face cache")
    number, unit = sizes[0]
    return Figure(float(number) * (1e9 if unit == "b" else 1e6), f"the name {name}", estimate=True)


def training_rows(spec: TrainSpec) -> tuple[Figure, Figure]:
    """(rows, tokens per row) that a training run draws from."""
    hyper, source = spec.hyper, spec.dataset
    if source.kind == "local":
        rows, tokens = _local_rows(Path(source.name), hyper.max_length_tokens)
    else:
        presets = (preset for name, preset in PRESETS.items() if (preset.hub or name) == source.name)
        preset, name = next(presets, Preset()), source.name.rpartition("/")[2]
        # a generated dataset has as many rows as the grid asks for
        generated = hyper.num_examples if source.kind == "embedded" else None
        rows = _count(generated or preset.num_rows, f"the number of rows of {name}")
        per_row = preset.tokens_per_row
        tokens = _tokens(None if per_row is None else min(per_row, hyper.max_length_tokens), "row", name)
    if hyper.num_examples is not None:
        rows = _at_most(rows, hyper.num_examples, "num_examples")
    return rows, tokens


def _local_rows(file: Path, max_length_tokens: int) -> tuple[Figure, Figure]:
    sample = _sample(file)
    if isinstance(sample, str):
        return unknown(sample), unknown(sample)
    lengths = [min(_characters(row) / CHARACTERS_PER_TOKEN, max_length_tokens) for row in sample]
    tokens = Figure(sum(lengths) / len(lengths), f"characters / 4 of {file.name}", estimate=True)
    return _num_rows(file), tokens


def _characters(row: Mapping[str, Any]) -> int:
    """The characters of a row of training data, in the schemas that `training.data.messages` reads."""
    turns = row.get("messages") or row.get("conversations")
    if isinstance(turns, list):
        return sum(len(str(turn.get("content") or turn.get("value") or "")) for turn in turns)
    return sum(len(str(row.get(column) or "")) for column in ("instruction", "input", "output"))


def _sample(file: Path) -> list[Row] | str:
    """The first rows of a file, or why there are none."""
    try:
        rows = list(islice(iterate_rows(file), SAMPLE_ROWS))
    except (RecordError, OSError) as error:
        return str(error)
    return rows or f"{file}: holds no rows"


def _num_rows(file: Path) -> Figure:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return Figure(pq.read_metadata(file).num_rows, "its rows")
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= COUNT_BELOW_BYTES:
            return Figure(sum(1 for line in stream if line.strip()), "its rows")
        lines = [line for line, _ in zip(stream, range(SAMPLE_ROWS), strict=False)]
    return Figure(size * len(lines) // sum(map(len, lines)), "its size and first rows", estimate=True)


def items(benchmark: Benchmark, language: str) -> tuple[Figure, Figure]:
    """(items, tokens per item) of one language."""
    source, name, split = benchmark.source, benchmark.name, benchmark.split
    if source.kind == "local":
        count, tokens = _local_items(Path(source.name), language, split)
    else:
        definition = definition_of(name)
        tokens = _tokens(definition.tokens_per_item, "item", name)
        if definition.embedded:
            from study.cldr import benchmark as cldr

            asked = cldr.capped(cldr.plan(), definition.per_subject)  # the same in every language
            count = Figure(sum(item.split == split for item in asked), "its generator")
        else:
            count = _count(definition.sizes.get(split), f"the size of split '{split}' of {name}")
    if benchmark.num_items is not None:
        count = _at_most(count, benchmark.num_items, "num_items")
    return count, tokens


def _count(number: int | None, what: str) -> Figure:
    return Figure(number, "its card") if number is not None else unknown(f"{what} is not known")


def _at_most(count: Figure, limit: int, key: str) -> Figure:
    """A count under the limit that a grid sets; an estimate where only the limit is known."""
    known = count.value if count.value is not None else math.inf
    return Figure(min(known, limit), key, count.estimate or count.value is None)


def _tokens(tokens: float | None, unit: str, name: str) -> Figure:
    if tokens is None:
        return unknown(f"the tokens per {unit} of {name} are not known")
    return Figure(tokens, f"{tokens:g} tokens per {unit} of {name}", estimate=True)


def _local_items(folder: Path, language: str, split: str) -> tuple[Figure, Figure]:
    file = next((f for s in (".parquet", ".jsonl") if (f := folder / f"{language}{s}").is_file()), None)
    sample = f"{folder} has no file for {language}" if file is None else _sample(file)
    if file is None or isinstance(sample, str):
        return unknown(str(sample)), unknown(str(sample))
    texts = [sum(len(value) for value in row.values() if isinstance(value, str)) for row in sample]
    tokens = sum(texts) / len(texts) / CHARACTERS_PER_TOKEN
    length = Figure(tokens, f"characters / 4 of {folder.name}", estimate=True)
    if "split" not in sample[0]:
        return _num_rows(file), length
    try:
        count = sum(row.get("split", split) == split for row in iterate_rows(file))
    except RecordError as error:
        return unknown(str(error)), length
    return Figure(count, "its rows"), length
