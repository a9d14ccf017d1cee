"""Prompts: pure functions of an item, the shots before it, a protocol and a scaffold.

The scaffolds, under the protocol `letter` (`option_text` shows no options and is answered with a text):

    english   lm-eval's Global-MMLU prompt, English in every language, with letters up to J
    native    the same with "Question" and "Answer" in the language of the items
    chat      the English prompt as a turn of a chat; shots are earlier turns

An item's passage goes before its question, separated by a newline. Under `letter`, `english` and `chat` then
are lm-eval's Belebele prompt, which marks the passage with "P:", the question with "Q:" and the options with
"A:" and so on. Everywhere else the prompt is the passage, a newline, and the prompt without a passage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from evaluation.items.item import LETTERS, Item
from evaluation.scaffolds import native_words
from study.jobs.specs import MAX_OPTIONS

Chat = Callable[[list[dict[str, str]]], str]
"""Turns of a chat, each a role and a content -> one text that ends where the assistant's answer begins."""


def context(
    item: Item,
    shots: Sequence[Item],
    *,
    protocol: str,
    scaffold: str,
    language: str,
    chat: Chat | None = None,
) -> str:
    """The text that a model reads before it answers an item: the shots with their answers, then the item.

    Items with the same shots have the same beginning, up to the item's own text.
    chat: for the scaffold `chat`, the tokenizer's template with the generation prompt.
    Raises JobError for a language that the scaffold `native` has no words for.
    """
    if scaffold == "chat":
        assert chat is not None
        turns = []
        for shot in shots:
            turns.append({"role": "user", "content": _turn(shot, protocol)})
            turns.append({"role": "assistant", "content": _answer(shot, protocol, scaffold)})
        return chat([*turns, {"role": "user", "content": _turn(item, protocol)}])
    answered = [
        _question(shot, protocol, scaffold, language) + _answer(shot, protocol, scaffold) for shot in shots
    ]
    return "\n\n".join([*answered, _question(item, protocol, scaffold, language)])


def answers(item: Item, *, protocol: str, scaffold: str) -> tuple[str, ...]:
    """The texts that may follow an item's context, one per option.

    They begin with a space, whatever the language's colon, so that the letters have the same tokens
    everywhere; in a chat the assistant's turn begins with the answer itself.
    """
    texts = tuple(letters(len(item.options))) if protocol == "letter" else item.options
    return texts if scaffold == "chat" else tuple(map(continuation, texts))


def rotated(item: Item, r: int) -> Item:
    """The item with its first r options moved to the end."""
    assert 0 <= r < len(item.options)
    options = item.options[r:] + item.options[:r]
    return replace(item, options=options, label=(item.label - r) % len(options))


def rotations(item: Item, option_order: str) -> range:
    """The rotations of an item that are scored: all under `cyclic`, else only the original order."""
    return range(len(item.options) if option_order == "cyclic" else 1)


def letters(num_options: int) -> str:
    """The letters of 2 to 10 options: `ABCD` for 4."""
    assert 2 <= num_options <= MAX_OPTIONS
    return LETTERS[:num_options]


def letter_prompt(question: str, options: Sequence[str], answer: str = "Answer:") -> str:
    """lm-eval's Global-MMLU template, with letters up to J; the letter that answers follows after a space."""
    lines = [question.strip()]
    lines += [f"{letter}. {option}" for letter, option in zip(letters(len(options)), options, strict=True)]
    return "\n".join([*lines, answer])


def passage_prompt(passage: str, question: str, options: Sequence[str]) -> str:
    """lm-eval's Belebele template (lm_eval/tasks/belebele/_default_template_yaml), with letters up to J."""
    lines = [f"P: {passage}", f"Q: {question.strip()}"]
    lines += [f"{letter}: {option}" for letter, option in zip(letters(len(options)), options, strict=True)]
    return "\n".join([*lines, "Answer:"])


def option_text_prompt(question: str, asked: str = "Question:", answer: str = "Answer:") -> str:
    """lm-eval's template for options that are scored as text; the options are not shown."""
    # a full-width colon contains its space
    space = "" if asked.endswith("：") else " "
    return f"{asked}{space}{question.strip()}\n{answer}"


def continuation(answer: str) -> str:
    """An answer, a letter or an option's text, as it follows a prompt that is not a chat."""
    return f" {answer}"


@cache
def version(protocol: str, scaffold: str, language: str, *, with_passage: bool = False) -> str:
    """12 hex that change when the prompts of a protocol and scaffold in a language do.

    They are a hash over the prompts of a few fixed items, so that nobody has to raise a number by hand.
    with_passage: for a benchmark whose questions have passages.
    """
    chat = partial(json.dumps, ensure_ascii=False)
    fixed = tuple(replace(item, passage=_PASSAGE) for item in _FIXED) if with_passage else _FIXED
    texts = [
        text
        for item in fixed
        for shots in ((), fixed[:2])
        for one in (item, rotated(item, 1))
        for text in (
            context(one, shots, protocol=protocol, scaffold=scaffold, language=language, chat=chat),
            *answers(one, protocol=protocol, scaffold=scaffold),
        )
    ]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


_PASSAGE = "Kenya ni nchi.\nMji mkuu wake ni Nairobi. "
_FIXED = (
    Item("0", "s", " Which city is the capital of Kenya?\n", ("Nairobi", "Kampala", "Dodoma", "Kigali"), 0),
    Item("1", "s", "2 + 2", ("four", "five "), 0),
    Item("2", "s", "Која је ово реч: 水?", tuple("бвгдежзијк"), 9),
)


def _question(item: Item, protocol: str, scaffold: str, language: str) -> str:
    if scaffold == "native":
        words = native_words(language, item.question)
        if protocol == "letter":
            return _above(item) + letter_prompt(item.question, item.options, words.answer)
        return _above(item) + option_text_prompt(item.question, words.question, words.answer)
    return (
        _english_letters(item) if protocol == "letter" else _above(item) + option_text_prompt(item.question)
    )


def _turn(item: Item, protocol: str) -> str:
    return _english_letters(item) if protocol == "letter" else _above(item) + item.question.strip()


def _english_letters(item: Item) -> str:
    if item.passage is None:
        return letter_prompt(item.question, item.options)
    return passage_prompt(item.passage, item.question, item.options)


def _above(item: Item) -> str:
    return "" if item.passage is None else f"{item.passage}\n"


def _answer(item: Item, protocol: str, scaffold: str) -> str:
    return answers(item, protocol=protocol, scaffold=scaffold)[item.label]
