"""Prompts, byte by byte: against lm-eval's, and against a file, as a changed space is a changed result."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.items.item import Item
from evaluation.items.load import load_items, load_shots
from evaluation.prompts import (
    answers,
    context,
    continuation,
    letter_prompt,
    letters,
    option_text_prompt,
    rotated,
    rotations,
    version,
)
from evaluation.scaffolds import native_words, table
from study.errors import JobError
from study.jobs.specs import PROTOCOLS, SCAFFOLDS, Benchmark, Source
from study.languages import LANGUAGES
from tests.evaluation.tiny import make_tokenizer
from tests.sweeping import ROOT

FIXTURES = Path(__file__).parent / "fixtures"
MARKERS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

KENYA = Item("k", "s", "Mji mkuu wa Kenya ni upi?\n", ("Nairobi", "Kampala", "Dodoma", "Kigali"), 0)
UGANDA = Item("u", "s", "Mji mkuu wa Uganda ni upi?", ("Nairobi", "Kampala"), 1)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = texts.filter(lambda text: text.strip() != "")


@st.composite
def items(draw: st.DrawFn) -> Item:
    options = draw(st.lists(words, min_size=2, max_size=10, unique=True))
    return Item("i", "s", draw(words), tuple(options), draw(st.integers(0, len(options) - 1)))


def chat_of_template() -> Callable[[list[dict[str, str]]], str]:
    """A real tokenizer's template, as shards call it."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = MARKERS

    def chat(turns: list[dict[str, str]]) -> str:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert isinstance(text, str)
        return text

    return chat


CHAT = chat_of_template()
everywhere = pytest.mark.parametrize("protocol", PROTOCOLS)
in_every_scaffold = pytest.mark.parametrize("scaffold", SCAFFOLDS)


