"""study/languages.py: the table is consistent, and selectors mean what they say."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.benchmarks.definition import definition_of
from study.errors import UserError
from study.languages import BUCKETS, LANGUAGES, resolve

GROUPS = sorted(
    {part for language in LANGUAGES.values() for part in (language.script, *language.family.split("/"))}
)
CODES = st.lists(st.sampled_from([*LANGUAGES, "et", "qu", "mine"]), min_size=1, unique=True)
WORDS = st.sampled_from(["all", *BUCKETS, *GROUPS, *LANGUAGES, "et"])


def test_table_matches_both_benchmarks() -> None:
    assert len(LANGUAGES) == 49
    global_mmlu, mmlu_prox = (definition_of(name).languages for name in ("global_mmlu", "mmlu_prox"))
    assert (len(global_mmlu), len(mmlu_prox)) == (42, 29)
    assert {*global_mmlu, *mmlu_prox} == set(LANGUAGES)
    assert len({language.iso3 for language in LANGUAGES.values()}) == 49


def test_bucket_follows_joshi_class() -> None:
    expected = {0: "low", 1: "low", 2: "low", 3: "mid", 4: "high", 5: "high"}
    assert all(language.bucket == expected[language.joshi] for language in LANGUAGES.values())
    assert Counter(language.bucket for language in LANGUAGES.values())["low"] > 10


def test_global_mmlu_columns_are_filled_exactly_where_they_apply() -> None:
    for code, language in LANGUAGES.items():
        is_in_global_mmlu = code in definition_of("global_mmlu").languages
        assert bool(language.bucket_gmmlu_table5) == is_in_global_mmlu
        assert bool(language.translation) == is_in_global_mmlu
    korean = LANGUAGES["ko"]
    assert (korean.bucket, korean.bucket_gmmlu_table5) == ("high", "mid")


def test_resolve_codes_buckets_and_all() -> None:
    available = ["sw", "en", "de", "th", "yo"]
    assert resolve(["all"], available) == available
    assert resolve(["yo", "en", "yo"], available) == ["en", "yo"]
    assert resolve(["low"], available) == ["sw", "yo"]
    assert resolve(["mid", "en"], available) == ["en", "th"]


def test_resolve_scripts_families_and_branches() -> None:
    everything = list(LANGUAGES)
    assert resolve(["Cyrillic"], everything) == ["ky", "ru", "sr", "uk"]
    assert resolve(["bantu"], everything) == ["ny", "sn", "sw", "zu"]
    assert resolve(["Niger-Congo"], everything) == ["ig", "ny", "sn", "sw", "wo", "yo", "zu"]
    assert resolve(["AUSTRONESIAN", "Turkic"], everything) == ["fil", "id", "ky", "mg", "ms", "tr"]
    assert len(resolve(["Indo-European"], everything)) == 24
    assert resolve(["Arabic"], everything) == ["ar", "fa", "ur"]  # the script
    assert resolve(["Latin", "he"], ["he", "el", "yo"]) == ["he", "yo"]


@given(selector=st.lists(WORDS, min_size=1, max_size=4), available=CODES)
def test_a_selector_chooses_the_union_of_its_words_in_the_order_of_what_there_is(
    selector: list[str], available: list[str]
) -> None:
    def means(word: str, code: str) -> bool:
        if word in ("all", code):
            return True
        about = LANGUAGES.get(code)
        return about is not None and (word in (about.bucket, about.script) or word in about.family.split("/"))

    expected = [code for code in available if any(means(word, code) for word in selector)]
    if all(any(means(word, code) for code in available) for word in selector):
        assert resolve(selector, available) == expected
        shouted = [word.upper() if word in GROUPS else word for word in selector]
        assert resolve(shouted, available) == expected
        assert resolve(expected, available) == expected
    else:
        with pytest.raises(UserError):
            resolve(selector, available)


@given(st.text(max_size=12))
def test_any_word_names_languages_or_is_refused_in_one_sentence(word: str) -> None:
    sentence = ""
    try:
        chosen = resolve([word], list(LANGUAGES))
    except UserError as error:
        chosen, sentence = [], str(error)
    assert bool(chosen) != bool(sentence)
    assert "\n" not in sentence


@pytest.mark.parametrize("word", [*GROUPS, *(language.name for language in LANGUAGES.values())])
def test_a_slip_of_the_pen_gets_the_word_it_came_from(word: str) -> None:
    """One letter doubled: the remedy, taken, is a selector that chooses a language."""
    slipped = word[:2] + word[1:]
    with pytest.raises(UserError) as error:
        resolve([slipped], list(LANGUAGES))
    assert error.value.remedy.startswith("did you mean '")
    suggested = error.value.remedy.split("'")[1]
    chosen = resolve([suggested], list(LANGUAGES))
    named = {code for code, about in LANGUAGES.items() if word in (about.name, about.script)}
    named |= {code for code, about in LANGUAGES.items() if word in about.family.split("/")}
    assert set(chosen) & named


def test_resolve_takes_codes_outside_the_table() -> None:
    assert resolve(["all"], ["et", "qu"]) == ["et", "qu"]
    assert resolve(["qu"], ["et", "qu"]) == ["qu"]


@pytest.mark.parametrize(
    ("selector", "remedy"),
    [
        (["germann"], "did you mean 'de'?"),
        (["German"], "did you mean 'de'?"),
        (["Cyrilic"], "did you mean 'Cyrillic'?"),
        (["indo-europen"], "did you mean 'Indo-European'?"),
        (["EN"], "did you mean 'en'?"),
        (["qqqq"], "valid: "),
        (["hihg"], "did you mean 'high'?"),
        (["fill"], "did you mean 'fil'?"),
    ],
)
def test_unknown_names_get_a_suggestion(selector: list[str], remedy: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(selector, list(LANGUAGES))
    assert error.value.remedy.startswith(remedy)
    assert repr(selector[0]) in error.value.what


def test_known_but_unavailable_languages_are_refused() -> None:
    with pytest.raises(UserError, match=r"'th' \(Thai\) is not available here; available: de, en"):
        resolve(["th"], ["en", "de"])
    with pytest.raises(UserError, match="bucket 'low'"):
        resolve(["low"], ["en", "de"])
    with pytest.raises(UserError, match="no language of 'thai' is available; available: de, en"):
        resolve(["thai"], ["en", "de"])
    with pytest.raises(UserError, match="no language is chosen"):
        resolve([], ["en"])
