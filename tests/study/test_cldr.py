"""study/cldr: the generated data is parallel, well formed, true where checked by hand, and the same
everywhere.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections import Counter

import babel
import pytest

from study.cldr.benchmark import LANGUAGES, LETTERS, quality, rows
from study.cldr.instructions import (
    DEMO_PER_SUBJECT,
    DEMO_SHARES,
    english_instructions,
    instruction_facts,
    pretraining_rows,
    vocabulary,
)
from study.cldr.version import DATA_VERSION, revision
from tests.sweeping import ROOT

OPTION_COLUMNS = [f"option_{letter.lower()}" for letter in LETTERS]

GOLDEN = {("2", "2.18.0"): "557459e1b63e5fb7d16562674fe62bf32780614dbe0972694f9f306db1c366e7"}
"""(DATA_VERSION, Babel's version) -> digest of everything generated. Other output means: raise
DATA_VERSION.
"""


def digest_of_everything() -> str:
    """Used by the golden test and, in fresh processes, by the determinism test."""
    generated = (
        {language: rows(language) for language in LANGUAGES},
        english_instructions(300, seed=0),
        english_instructions(300, seed=1, facts="overlap", share_of_choice=0.7),
        pretraining_rows(5000, seed=0),
    )
    return hashlib.sha256(json.dumps(generated, ensure_ascii=False).encode()).hexdigest()


def by_id(language: str) -> dict[str, dict[str, str]]:
    return {row["sample_id"]: row for row in rows(language)}


def test_golden_digest() -> None:
    if (DATA_VERSION, babel.__version__) not in GOLDEN:
        pytest.skip(f"no golden digest for data version {DATA_VERSION} with Babel {babel.__version__}")
    assert digest_of_everything() == GOLDEN[DATA_VERSION, babel.__version__]


@pytest.mark.slow
def test_same_bytes_under_any_hash_seed_and_whichever_language_comes_first() -> None:
    """Babel's tables may know which locale was loaded before: a task scores the same texts with any other."""
    program = (
        "from tests.study.test_cldr import digest_of_everything; from study.cldr.benchmark import rows; "
        "import os; rows(os.environ['FIRST']); print(digest_of_everything())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "FIRST": first, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, first in (("0", "am"), ("12345", "zh"))
    }
    assert digests == {digest_of_everything() + "\n"}


def test_revision_is_a_pinnable_hash() -> None:
    assert len(revision()) == 16
    assert int(revision(), 16) >= 0


def test_importing_the_data_modules_stays_light() -> None:
    program = (
        "import sys, study.cldr.instructions, study.languages;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pandas') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]"


def test_all_languages_are_parallel() -> None:
    shape = [(row["sample_id"], row["subject"], row["answer"], row["split"]) for row in rows("en")]
    assert len(set(shape)) == len(shape) == 485
    for language in LANGUAGES:
        own = [(row["sample_id"], row["subject"], row["answer"], row["split"]) for row in rows(language)]
        assert own == shape, language


def test_option_order_is_parallel() -> None:
    """A name that a language shares with English stands at the same letter in both."""
    english = by_id("en")
    for language in ("de", "nl", "sw"):
        for sample_id, row in by_id(language).items():
            ours = [row[column] for column in OPTION_COLUMNS]
            theirs = [english[sample_id][column] for column in OPTION_COLUMNS]
            assert {name for name in ours if name in theirs} == {
                own for own, other in zip(ours, theirs, strict=True) if own == other
            }, (language, sample_id)


@pytest.mark.parametrize("language", LANGUAGES)
def test_four_distinct_options_and_no_empty_cell(language: str) -> None:
    for row in rows(language):
        assert len({row[column].casefold() for column in OPTION_COLUMNS}) == 4, row
        assert all(row.values()), row
        assert "{x}" not in row["question"], row


def test_gold_letters_are_balanced_under_any_cap() -> None:
    for cap in (20, DEMO_PER_SUBJECT, None):
        for subject in ("currency", "language", "continent", "city", "calendar"):
            of_subject = [row["answer"] for row in rows("en", per_subject=cap) if row["subject"] == subject]
            counts = [Counter(of_subject)[letter] for letter in LETTERS]
            assert max(counts) - min(counts) <= 1, (subject, cap, counts)


def test_every_subject_has_five_questions_for_shots_under_the_demos_cap_too() -> None:
    for cap in (DEMO_PER_SUBJECT, None):
        splits = Counter((row["subject"], row["split"]) for row in rows("en", per_subject=cap))
        for subject in ("currency", "language", "continent", "city", "calendar"):
            dev, test = splits[subject, "dev"], splits[subject, "test"]
            assert dev >= 5
            assert 0.12 < dev / (dev + test) < 0.15


def test_a_cap_keeps_a_prefix_of_each_subject() -> None:
    full = by_id("fr")
    small = rows("fr", per_subject=10)
    assert all(full[row["sample_id"]] == row for row in small)
    assert set(Counter(row["subject"] for row in small).values()) == {10}


def test_nearly_all_names_are_localised() -> None:
    not_localised = {
        language for language in LANGUAGES if any(row["fallback"] != "0" for row in rows(language))
    }
    assert not_localised <= {"ny", "wo"}


@pytest.mark.parametrize(
    ("language", "sample_id", "question", "answer"),
    [
        ("de", "cldr/currency/JP", "Was ist die Währung dieses Landes: Japan?", "Japanischer Yen"),
        ("en", "cldr/currency/JP", "What is the currency of this country: Japan?", "Japanese Yen"),
        ("zh", "cldr/currency/JP", "这个国家的货币是什么：日本？", "日元"),
        ("fr", "cldr/calendar/month_next/12", "Qu'est-ce qui vient juste après décembre ?", "janvier"),
        ("es", "cldr/calendar/day_prev/0", "¿Qué viene justo antes de lunes?", "domingo"),
        ("sw", "cldr/continent/KE", "Nchi hii iko katika bara gani: Kenya?", "Afrika"),
    ],
)
def test_facts_checked_by_hand(language: str, sample_id: str, question: str, answer: str) -> None:
    row = by_id(language)[sample_id]
    assert row["question"] == question
    assert row[f"option_{row['answer'].lower()}"] == answer


def test_months_do_not_leak_between_locales() -> None:
    """Babel 2.18 shares stand-alone month names between locales through `Locale.months`."""
    months = {
        language: by_id(language)["cldr/calendar/month_next/5"] for language in ("yo", "ig", "zu", "so", "en")
    }
    answers = {language: row[f"option_{row['answer'].lower()}"] for language, row in months.items()}
    assert len(set(answers.values())) == len(answers), answers


def test_quality_and_overlap_with_english_are_known() -> None:
    assert Counter(map(quality, LANGUAGES)) == {"A": 36, "B": 8, "C": 5}
    shares = {
        code: statistics.fmean(float(row["share_equal_to_english"]) for row in rows(code))
        for code in ("en", "zh", "fil")
    }
    assert (shares["en"], shares["zh"]) == (1, 0)
    assert 0.6 < shares["fil"] < 0.9
    for language in ("en", "fil", "ig", "zh"):
        for own, english in zip(rows(language), rows("en"), strict=True):
            same = sum(own[column] == english[column] for column in OPTION_COLUMNS)
            assert float(own["share_equal_to_english"]) == same / 4
            assert own["quality"] == quality(language)


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="tlh"):
        rows("tlh")


def test_instructions_are_alpaca_rows_in_the_evaluations_form() -> None:
    for row in english_instructions(50, seed=3):
        assert list(row) == ["instruction", "input", "output"]
        lines = row["input"].split("\n")
        assert [line[:3] for line in lines] == ["A. ", "B. ", "C. ", "D. "]
        assert len({line[3:] for line in lines}) == 4
        assert row["output"] in LETTERS
        assert row["instruction"].endswith("?")


def test_instruction_facts_are_disjoint_from_every_test_question() -> None:
    test_questions = {row["question"] for row in rows("en") if row["split"] == "test"}
    disjoint = english_instructions(2000, seed=0, facts="disjoint")
    assert not test_questions & {row["instruction"] for row in disjoint}
    overlap = english_instructions(2000, seed=0, facts="overlap")
    assert {row["instruction"] for row in overlap} <= test_questions
    assert len({row["instruction"] for row in disjoint}) > 150
    with pytest.raises(ValueError, match="disjoint or overlap"):
        instruction_facts("other", per_subject=None)  # type: ignore[arg-type]


def test_instruction_answers_are_right_and_letters_balanced() -> None:
    answers = {row["question"]: row[f"option_{row['answer'].lower()}"] for row in rows("en")}
    instructions = english_instructions(2000, seed=0, facts="overlap")
    for row in instructions:
        line = row["input"].split("\n")[LETTERS.index(row["output"])]
        assert line == f"{row['output']}. {answers[row['instruction']]}"
    counts = Counter(row["output"] for row in instructions)
    assert all(420 < counts[letter] < 580 for letter in LETTERS)


@pytest.mark.slow
def test_pretraining_has_the_asked_shares_and_every_fact_in_every_language() -> None:
    num_rows = 110_000
    generated = pretraining_rows(num_rows, seed=0)
    counts = Counter(row["language"] for row in generated)
    assert sum(counts.values()) == num_rows
    for language, share in DEMO_SHARES.items():
        assert abs(counts[language] - num_rows * share / sum(DEMO_SHARES.values())) < 1
        questions = {row["question"] for row in rows(language, per_subject=DEMO_PER_SUBJECT)}
        seen = {row["instruction"] for row in generated if row["language"] == language}
        assert questions <= seen, language
    assert abs(sum(row["input"] != "" for row in generated) / num_rows - 0.7) < 0.01


def test_pretraining_refuses_bad_shares() -> None:
    for shares in ({}, {"en": -1.0}, {"tlh": 1.0}, {"en": 0.0}):
        with pytest.raises(ValueError, match="shares"):
            pretraining_rows(10, seed=0, shares=shares)


def test_vocabulary_covers_every_row() -> None:
    for language in ("en", "am", "ig"):
        names, texts = vocabulary(language, per_subject=DEMO_PER_SUBJECT)
        assert len(names) == len(set(names))
        assert len(texts) == 6
        for row in rows(language, per_subject=DEMO_PER_SUBJECT):
            assert {row[column] for column in OPTION_COLUMNS} <= set(names)
