"""What a job computes, fully resolved: a job's identity is the hash of its spec.

Settings that change results only by rounding (resources, micro-batch, ZeRO stage) are not in a spec.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from study.errors import UserError, nearest

TEMPLATES = ("plain", "tulu", "tokenizer")
DTYPES = ("fp32", "bf16")
PROTOCOLS = ("letter", "option_text")
SCAFFOLDS = ("english", "native", "chat")
OPTION_ORDERS = ("original", "cyclic")
TOO_LONG = ("refuse", "cut")
MAX_SHOTS = 5
MAX_OPTIONS = 10
ARCHITECTURES = ("llama", "mistral", "gemma2")
MAX_SEED = 2**63 - 1
VALIDATION_SPLITS = ("validation", "dev", "val")
"""Splits that choose learning rates; what is reported is on the others."""


def added(as_before: Any) -> Any:
    """A field that version 1 of its spec did not have; by default its value means "as in version 1".

    With that value it stays out of identity and files, so that finished jobs keep their ids.
    """
    return field(default=as_before, metadata={"as_before": as_before})


def require(condition: bool, name: str, remedy: str) -> None:
    if not condition:
        raise UserError("out of range", where=name, remedy=remedy)


def positive(value: float) -> bool:
    """False for nan and infinity too, which JSON cannot express and so identity cannot contain."""
    return 0 < value < math.inf


def one_of(value: str, valid: tuple[str, ...], name: str) -> None:
    if value not in valid:
        raise UserError(f"'{value}' is unknown", where=name, remedy=nearest(value, valid))


@dataclass(frozen=True, slots=True)
class Source:
    """Pinned weights or data.

    kind: `hub` (name is a hub id), `local` (name is an absolute path), `embedded` (name is a preset that
        ships with this project), `job` (name is the id of a job of the same plan), `scratch` (no weights:
        the model is built from a config).
    revision: a commit, a content hash or a data version, at least 12 hex. A job's revision is its id.
    """

    kind: Literal["hub", "local", "embedded", "job", "scratch"]
    name: str
    revision: str

    def identity(self) -> dict[str, str]:
        """The part that identifies content: a local folder that moves stays the same."""
        if self.kind == "local":
            return {"kind": self.kind, "revision": self.revision}
        return {"kind": self.kind, "name": self.name, "revision": self.revision}


@dataclass(frozen=True)
class Scratch:
    """A model built from a config with a word-level tokenizer, for `prepare` jobs."""

    architecture: str = "llama"
    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 2
    num_heads: int = 4
    max_position_embeddings: int = 256
    rope_theta: float = 10000.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        one_of(self.architecture, ARCHITECTURES, "architecture")
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "max_position_embeddings",
        ):
            require(getattr(self, name) >= 1, name, "give a positive number")
        require(positive(self.initializer_range), "initializer_range", "give a positive number")
        require(positive(self.rope_theta), "rope_theta", "give a positive number")
        require(self.hidden_size % self.num_heads == 0, "hidden_size", "make it a multiple of num_heads")


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that a training depends on besides its model and data. Each may be an axis of the grid.

    learning_rate: the peak, after warm-up.
    label_smoothing: epsilon of q_y = 1 - eps + eps/V, in [0, 1).
    seed: for data order, sub-sampling and dropout.
    num_examples: rows drawn from the dataset by seed; None for all. Generated datasets have this many.
    num_epochs, num_steps: length of the training; num_steps takes precedence.
    global_batch_size: examples per optimizer step, over all ranks and micro-batches.
    exclude_sources: rows whose `source` column is one of these are left out, before sub-sampling.
    max_length_tokens: longer examples are cut at the end.
    template: how messages become text: `tulu`, `plain`, or the `tokenizer`'s own chat template.
    dropout: rate of every dropout in the architecture; None for those of the model.
    logit_softcap, logit_temperature: in the training loss only, z = c tanh(a / c) / t; the exported model
        keeps those of its architecture. None for the architecture's own soft-cap.
    warmup_ratio: share of steps with linear warm-up; linear decay to zero follows.
    max_grad_norm: the global gradient norm is clipped to it.
    """

    learning_rate: float = 1e-5
    label_smoothing: float = 0.0
    seed: int = 42
    num_examples: int | None = None
    exclude_sources: tuple[str, ...] = ()
    num_epochs: int = 2
    num_steps: int | None = None
    global_batch_size: int = 128
    max_length_tokens: int = 4096
    template: str = "tulu"
    dtype: str = "bf16"
    dropout: float | None = None
    logit_softcap: float | None = None
    logit_temperature: float = 1.0
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        # JSON and grids give a list; its order has no effect, and must not change the id
        object.__setattr__(self, "exclude_sources", tuple(sorted(set(self.exclude_sources))))
        one_of(self.template, TEMPLATES, "template")
        one_of(self.dtype, DTYPES, "dtype")
        require(positive(self.learning_rate), "learning_rate", "give a positive number")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "give a number in [0, 1)")
        require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "give a share in [0, 1), or null")
        require(
            self.logit_softcap is None or positive(self.logit_softcap),
            "logit_softcap",
            "give a positive number, or null for the architecture's own",
        )
        require(positive(self.logit_temperature), "logit_temperature", "give a positive number")
        require(0 <= self.warmup_ratio <= 1, "warmup_ratio", "give a share in [0, 1]")
        require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "beta1/beta2", "give numbers in [0, 1)")
        require(0 <= self.weight_decay < math.inf, "weight_decay", "give 0 or more")
        require(0 <= self.seed <= MAX_SEED, "seed", "give 0 or more, below 2^63")
        require(positive(self.max_grad_norm), "max_grad_norm", "give a positive number")
        require(self.max_length_tokens >= 2, "max_length_tokens", "give 2 or more")
        for name in ("num_epochs", "global_batch_size"):
            require(getattr(self, name) >= 1, name, "give 1 or more")
        for name in ("num_steps", "num_examples"):
            require(getattr(self, name) is None or getattr(self, name) >= 1, name, "give 1 or more, or null")


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """One supervised fine-tuning; with `scratch`, the training of a new model."""

    model: Source
    dataset: Source
    hyper: Hyperparameters
    scratch: Scratch | None = None

    def __post_init__(self) -> None:
        assert (self.scratch is not None) == (self.model.kind == "scratch")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A multiple-choice benchmark, parallel over languages.

    schema: the benchmark whose columns its rows have, see `study.benchmarks.definition`. It is not checked
        here: results stay readable where the benchmark's file is missing.
    num_items: the first N items of the split, None for all.
    """

    name: str
    source: Source
    schema: str
    split: str = "test"
    num_items: int | None = None

    def __post_init__(self) -> None:
        require(self.num_items is None or self.num_items >= 1, "num_items", "give 1 or more")

    @property
    def label(self) -> str:
        """Name, and the split where it is not the usual one."""
        return self.name if self.split == "test" else f"{self.name} {self.split}"


@dataclass(frozen=True, slots=True)
class Prompting:
    """How the items of a benchmark are shown to a model, under either protocol.

    scaffold: the text around an item: `english`, as lm-eval has it; `native`, in the item's language; `chat`,
        the turns of the tokenizer's template.
    num_shots: answered questions before each item, the same for all items of a subject.
    option_order: `original`, or `cyclic`: each item once for every rotation of its options.
    too_long: prompts longer than the model's context fail the shard (`refuse`) or lose their start (`cut`).
    version: a hash of the prompts' text, so that a change of the text makes other jobs.
    """

    scaffold: str = "english"
    num_shots: int = 0
    option_order: str = "original"
    too_long: str = "refuse"
    version: str = ""

    def __post_init__(self) -> None:
        one_of(self.scaffold, SCAFFOLDS, "scaffold")
        one_of(self.option_order, OPTION_ORDERS, "option_order")
        one_of(self.too_long, TOO_LONG, "too_long")
        require(0 <= self.num_shots <= MAX_SHOTS, "num_shots", f"give 0 to {MAX_SHOTS}")


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """One shard: one model on one language of one benchmark under one protocol."""

    model: Source
    benchmark: Benchmark
    language: str
    protocol: str = "letter"
    dtype: str = "bf16"
    prompting: Prompting = Prompting()

    def __post_init__(self) -> None:
        one_of(self.protocol, PROTOCOLS, "protocol")
        one_of(self.dtype, DTYPES, "dtype")
        require(
            self.protocol == "letter" or self.prompting.option_order == "original",
            "option_order",
            "write original: option_text does not show the options, so their order has no effect",
        )


@dataclass(frozen=True, slots=True)
class AnalyseSpec:
    """Tables and dashboard over a set of evaluate jobs."""

    evaluations: tuple[str, ...]


Spec: TypeAlias = TrainSpec | EvalSpec | AnalyseSpec


def to_dict(spec: Spec) -> dict[str, Any]:
    """A spec as plain JSON values, for files and W&B's config; without `added` fields that change nothing."""
    result: dict[str, Any] = _plain(spec, dataclasses.asdict)
    return result


