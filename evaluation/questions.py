"""What a shard asks, in its fixed order: its items, each once for every rotation of its options."""

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
    """An item with its options as shown, and by how many places they were rotated."""

    item: Item
    rotation: int


class Questions(NamedTuple):
    """items: of the benchmark. asked: in the order of the records. shots: by subject; empty without any.

    num_skipped: rows of the benchmark that could not become items.
    """

    items: tuple[Item, ...]
    asked: list[Asked]
    shots: Mapping[str, tuple[Item, ...]]
    num_skipped: int


def questions(spec: EvalSpec) -> Questions:
    """What a shard asks. Raises JobError or RecordError when its items or shots cannot be had."""
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
    """A question as text, and what may answer it. chat: see `chat_of`; needed by that scaffold alone."""
    scaffold = spec.prompting.scaffold
    text = context(
        asked.item, shots, protocol=spec.protocol, scaffold=scaffold, language=spec.language, chat=chat
    )
    name = asked.item.example_id + (f" (rotated by {asked.rotation})" if asked.rotation else "")
    return Query(name, text, answers(asked.item, protocol=spec.protocol, scaffold=scaffold))


def chat_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, str]]], str]:
    """Turns as text by the tokenizer's template, up to where the answer begins, without a BOS that the
    tokenizer will add itself. Raises JobError when it has no template.
    """
    if not tokenizer.chat_template:
        raise JobError(
            "the model's tokenizer has no chat template; take the scaffold english or native, or a model "
            "that was trained with one"
        )
    begins = list(tokenizer("").input_ids)
    bos = tokenizer.bos_token if begins and begins[0] == tokenizer.bos_token_id else None

    def chat(turns: list[dict[str, str]]) -> str:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert isinstance(text, str)
        return text.removeprefix(str(bos)) if bos is not None else text

    return chat
