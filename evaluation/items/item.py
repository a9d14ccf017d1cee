"""One multiple-choice item. Light: the launcher imports it, with the prompts, at every command."""

from __future__ import annotations

from dataclasses import dataclass

MAX_OPTIONS = 10
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Item:
    """example_id: the same question in every language of a benchmark.

    options: 2 to 10, in the order of their letters. label: index of the right one.
    What analysis slices by, None where a benchmark does not say:
    category: of the subject. cultural_sensitivity: CS or CA. quality: A, B or C, of a question's grammar.
    share_equal_to_english: of the options, in [0, 1].
    """

    example_id: str
    subject: str
    question: str
    options: tuple[str, ...]
    label: int
    category: str | None = None
    cultural_sensitivity: str | None = None
    quality: str | None = None
    share_equal_to_english: float | None = None
