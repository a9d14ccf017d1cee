"""What people read: names of languages and buckets, headings of columns, and numbers as text.

Headings of metrics are in `analysis/reading/headline.py`, labels of axes in `study/axes.py`.
"""

from __future__ import annotations

from study.languages import LANGUAGES

SECTIONS = {"all": "Per model", "bucket": "Per resource bucket", "language": "Per language"}
"""The sections of a table for people, by the level of their rows."""


def language_name(code: str) -> str:
    """`Chinese (Simplified)`; empty for a language that is not in the project's table."""
    return LANGUAGES[code].name if code in LANGUAGES else ""


def language_text(code: str) -> str:
    """`Swahili (sw)`."""
    return f"{language_name(code)} ({code})" if code in LANGUAGES else code


def language_title(code: str) -> str:
    """Short enough for a narrow panel: `Chinese`, not `Chinese (Simplified)`."""
    return language_name(code).split(" (")[0] or code


def group_title(name: str) -> str:
    """`All languages`, `High resource`, `Other`."""
    if name == "all":
        return "All languages"
    return name.capitalize() if name == "other" else f"{name.capitalize()} resource"


def short(value: float, *, digits: int = 3) -> str:
    """A share in four characters, `.123`, `1.00`, and below 0 in five, `-.012`; with other digits in others."""
    text = f"{value:z.{digits}f}"
    sign, size = text[: text.startswith("-")], text.removeprefix("-")
    return sign + (size[1:] if size.startswith("0") else size[: digits + 1])


def signed(value: float) -> str:
    """A difference, of shares in five characters: `+.012`."""
    text = f"{value:+z.3f}"
    return text[0] + text[2:] if text[1] == "0" else text[:5]


def decimal(value: float, *, sign: bool = False, digits: int = 3) -> str:
    """`.210`, `\N{MINUS SIGN}.004`, `+.031`: no 0 before the point, and no sign before .000."""
    text = f"{value:{'+' if sign else ''}z.{digits}f}"
    text = text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
    return text.replace("-", "\N{MINUS SIGN}").replace("+.000", ".000")


def crop(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
