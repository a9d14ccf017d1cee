"""One multiple-choice item. Light: the launcher imports it, with the prompts, for every command."""

from __future__ import annotations

from dataclasses import dataclass, field

from study.jobs.specs import MAX_OPTIONS

LETTERS = "ABCDEFGHIJ"
assert len(LETTERS) == MAX_OPTIONS


@dataclass(frozen=True)
class Item:
    """A question with its options, as a benchmark gives them.

    example_id: names the question, alike in every language of the benchmark.
    options: 2 to 10 texts, in the order of their letters. label: the index of the right one.

    The rest is None where a benchmark does not have it. What analysis slices by:
    category: of the subject. cultural_sensitivity: CS (sensitive) or CA (agnostic).
    quality: A, B or C, a rating of the question's grammar.
    share_equal_to_english: how many of the options are spelled as in English, in [0, 1].
    And, left out of the item's repr since it is long:
    passage: a text that the question is about.
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
    passage: str | None = field(default=None, repr=False)
