"""The words around a question, in the language of the items: scaffolds.tsv beside this file.

Its column `checked` says how sure we are. a: sure, by dictionaries and by published prompts. b: likely
(Nyanja and Wolof). c would be a language with the English words, since a wrong word is worse than none; there
is none at present. Each colon is the language's own: full-width in Chinese and Japanese, after a space in
French, a preface colon in Amharic. The letters of options are A to J everywhere.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from study.errors import JobError

TABLE_FILE = Path(__file__).with_name("scaffolds.tsv")


@dataclass(frozen=True)
class Words:
    """`Question:` and `Answer:` in one language, each with its colon. checked: a | b | c."""

    question: str
    answer: str
    checked: str


@cache
def table() -> dict[str, Words]:
    """Language -> its words; Serbian in Latin letters as `sr-Latn`."""
    with TABLE_FILE.open(encoding="utf-8", newline="") as file:
        # QUOTE_NONE: apostrophes are letters in some of these languages
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["lang"]: Words(row["question"], row["answer"], row["checked"]) for row in rows}


def native_words(language: str, question: str) -> Words:
    """The words for a question. Raises JobError for a language that is not in the table.

    Serbian has one code and two scripts (Cyrillic in Global-MMLU, Latin in MMLU-ProX): the question decides.
    """
    if language == "sr" and not any("\u0400" <= letter <= "\u04ff" for letter in question):
        language = "sr-Latn"
    if language not in table():
        raise JobError(f"the scaffold 'native' has no words in language '{language}'; use 'english'")
    return table()[language]
