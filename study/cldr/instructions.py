r"""Training rows for the embedded demo, in Alpaca's columns: instruction, input, output.

Multiple choice is written so that the plain template (instruction, newline, input, newline, "Answer:") gives
exactly the prompt the `letter` protocol scores:

    instruction  What is the currency of this country: Japan?
    input        A. Indian Rupee\nB. Japanese Yen\nC. Chinese Yuan\nD. Thai Baht
    output       B
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal

from study.cldr.benchmark import LETTERS, NUM_OPTIONS, capped, plan, question, templates
from study.cldr.facts import Fact, all_facts, names_by_kind
from study.cldr.names import names_in

DEMO_SHARES: Mapping[str, float] = {
    "en": 1.0,
    "de": 0.5,
    "fr": 0.5,
    "es": 0.5,
    "ru": 0.35,
    "zh": 0.35,
    "ar": 0.15,
    "hi": 0.1,
    "sw": 0.03,
    "te": 0.025,
    "am": 0.02,
    "yo": 0.015,
    "ig": 0.01,
}
"""Relative amounts of pretraining rows (their sum is not 1): as unequal as languages are on the web."""

DEMO_PER_SUBJECT = 50
"""The demo asks about fewer facts than CLDR has, so that a tiny model can learn most of them in English."""

PRETRAINING_SHARE_OF_CHOICE = 0.7


def multiple_choice(instruction: str, options: Sequence[str], gold: int) -> dict[str, str]:
    listed = "\n".join(f"{letter}. {name}" for letter, name in zip(LETTERS, options, strict=True))
    return {"instruction": instruction, "input": listed, "output": LETTERS[gold]}


def instruction_facts(facts: Literal["disjoint", "overlap"], *, per_subject: int | None) -> list[Fact]:
    """overlap: the facts of the test split under this cap. disjoint: those that it has under no cap.

    "May follows April" and "April precedes May" count as one fact here.
    """
    if facts == "overlap":
        return [item.fact for item in capped(plan(), per_subject) if item.split == "test"]
    if facts == "disjoint":
        tested = {_known(item.fact) for item in plan() if item.split == "test"}
        return [
            fact for fact in all_facts() if _known(fact) not in tested and len(_wrong_names("en", fact)) >= 3
        ]
    raise ValueError(f"facts must be disjoint or overlap, not {facts!r}")


def _known(fact: Fact) -> tuple[str, str, frozenset[str]]:
    """The knowledge that answers a fact's question, the same for both directions of asking."""
    return fact.subject, fact.thing_kind, frozenset((fact.thing, fact.answer))


def english_instructions(
    num_rows: int,
    *,
    seed: int,
    facts: Literal["disjoint", "overlap"] = "disjoint",
    per_subject: int | None = DEMO_PER_SUBJECT,
    share_of_choice: float = 1.0,
) -> list[dict[str, str]]:
    """English rows for instruction tuning: multiple choice with newly drawn options, or question and answer.

    Facts come in shuffled rounds, so that none is seen twice before all were seen once.
    """
    rng = random.Random(f"english instructions {seed}")
    chosen = instruction_facts(facts, per_subject=per_subject)
    return [_row("en", fact, rng, share_of_choice) for fact in _rounds(chosen, num_rows, rng)]


def pretraining_rows(
    num_rows: int,
    *,
    seed: int,
    shares: Mapping[str, float] = DEMO_SHARES,
    per_subject: int | None = DEMO_PER_SUBJECT,
) -> list[dict[str, str]]:
    """Shuffled rows: 70% multiple choice, 30% question -> name, with a fourth column `language`.

    Each language gets its exact share of rows and its facts in shuffled rounds, so that languages differ in
    how often a fact is seen, and not in which facts: all of the benchmark (under the cap, both splits) in
    every language that has at least as many rows, and in English also those that only instructions ask about.
    """
    rng = random.Random(f"pretraining {seed}")
    rows = []
    for language, count in _allot(num_rows, shares).items():
        for fact in _rounds(_facts_in(language, per_subject), count, rng):
            row = _row(language, fact, rng, PRETRAINING_SHARE_OF_CHOICE)
            row["language"] = language
            rows.append(row)
    rng.shuffle(rows)
    return rows


def vocabulary(language: str, *, per_subject: int | None = DEMO_PER_SUBJECT) -> tuple[list[str], list[str]]:
    """What a tokenizer must know: (all names in rows of a language, its question templates without names)."""
    names = names_in(language)
    codes = names_by_kind(_facts_in(language, per_subject))
    known = {names.get(kind, code).text for kind, of_kind in codes.items() for code in of_kind}
    columns = templates()[language].items()
    texts = [text.replace("{x}", " ") for column, text in columns if column not in ("lang", "quality")]
    return sorted(known - {""}), texts


def _facts_in(language: str, per_subject: int | None) -> list[Fact]:
    """The facts in pretraining rows: those of both splits; in English also those of instructions."""
    facts = [item.fact for item in capped(plan(), per_subject)]
    if language == "en":
        known = {fact.fact_id for fact in facts}
        facts += [f for f in instruction_facts("disjoint", per_subject=None) if f.fact_id not in known]
    return facts


def _row(language: str, fact: Fact, rng: random.Random, share_of_choice: float) -> dict[str, str]:
    asked, answer = _question(language, fact), _answer(language, fact)
    if rng.random() >= share_of_choice:
        return {"instruction": asked, "input": "", "output": answer}
    options = rng.sample(_wrong_names(language, fact), NUM_OPTIONS - 1)
    gold = rng.randrange(NUM_OPTIONS)
    options.insert(gold, answer)
    return multiple_choice(asked, options, gold)


@cache  # a few thousand strings, each needed a hundred times
def _question(language: str, fact: Fact) -> str:
    return question(language, fact)


@cache
def _answer(language: str, fact: Fact) -> str:
    return names_in(language).get(fact.answer_kind, fact.answer).text


@cache
def _wrong_names(language: str, fact: Fact) -> tuple[str, ...]:
    """Names of the distractors: all different, and not the answer or the thing that the question is about."""
    names = names_in(language)
    taken = {_answer(language, fact).casefold(), names.get(fact.thing_kind, fact.thing).text.casefold(), ""}
    out = []
    for code in fact.distractors:
        name = names.get(fact.answer_kind, code).text
        if name.casefold() not in taken:
            taken.add(name.casefold())
            out.append(name)
    return tuple(out)


def _rounds(facts: Sequence[Fact], count: int, rng: random.Random) -> list[Fact]:
    out: list[Fact] = []
    while len(out) < count:
        out.extend(rng.sample(facts, len(facts)))
    return out[:count]


def _allot(num_rows: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Rows per language in proportion to the shares; the largest remainders get what rounding leaves."""
    unknown = [language for language in shares if language not in templates()]
    if unknown or not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise ValueError(
            f"shares must be non-negative, with a positive sum, of known languages: {dict(shares)}"
        )
    exact = {language: num_rows * share / sum(shares.values()) for language, share in shares.items()}
    counts = {language: int(value) for language, value in exact.items()}
    by_remainder = sorted(exact, key=lambda language: counts[language] - exact[language])
    for language in by_remainder[: num_rows - sum(counts.values())]:
        counts[language] += 1
    return counts


GENERATORS: Mapping[str, Callable[..., list[dict[str, str]]]] = {
    "cldr-instruct": english_instructions,
    "cldr-pretrain": pretraining_rows,
}
"""Name of an embedded dataset -> what makes its rows from `num_rows` and `seed`."""
