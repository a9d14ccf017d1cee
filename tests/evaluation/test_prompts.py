"""Prompts, byte by byte against a file: a changed space is a changed result."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.prompts import continuation, letter_prompt, letters, option_text_prompt

GOLDEN = Path(__file__).parent / "fixtures" / "prompts.golden.txt"


def test_prompts_are_the_golden_ones() -> None:
    kenya = "Mji mkuu wa Kenya ni upi?\n"
    numbers = "4 6 8 9 10 12 14 15 16 17".split()
    prompts = {
        "letter, 4 options, the question ends in a line break": letter_prompt(
            kenya, ["Nairobi", "Kampala", "Dodoma", "Kigali"]
        ),
        "letter, 2 options": letter_prompt("二加三等于几？", ["四", "五"]),
        "letter, 10 options": letter_prompt("Which is prime?", numbers),
        "option text": option_text_prompt(kenya),
    }
    text = "".join(f"=== {title}\n{prompt}\n" for title, prompt in prompts.items())
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_an_answer_follows_after_one_space() -> None:
    assert continuation("A") == " A"
    assert continuation("Nairobi") == " Nairobi"


@pytest.mark.parametrize("num_options", range(2, 11))
def test_letters(num_options: int) -> None:
    assert letters(num_options) == "ABCDEFGHIJ"[:num_options]
