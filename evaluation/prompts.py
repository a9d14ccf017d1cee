"""Prompts: pure functions of an item. The scaffold is English in every language, as in lm-eval's tasks."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks.item import LETTERS, MAX_OPTIONS


def letters(num_options: int) -> str:
    """The letters of 2 to 10 options: `ABCD` for 4."""
    assert 2 <= num_options <= MAX_OPTIONS
    return LETTERS[:num_options]


def letter_prompt(question: str, options: Sequence[str]) -> str:
    """lm-eval's Global-MMLU template, carried on to J; the letter that answers follows after a space."""
    lines = [question.strip()]
    lines += [f"{letter}. {option}" for letter, option in zip(letters(len(options)), options, strict=True)]
    return "\n".join([*lines, "Answer:"])


def option_text_prompt(question: str) -> str:
    """lm-eval's template for options that are scored as text; the options are not shown."""
    return f"Question: {question.strip()}\nAnswer:"


def continuation(answer: str) -> str:
    """What follows a prompt: a letter or an option's text."""
    return f" {answer}"
