"""The dashboard's claims say what the numbers say, whichever way they point."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.aggregate import Cell, load_study
from analysis.dashboard_claims import claims, sentence
from analysis.differences import Contrast, DifferenceRow, difference_rows
from analysis.labels import settings

from .studies import StudyFolder, sweep

BASE, TUNED = Cell((("model", "m"),)), Cell((("model", "m"), ("label_smoothing", 0.0)))
CONTRAST = Contrast(("cldr", "test", "letter"), "SFT ε=0 - base", TUNED, BASE)


def row(value: float | None, low: float | None, high: float | None, **more: object) -> DifferenceRow:
    made = DifferenceRow(
        contrast=CONTRAST, level="all", name="all", metric="confidence_raw", value=value, low=low, high=high,
        p_value=None, holm=None, missing=None, n=100, num_seeds=1, job_ids_a=("a",), job_ids_b=("b",),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def language(value: float, holm: float | None) -> DifferenceRow:
    return row(value, value - 0.01, value + 0.01, level="language", name="en", holm=holm)


UP, DOWN, UNSURE = language(0.2, 0.001), language(-0.2, 0.05), language(0.2, 0.051)
GONE = row(None, None, None, level="language", name="sw", missing="base: not done")


@pytest.mark.parametrize(
    ("whole", "members", "said"),
    [
        (
            row(0.21, 0.19, 0.229), [UP] * 13,
            "Confidence (raw) rose by .210 [.190, .229] over 13 languages; "
            "significantly up in 13 of 13 (Holm, .05).",
        ),
        (
            row(-0.05, -0.07, -0.03), [DOWN, UNSURE],
            "Confidence (raw) fell by .050 [.030, .070] over 2 languages; "
            "significantly down in 1 of 2 (Holm, .05).",
        ),
        (
            row(-0.004, -0.021, 0.013), [UP, DOWN, UNSURE],
            "Confidence (raw) did not clearly change over 3 languages: −.004 [−.021, .013]; "
            "significantly up in 1 and down in 1 of 3 (Holm, .05).",
        ),
        (
            row(0.0, 0.0, 0.0), [language(0.0, 1.0)],
            "Confidence (raw) did not change in 1 language; significantly in none of 1 (Holm, .05).",
        ),
        (
            row(None, None, None, missing="base: 1 of 2 missing"), [UP, GONE],
            "Confidence (raw): significantly up in 1 of 1 tested (Holm, .05).",
        ),
        (
            row(None, None, None, missing="base: not done"), [GONE],
            "Confidence (raw): no language could be tested.",
        ),
        (
            # a binned ECE moved up and the ECE without its bias down: no claim either way
            row(0.01, -0.03, -0.01, metric="ece_raw"), [UNSURE],
            "ECE (raw) did not clearly change in 1 language: +.010 [−.030, −.010]; "
            "significantly in none of 1 (Holm, .05).",
        ),
        (
            row(-1.25, -1.5, -1.0, metric="nll"), [DOWN],
            "NLL fell by 1.250 [1.000, 1.500] in 1 language; significantly down in 1 of 1 (Holm, .05).",
        ),
    ],
)  # fmt: skip
def test_sentences(whole: DifferenceRow, members: list[DifferenceRow], said: str) -> None:
    assert sentence(whole, members) == said


@given(
    ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted),
    share=st.floats(0, 1),
    holm=st.floats(0, 1),
)
def test_a_sentence_never_says_more_than_its_interval(ends: list[float], share: float, holm: float) -> None:
    low, high = ends
    value = low + share * (high - low)
    said = sentence(row(value, low, high), [language(0.2, holm)])
    assert ("rose" in said) == (low > 0)
    assert ("fell" in said) == (high < 0)
    assert ("significantly up in 1 of 1" in said) == (holm <= 0.05)
    numbers = [float(text.replace("−", "-")) for text in re.findall(r"[−+]?\d*\.\d{3}", said)]
    if len(numbers) == 3:  # value, low and high, of the size of the change where it has a direction
        expected = [-value, -high, -low] if high < 0 else [value, low, high]
        assert numbers == pytest.approx(expected, abs=5.001e-4)


def test_claims_of_a_study(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, seeds=1, skip=[(0.1, 0, "sw")]).root)
    found = claims(settings(study)[0], difference_rows(study))
    assert [claim.title for claim in found] == [
        "SFT ε=0 against base", "SFT ε=0.1 against SFT ε=0", "SFT ε=0.1 against base",
    ]  # fmt: skip
    assert set(found[0].sentences) == {"high", "mid", "low", "all"}
    assert all(len(said) == 6 for said in found[0].sentences.values())
    assert "over 5 languages" in found[0].sentences["all"][1]
    assert "over 2 languages" in found[0].sentences["low"][1]
    # a missing member: the reason once, and no mean
    for level in ("low", "all"):
        said = found[1].sentences[level]
        assert said[0] == f"No mean: SFT ε=0.1: 1 of {2 if level == 'low' else 5} missing."
        assert len(said) == 7
        assert not re.search(r"rose|fell|change", " ".join(said))
    assert "tested" in found[1].sentences["all"][1]
    assert len(found[1].sentences["high"]) == 6
