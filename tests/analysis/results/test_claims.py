"""The dashboard's claims say what the numbers say, whichever way they point."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.reading.headline import BY_NAME, CLAIMED, Metric
from analysis.reading.loading import load_study
from analysis.results.claims import ONE_SEED, claims, findings, sentence
from analysis.results.differences import Difference
from analysis.results.settings import settings
from tests.analysis.studies import LANGUAGES, StudyFolder, random_letters, sweep


def change(value: float, low: float, high: float, holm: float | None = None) -> Difference:
    return Difference(value, low, high, 0.5 if holm is None else holm, holm)


def language(value: float, holm: float) -> Difference:
    return change(value, value - 0.01, value + 0.01, holm)


UP, DOWN, UNSURE = language(0.2, 0.001), language(-0.2, 0.0499), language(0.2, 0.05)
CONFIDENCE, NLL = (BY_NAME[name] for name in ("confidence_raw", "nll"))


@pytest.mark.parametrize(
    ("metric", "mean", "over", "members", "said"),
    [
        (
            CONFIDENCE, change(0.21, 0.19, 0.229), "over 13 languages", [UP] * 13,
            "Confidence (raw) rose by .210 [.190, .229] over 13 languages; "
            "significantly up in 13 of 13 (Holm, .05).",
        ),
        (
            CONFIDENCE, change(-0.05, -0.07, -0.03), "over 2 languages", [DOWN, UNSURE],
            "Confidence (raw) fell by .050 [.030, .070] over 2 languages; "
            "significantly down in 1 of 2 (Holm, .05).",
        ),
        (
            CONFIDENCE, change(-0.004, -0.021, 0.013), "over 3 languages", [UP, DOWN, UNSURE],
            "Confidence (raw) did not clearly change over 3 languages: −.004 [−.021, .013]; "
            "significantly up in 1 and down in 1 of 3 (Holm, .05).",
        ),
        (
            CONFIDENCE, change(0.0, 0.0, 0.0), "in 1 language", [language(0.0, 1.0)],
            "Confidence (raw) did not change in 1 language; no significant change in any of 1 (Holm, .05).",
        ),
        (
            CONFIDENCE, None, "", [UP, None],
            "Confidence (raw): significantly up in 1 of 1 tested (Holm, .05).",
        ),
        (CONFIDENCE, None, "", [None], "Confidence (raw): no language could be tested."),
        (
            CONFIDENCE, change(0.21, 0.19, 0.229), "over the 2 languages that both have", [UP, UP, None],
            "Confidence (raw) rose by .210 [.190, .229] over the 2 languages that both have; "
            "significantly up in 2 of 2 tested (Holm, .05).",
        ),
        (
            NLL, change(-1.25, -1.5, -1.0), "in 1 language", [DOWN],
            "NLL fell by 1.250 [1.000, 1.500] in 1 language; significantly down in 1 of 1 (Holm, .05).",
        ),
    ],
)  # fmt: skip
def test_sentences(
    metric: Metric, mean: Difference | None, over: str, members: list[Difference | None], said: str
) -> None:
    assert sentence(metric, mean, over, members) == said


@given(
    ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted),
    share=st.floats(0, 1),
    holm=st.floats(0, 1),
)
def test_a_sentence_never_says_more_than_its_interval(ends: list[float], share: float, holm: float) -> None:
    low, high = ends
    value = min(max(low + share * (high - low), low), high)  # rounding may leave the interval
    said = sentence(CONFIDENCE, change(value, low, high), "in 1 language", [language(0.2, holm)])
    assert ("rose" in said) == (low > 0)
    assert ("fell" in said) == (high < 0)
    assert ("significantly up in 1 of 1" in said) == (holm < 0.05)
    numbers = [float(text.replace("−", "-")) for text in re.findall(r"[−+]?\d*\.\d{3}", said)]
    if len(numbers) == 3:  # value, low and high, of the size of the change where it has a direction
        expected = [-value, -high, -low] if high < 0 else [value, low, high]
        assert numbers == pytest.approx(expected, abs=5.001e-4)


def test_claims_of_a_study(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, seeds=1, skip=[(0.1, 0, "sw")]).root)
    found = claims(study, settings(study)[0])
    assert [claim.title for claim in found] == [
        "SFT ε=0 against base", "SFT ε=0.1 against SFT ε=0",
        "SFT ε=0.1 against base",
    ]  # fmt: skip
    assert set(found[0].sentences) == {"high", "mid", "low", "all"}
    # a sentence a metric, and one on the single training seed
    assert all(len(said) == len(CLAIMED) + 1 for said in found[0].sentences.values())
    assert "over 5 languages" in found[0].sentences["all"][1]
    assert "over 2 languages" in found[0].sentences["low"][1]
    # a missing member: the reason once, then of the languages that both have
    for level, count in (("low", 2), ("all", 5)):
        said = found[1].sentences[level]
        assert said[0] == f"No mean over {count} languages (SFT ε=0.1: 1 of {count} missing)."
        common = "in the 1 language" if level == "low" else "over the 4 languages"
        for one in said[1:-1]:
            assert f"{common} that both have" in one
            assert f"of {count - 1} tested" in one
    assert len(found[1].sentences["high"]) == len(CLAIMED) + 1


def test_over_common_languages_is_a_study_of_them(folder: StudyFolder) -> None:
    """Against a second study that never asked the language that is missing in the first."""
    study = load_study(sweep(folder, seeds=2, skip=[(0.1, 1, "sw")]).root)
    without = [code for code in LANGUAGES if code != "sw"]
    other = StudyFolder(folder.root.parent / "without")
    other.root.mkdir()
    smaller = load_study(sweep(other, seeds=2, languages=without).root)
    said, expected = (
        [text.split("; ")[0] for text in findings(one, settings(one)[0]) if "rose" in text or "chang" in text]
        for one in (study, smaller)
    )
    held = [text for text in said if "over the 4 languages that both have" in text]
    assert len(held) > 6
    # the language that is there counts as tested in Holm's correction, so just the means are alike
    held = [text.replace("the 4 languages that both have", "4 languages") for text in held]
    assert set(held) <= set(expected)


def test_one_seed_compares_checkpoints(folder: StudyFolder) -> None:
    for seeds in (1, 2):
        other = StudyFolder(folder.root.parent / f"of {seeds}")
        other.root.mkdir()
        study = load_study(sweep(other, seeds=seeds).root)
        for claim in claims(study, settings(study)[0]):
            for said in claim.sentences.values():
                assert (said[-1] == ONE_SEED) == (seeds == 1)
                assert ONE_SEED not in said[:-1]


def test_raw_confidence_under_option_text_is_called_what_it_is(folder: StudyFolder) -> None:
    """1 / perplexity of a token: it has no gap and no calibration error."""
    for number, cell in enumerate(({"model": "m"}, {"model": "m", "dataset": "d"})):
        rows = random_letters("x", 40, 1.0 + number, 0.5, 0.9)
        texts = [replace(row, option_mass=None, option_num_tokens=[2] * len(row.scores)) for row in rows]
        folder.add(cell, "en", texts, protocol="option_text")
    study = load_study(folder.root)
    said = findings(study, settings(study)[0])
    assert any("Confidence (per token of the answer) rose" in text for text in said)
    assert not any("raw" in text or "could be tested" in text for text in said)