def identity(spec: Spec | Benchmark) -> dict[str, Any]:
    """The spec as plain JSON values without what does not identify it (the place of local content)."""
    result: dict[str, Any] = _plain(spec, Source.identity)
    return result


def _plain(value: Any, of_source: Callable[[Source], dict[str, str]]) -> Any:
    if isinstance(value, Source):
        return of_source(value)
    if dataclasses.is_dataclass(value):
        parts = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {
            f.name: _plain(part, of_source)
            for f, part in parts
            if "as_before" not in f.metadata or part != f.metadata["as_before"]
        }
    if isinstance(value, tuple | list):
        return [_plain(item, of_source) for item in value]
    return value


def train_spec_from(data: dict[str, Any]) -> TrainSpec:
    """The inverse of `to_dict`: what is missing is an `added` field with its default."""
    scratch = data["scratch"]
    parts = {
        "model": Source(**data["model"]),
        "dataset": Source(**data["dataset"]),
        "hyper": Hyperparameters(**data["hyper"]),
        "scratch": Scratch(**scratch) if scratch is not None else None,
    }
    return TrainSpec(**{**data, **parts})


def eval_spec_from(data: dict[str, Any]) -> EvalSpec:
    """The inverse of `to_dict`, as `train_spec_from`."""
    benchmark = dict(data["benchmark"])
    benchmark["source"] = Source(**benchmark["source"])
    parts = {
        "model": Source(**data["model"]),
        "benchmark": Benchmark(**benchmark),
        "prompting": Prompting(**data["prompting"]),
    }
    return EvalSpec(**{**data, **parts})
