"""Evaluation rows in Global-MMLU's columns: the same questions, options and gold letters in 49 languages.

Names come from CLDR through Babel (Unicode licence). The question templates are our own, rated by hand in
templates.tsv: A good, B understandable, C doubtful grammar. Every row carries this rating and the share of
its options that are spelled as in English: a row of quality C, or one whose options are all English, says
little about a language.
"""

import csv
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from study.cldr.facts import Fact, all_facts, stable_hash
from study.cldr.names import letters_of, names_in

LANGUAGES = tuple(
    "af am ar bn cs de el en es fa fil fr ha he hi hu id ig it ja ko ky lt mg mr "
    "ms ne nl ny pl pt ro ru si sn so sr sv sw te th tr uk ur vi wo yo zh zu".split()
)
"""The languages of Global-MMLU and MMLU-ProX together."""

LETTERS = "ABCD"
NUM_OPTIONS = len(LETTERS)
DEV_EVERY = 7
TEMPLATES_FILE = Path(__file__).with_name("templates.tsv")


@dataclass(frozen=True)
class Item:
    """One question of the benchmark, as codes, before it is put into words."""

    fact: Fact
    options: tuple[str, ...]
    """Four codes; the right one is options[gold]."""
    gold: int
    split: str
    """test, or dev (the last of every seven of a subject: at least five, under the demo's cap too)."""


@cache
def templates() -> dict[str, dict[str, str]]:
    """Language -> its row: a question with {x} for each kind of fact, and `quality` (A | B | C)."""
    with TEMPLATES_FILE.open(encoding="utf-8", newline="") as file:
        # QUOTE_NONE: apostrophes and quotation marks are letters in some of these languages.
        return {row["lang"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def quality(language: str) -> str:
    """The rating of the language's question templates: A, B or C."""
    return templates()[language]["quality"]


@cache
def plan() -> tuple[Item, ...]:
    """All items, about 500, the same for every language. Takes under a second, once per process.

    The options must be four different names in every language (several currencies share a name in some of
    them), so all languages are read even if rows of only one are wanted.
    """
    items: list[Item] = []
    letters: dict[str, list[int]] = {}
    num_of_subject = Counter[str]()
    for fact in all_facts():
        if not fact.in_benchmark or _given_away(fact):
            continue
        rng = random.Random(stable_hash("options", fact.fact_id))
        wrong = _distinct_everywhere(fact, rng)
        if len(wrong) < NUM_OPTIONS - 1:
            continue
        # Gold letters come in shuffled blocks of A, B, C, D, so that each subject is balanced under any cap.
        block = letters.setdefault(fact.subject, [])
        if not block:
            shuffler = random.Random(stable_hash("letters", fact.subject, num_of_subject[fact.subject]))
            block.extend(shuffler.sample(range(NUM_OPTIONS), NUM_OPTIONS))
        gold = block.pop()
        num_of_subject[fact.subject] += 1
        split = "dev" if num_of_subject[fact.subject] % DEV_EVERY == 0 else "test"
        items.append(Item(fact, (*wrong[:gold], fact.answer, *wrong[gold:]), gold, split))
    return tuple(items)


def _given_away(fact: Fact) -> bool:
    """Whether a city is named like its country in some language, as Algiers and Algeria are in Arabic."""
    if fact.subject != "city":
        return False
    for names in map(names_in, LANGUAGES):
        city = letters_of(names.get(fact.thing_kind, fact.thing).text)
        country = letters_of(names.get(fact.answer_kind, fact.answer).text)
        if city in country or country in city:
            return True
    return False


def _distinct_everywhere(fact: Fact, rng: random.Random) -> list[str]:
    """Three wrong answers whose names differ from each other and from the right one in every language."""
    chosen = [fact.answer]
    taken = {language: {_folded(language, fact, fact.answer)} for language in LANGUAGES}
    for code in rng.sample(fact.distractors, len(fact.distractors)):
        if len(chosen) == NUM_OPTIONS:
            break
        names = {language: _folded(language, fact, code) for language in LANGUAGES}
        if all(name and name not in taken[language] for language, name in names.items()):
            chosen.append(code)
            for language, name in names.items():
                taken[language].add(name)
    return chosen[1:]


def _folded(language: str, fact: Fact, code: str) -> str:
    return names_in(language).get(fact.answer_kind, code).text.casefold()


def capped(items: Sequence[Item], per_subject: int | None) -> list[Item]:
    """The first `per_subject` items of each subject (None: all), so that a smaller cap gives a subset."""
    num_of_subject = Counter[str]()
    kept = []
    for item in items:
        num_of_subject[item.fact.subject] += 1
        if per_subject is None or num_of_subject[item.fact.subject] <= per_subject:
            kept.append(item)
    return kept


def question(language: str, fact: Fact) -> str:
    name = names_in(language).get(fact.thing_kind, fact.thing).text
    return templates()[language][fact.template].replace("{x}", name)


def rows(language: str, *, per_subject: int | None = None) -> list[dict[str, str]]:
    """Rows of one language. Row i has the same id, gold letter and order of options in every language.

    Columns, all text: sample_id, subject, question, option_a .. option_d, answer (a letter), as in
    Global-MMLU; split (test | dev); fallback (how many of the row's five names are English because CLDR has
    no other); quality (A | B | C, of the language's templates); share_equal_to_english (in [0, 1]).
    """
    if language not in LANGUAGES:
        raise ValueError(f"no templates for language {language!r}; known: {' '.join(LANGUAGES)}")
    names, english = names_in(language), names_in("en")
    out = []
    for item in capped(plan(), per_subject):
        fact = item.fact
        options = [names.get(fact.answer_kind, code) for code in item.options]
        sources = [names.get(fact.thing_kind, fact.thing).source, *(option.source for option in options)]
        row = {"sample_id": fact.fact_id, "subject": fact.subject, "question": question(language, fact)}
        row.update(
            {f"option_{letter.lower()}": name.text for letter, name in zip(LETTERS, options, strict=True)}
        )
        same = [own.text == english.get(fact.answer_kind, code).text
                for own, code in zip(options, item.options, strict=True)]  # fmt: skip
        row.update(answer=LETTERS[item.gold], split=item.split, fallback=str(sources.count("en")))
        row.update(quality=quality(language), share_equal_to_english=str(sum(same) / NUM_OPTIONS))
        out.append(row)
    return out
