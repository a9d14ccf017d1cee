"""The questions of a shard in their fixed order: its items, each once per rotation of its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from evaluation.encoding import Query
from evaluation.items.item import Item
from evaluation.items.load import load_shots, load_split
from evaluation.prompts import answers, context, rotated, rotations
from study.errors import JobError
from study.jobs.specs import EvalSpec


class Asked(NamedTuple):
    """An item with its options in the order shown, and by how many places they were rotated."""

    item: Item
    rotation: int


class Questions(NamedTuple):
    """items: the benchmark's. asked: in the order of the records. shots: by subject; empty for zero shots.

    num_skipped: rows of the benchmark that were left out.
    """

    items: tuple[Item, ...]
    asked: list[Asked]
    shots: Mapping[str, tuple[Item, ...]]
    num_skipped: int


def questions(spec: EvalSpec) -> Questions:
    """The questions of a shard. Raises JobError or RecordError when its items or shots cannot be read."""
    split = load_split(spec.benchmark, spec.language)
    shots: Mapping[str, tuple[Item, ...]] = {}
    if spec.prompting.num_shots:
        shots = load_shots(spec.benchmark, spec.language, spec.prompting.num_shots, split.items)
    asked = [
        Asked(rotated(item, by), by)
        for item in split.items
        for by in rotations(item, spec.prompting.option_order)
    ]
    return Questions(split.items, asked, shots, split.num_skipped)


def query(asked: Asked, shots: Sequence[Item], spec: EvalSpec, chat: Callable[..., str] | None) -> Query:
    """A question as text, and its possible answers. chat: from `chat_of`; for that scaffold only."""
    scaffold = spec.prompting.scaffold
    text = context(
        asked.item, shots, protocol=spec.protocol, scaffold=scaffold, language=spec.language, chat=chat
    )
    name = asked.item.example_id + (f" (rotated by {asked.rotation})" if asked.rotation else "")
    return Query(name, text, answers(asked.item, protocol=spec.protocol, scaffold=scaffold))


def chat_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, str]]], str]:
    """A function that renders turns by the tokenizer's template, up to where the answer begins.

    It leaves out a BOS that the tokenizer will add. Raises JobError when the tokenizer has no template.
    """
    if not tokenizer.chat_template:
        raise JobError(
            "the model's tokenizer has no chat template; use the scaffold english or native, or a model "
            "that was trained with a template"
        )
    begins = list(tokenizer("").input_ids)
    bos = tokenizer.bos_token if begins and begins[0] == tokenizer.bos_token_id else None

    def chat(turns: list[dict[str, str]]) -> str:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert isinstance(text, str)
        return text.removeprefix(str(bos)) if bos is not None else text

    return chat
