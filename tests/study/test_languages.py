"""study/languages.py: the table is consistent, and selectors mean what they say."""

from collections import Counter

import pytest

from study.errors import UserError
from study.languages import LANGUAGES, resolve


def test_table_matches_both_benchmarks() -> None:
    assert len(LANGUAGES) == 49
    assert sum(language.in_global_mmlu for language in LANGUAGES.values()) == 42
    assert sum(language.in_mmlu_prox for language in LANGUAGES.values()) == 29
    assert all(language.in_global_mmlu or language.in_mmlu_prox for language in LANGUAGES.values())
    assert len({language.iso3 for language in LANGUAGES.values()}) == 49


def test_bucket_follows_joshi_class() -> None:
    expected = {0: "low", 1: "low", 2: "low", 3: "mid", 4: "high", 5: "high"}
    assert all(language.bucket == expected[language.joshi] for language in LANGUAGES.values())
    assert Counter(language.bucket for language in LANGUAGES.values())["low"] > 10


def test_global_mmlu_columns_are_filled_exactly_where_they_apply() -> None:
    for language in LANGUAGES.values():
        assert bool(language.bucket_gmmlu_table5) == language.in_global_mmlu
        assert bool(language.translation) == language.in_global_mmlu
    korean = LANGUAGES["ko"]
    assert (korean.bucket, korean.bucket_gmmlu_table5) == ("high", "mid")


def test_resolve_codes_buckets_and_all() -> None:
    available = ["sw", "en", "de", "th", "yo"]
    assert resolve(["all"], available) == available
    assert resolve(["yo", "en", "yo"], available) == ["en", "yo"]
    assert resolve(["low"], available) == ["sw", "yo"]
    assert resolve(["mid", "en"], available) == ["en", "th"]


def test_resolve_takes_codes_outside_the_table() -> None:
    assert resolve(["all"], ["et", "qu"]) == ["et", "qu"]
    assert resolve(["qu"], ["et", "qu"]) == ["qu"]


@pytest.mark.parametrize(
    ("selector", "remedy"),
    [
        (["germann"], "valid: "),
        (["German"], "did you mean 'de'?"),
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
    with pytest.raises(UserError, match="no language is chosen"):
        resolve([], ["en"])