def golden_of_lm_eval() -> list[Any]:
    """Made with lm-eval 0.4.13 from sw.jsonl, question by question: `fewshot_context` and the requests of
    global_mmlu_full_sw (letter) and arc_easy (option_text, on stripped questions), both with the sampler
    first_n on the split dev.
    """
    lines = (FIXTURES / "lm_eval" / "contexts.golden.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_english_scaffold_is_lm_evals_byte_for_byte() -> None:
    benchmark = Benchmark("b", Source("local", str(FIXTURES / "lm_eval"), "0" * 16), "global_mmlu")
    by_id = {item.example_id: item for item in load_items(benchmark, "sw")}
    compared = set()
    for golden in golden_of_lm_eval():
        protocol, num_shots = golden["protocol"], golden["num_shots"]
        item, shots = by_id[golden["sample_id"]], load_shots(benchmark, "sw", num_shots)
        text = context(item, shots[item.subject], protocol=protocol, scaffold="english", language="sw")
        assert text == golden["context"]
        assert list(answers(item, protocol=protocol, scaffold="english")) == golden["answers"]
        compared.add((item.example_id, protocol, num_shots))
    assert len(compared) == 4 * 2 * 2


def test_prompts_are_the_golden_ones() -> None:
    numbers = Item("n", "s", "Which is prime?", tuple("4 6 8 9 10 12 14 15 16 17".split()), 9)
    chinese = Item("z", "s", "二加三等于几？", ("四", "五"), 1)
    parts = {
        "letter, 4 options, the question ends in a line break": letter_prompt(KENYA.question, KENYA.options),
        "letter, 2 options": letter_prompt(chinese.question, chinese.options),
        "letter, 10 options": letter_prompt(numbers.question, numbers.options),
        "option text": option_text_prompt(KENYA.question),
    }
    for protocol in PROTOCOLS:
        for item, language in ((KENYA, "sw"), (chinese, "zh")):
            title = f"native, {language}, {protocol}, 1 shot"
            shots = [UGANDA if item is KENYA else chinese]
            parts[title] = context(item, shots, protocol=protocol, scaffold="native", language=language)
        turns = context(KENYA, [UGANDA], protocol=protocol, scaffold="chat", language="sw", chat=CHAT)
        parts[f"chat, {protocol}, 1 shot"] = turns
    text = "".join(f"=== {title}\n{prompt}\n" for title, prompt in parts.items())
    assert text == (FIXTURES / "prompts.golden.txt").read_text(encoding="utf-8")


PASSAGE = "Kenya iko Afrika.\n Ina mji mkuu."
READING = dataclasses.replace(KENYA, passage=PASSAGE)


def test_a_passage_under_letters_gives_lm_evals_belebele_prompt() -> None:
    """lm_eval/tasks/belebele/_default_template_yaml of lm-eval 0.4."""
    template = (
        "P: {{flores_passage}}\nQ: {{question.strip()}}\nA: {{mc_answer1}}\nB: {{mc_answer2}}\n"
        "C: {{mc_answer3}}\nD: {{mc_answer4}}\nAnswer:"
    )
    row = {f"mc_answer{i}": option for i, option in enumerate(READING.options, start=1)}
    row |= {"flores_passage": PASSAGE, "question": READING.question}
    expected = jinja2.Template(template).render(row)
    how: dict[str, Any] = {"protocol": "letter", "language": "sw"}
    assert context(READING, (), scaffold="english", **how) == expected
    assert context(READING, [READING], scaffold="english", **how) == f"{expected} A\n\n{expected}"
    assert f"<|user|>{expected}<|end|>" in context(READING, (), scaffold="chat", chat=CHAT, **how)


@pytest.mark.parametrize(
    ("protocol", "scaffold"), [("letter", "native"), ("option_text", "english"), ("option_text", "native")]
)
def test_elsewhere_a_passage_stands_above_the_prompt(protocol: str, scaffold: str) -> None:
    how: dict[str, Any] = {"protocol": protocol, "scaffold": scaffold, "language": "sw"}
    alone = context(KENYA, (), **how)
    assert context(READING, (), **how) == f"{PASSAGE}\n{alone}"
    after_a_shot = context(KENYA, [UGANDA], **how).replace(alone, f"{PASSAGE}\n{alone}")
    assert context(READING, [UGANDA], **how) == after_a_shot


def test_in_a_chat_a_passage_stands_above_the_bare_question() -> None:
    text = context(READING, (), protocol="option_text", scaffold="chat", language="sw", chat=CHAT)
    assert text == f"<|user|>{PASSAGE}\nMji mkuu wa Kenya ni upi?<|end|><|assistant|>"


def test_an_answer_follows_after_one_space_and_in_a_chat_right_away() -> None:
    assert continuation("A") == " A"
    assert continuation("Nairobi") == " Nairobi"
    assert answers(UGANDA, protocol="letter", scaffold="native") == (" A", " B")
    assert answers(UGANDA, protocol="option_text", scaffold="english") == (" Nairobi", " Kampala")
    assert answers(UGANDA, protocol="letter", scaffold="chat") == ("A", "B")
    assert answers(UGANDA, protocol="option_text", scaffold="chat") == ("Nairobi", "Kampala")


@pytest.mark.parametrize("num_options", range(2, 11))
def test_letters(num_options: int) -> None:
    assert letters(num_options) == "ABCDEFGHIJ"[:num_options]


@everywhere
@in_every_scaffold
@given(first=items(), second=items(), shots=st.lists(items(), min_size=1, max_size=3))
def test_items_of_a_subject_share_everything_before_their_own_question(
    protocol: str, scaffold: str, first: Item, second: Item, shots: list[Item]
) -> None:
    def text(item: Item, before: list[Item]) -> str:
        return context(item, before, protocol=protocol, scaffold=scaffold, language="sr", chat=CHAT)

    end = "<|end|>" if scaffold == "chat" else "\n\n"
    right = [answers(shot, protocol=protocol, scaffold=scaffold)[shot.label] for shot in shots]
    prefix = "".join(text(shot, []) + answer + end for shot, answer in zip(shots, right, strict=True))
    for item in (first, second):
        assert text(item, shots) == prefix + text(item, [])


@given(items())
def test_rotations_are_the_items_own_and_one_answer_is_right(item: Item) -> None:
    turned = [rotated(item, r) for r in rotations(item, "cyclic")]
    assert turned[0] == item
    assert [one.options[one.label] for one in turned] == [item.options[item.label]] * len(item.options)
    # each option stands at each letter once
    for column in zip(*(one.options for one in turned), strict=True):
        assert sorted(column) == sorted(item.options)
    step = item
    for _ in item.options:
        step = rotated(step, 1)
    assert step == item
    assert list(rotations(item, "original")) == [0]


@everywhere
@in_every_scaffold
@given(item=items())
def test_there_is_one_answer_an_option_and_none_twice(protocol: str, scaffold: str, item: Item) -> None:
    texts_of_answers = answers(item, protocol=protocol, scaffold=scaffold)
    assert len(texts_of_answers) == len(set(texts_of_answers)) == len(item.options)


def test_every_language_has_words_of_its_own() -> None:
    assert set(table()) == {*LANGUAGES, "sr-Latn"}
    for language, own in table().items():
        for word in (own.question, own.answer):
            assert word.strip() == word
            assert word[-1] in ":：፦"
            assert word.count(" ") <= 2
        assert own.question != own.answer
        assert own.checked in "abc"
        if own.checked == "c" or language == "en":  # of which we are unsure: English
            assert (own.question, own.answer) == ("Question:", "Answer:")
        else:
            assert (own.question, own.answer) != ("Question:", "Answer:")


@pytest.mark.parametrize("language", [code for code, about in LANGUAGES.items() if about.script != "Latin"])
def test_words_are_written_in_the_languages_script(language: str) -> None:
    named = {
        "Arabic": {"ARABIC"}, "Bengali": {"BENGALI"}, "Cyrillic": {"CYRILLIC"}, "Devanagari": {"DEVANAGARI"},
        "Ethiopic": {"ETHIOPIC"}, "Greek": {"GREEK"}, "Han": {"CJK"}, "Hangul": {"HANGUL"},
        "Hebrew": {"HEBREW"}, "Japanese": {"CJK", "HIRAGANA", "KATAKANA"}, "Sinhala": {"SINHALA"},
        "Telugu": {"TELUGU"}, "Thai": {"THAI"},
    }  # fmt: skip
    own = table()[language]
    for letter in (own.question + own.answer).replace(" ", ""):
        if letter not in ":：፦\u200d":
            assert unicodedata.name(letter).split(" ")[0] in named[LANGUAGES[language].script], letter


def test_serbian_words_follow_the_script_of_the_question() -> None:
    assert native_words("sr", "Који је главни град?").answer == "Одговор:"
    assert native_words("sr", "Koji je glavni grad?").answer == "Odgovor:"
    assert native_words("ru", "2 + 2").answer == "Ответ:"
    with pytest.raises(JobError, match="no words in language 'et'; use 'english'"):
        native_words("et", "Mis?")


def test_versions_differ_exactly_where_prompts_do() -> None:
    def versions(scaffold: str) -> set[str]:
        return {version(protocol, scaffold, language) for protocol in PROTOCOLS for language in LANGUAGES}

    assert all(len(one) == 12 and int(one, 16) >= 0 for one in versions("native"))
    assert len(versions("english")) == len(versions("chat")) == len(PROTOCOLS)
    assert not versions("english") & versions("chat")
    assert version("letter", "native", "en") == version("letter", "english", "sw")
    assert version("letter", "native", "de") not in versions("english")
    kinds = [(protocol, scaffold) for protocol in PROTOCOLS for scaffold in SCAFFOLDS]
    with_passage = {version(*kind, "sw", with_passage=True) for kind in kinds}
    assert len(with_passage) == len(kinds)
    assert not with_passage & {*versions("english"), *versions("native"), *versions("chat")}


def test_a_version_is_the_same_in_every_process_and_changes_with_a_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = "from evaluation.prompts import version; print(version('letter', 'english', 'en'))"
    here = version("letter", "english", "en")
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={"PYTHONHASHSEED": seed}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.strip() == here
    with monkeypatch.context() as changed:
        changed.setattr("evaluation.prompts.continuation", lambda answer: f"  {answer}")
        assert version.__wrapped__("letter", "english", "en") != here
    assert version.__wrapped__("letter", "english", "en") == here

    def other_between_shots(item: Item, shots: list[Item], **how: Any) -> str:
        return context(item, shots, **how) + (" " if shots else "")

    monkeypatch.setattr("evaluation.prompts.context", other_between_shots)
    assert version.__wrapped__("letter", "english", "en") != here


def test_asking_for_prompts_imports_nothing_heavy() -> None:
    program = (
        "import sys, evaluation.prompts as p; p.version('letter', 'native', 'sw');"
        "print([n for n in ('torch', 'transformers', 'numpy', 'pyarrow', 'omegaconf') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
