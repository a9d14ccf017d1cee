"""Numbers as text, and what languages and buckets are called."""

from __future__ import annotations

import pytest

from analysis.results.names import decimal, group_title, language_text, language_title, short, signed


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.1234, False, ".123"),
        (0.9999, False, "1.000"),
        (-0.1, True, "−.100"),
        (0.045, True, "+.045"),
        (-0.0001, True, ".000"),
        (-1.25, False, "−1.250"),
        (10.5, True, "+10.500"),
    ],
)
def test_decimals(value: float, sign: bool, text: str) -> None:
    assert decimal(value, sign=sign) == text


def test_shares_have_a_width() -> None:
    assert [short(value) for value in (0.1234, 1.0, 0.9996)] == [".123", "1.00", "1.00"]
    assert [short(value) for value in (-0.0124, -1.0, -0.0001)] == ["-.012", "-1.00", ".000"]
    assert [short(value, digits=2) for value in (-0.1234, -1.0)] == ["-.12", "-1.0"]
    assert [signed(value) for value in (0.0124, -0.5, 1.0, -0.0001)] == ["+.012", "-.500", "+1.00", "+.000"]


def test_languages_and_buckets() -> None:
    assert (language_text("sw"), language_text("xx")) == ("Swahili (sw)", "xx")
    assert (language_title("zh"), language_title("xx")) == ("Chinese", "xx")
    assert [group_title(name) for name in ("all", "high", "other")] == [
        "All languages", "High resource", "Other",
    ]  # fmt: skip
