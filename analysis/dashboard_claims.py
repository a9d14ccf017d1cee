"""What the differences say, in sentences: `Confidence (raw) rose by .210 [.190, .229] over 13 languages`.

A sentence never says more than its interval: one that holds 0 is no rise and no fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.aggregate import BUCKETS, Cell
from analysis.differences import DifferenceRow
from analysis.labels import Setting, bucket_of

ALPHA = 0.05
NAMES = {
    "accuracy": "Accuracy",
    "confidence_raw": "Confidence (raw)",
    "confidence_renormalised": "Confidence (renormalised)",
    "ece_raw": "ECE (raw)",
    "ece_renormalised": "ECE (renormalised)",
    "nll": "NLL",
}
LEVELS = (*BUCKETS, "all")


@dataclass(frozen=True)
class Claim:
    """What is said of one contrast, a - b."""

    title: str
    a: Cell
    b: Cell
    sentences: Mapping[str, list[str]]
    """By bucket, and `all`: a sentence for each metric."""


def claims(setting: Setting, differences: Sequence[DifferenceRow]) -> list[Claim]:
    """The claims of a setting, in the order of its contrasts.

    differences: of the whole study. Levels without a language are left out.
    """
    cells = {item.cell for item in setting.series}
    by_contrast: dict[tuple[Cell, Cell], list[DifferenceRow]] = {}
    for row in differences:
        contrast = row.contrast
        if contrast.test == setting.test and {contrast.a, contrast.b} <= cells:
            by_contrast.setdefault((contrast.a, contrast.b), []).append(row)
    found = []
    for (a, b), rows in by_contrast.items():
        title = rows[0].contrast.label.replace(" - ", " against ")
        sentences = {level: _sentences(rows, level) for level in LEVELS}
        found.append(Claim(title, a, b, {level: said for level, said in sentences.items() if said}))
    return found


def _sentences(rows: Sequence[DifferenceRow], level: str) -> list[str]:
    said: list[str] = []
    for metric in NAMES:
        whole = [
            row for row in rows if row.metric == metric and row.level != "language" and row.name == level
        ]
        members = [
            row
            for row in rows
            if row.metric == metric and row.level == "language" and level in ("all", bucket_of(row.name))
        ]
        if whole and members:
            if whole[0].missing is not None and not said:
                said.append(f"No mean: {whole[0].missing}.")
            said.append(sentence(whole[0], members))
    return said


def sentence(whole: DifferenceRow, members: Sequence[DifferenceRow]) -> str:
    """One metric: the change of the macro mean, then in how many languages it is significant, and which way.

    members: the languages of the mean.
    """
    name, count = NAMES[whole.metric], len(members)
    over = f"over {count} languages" if count > 1 else f"in {count} language"
    value, low, high = whole.value, whole.low, whole.high
    if value is None:
        return f"{name}: {_counts(members)}."
    if value == 0.0 and (low, high) == (0.0, 0.0):
        start = f"{name} did not change {over}"
    elif low is None or high is None:
        start = f"{name} changed by {_text(value, sign=True)} {over}, without an interval"
    elif low > 0.0 and value > 0.0:
        start = f"{name} rose by {_text(value)} [{_text(low)}, {_text(high)}] {over}"
    elif high < 0.0 and value < 0.0:
        start = f"{name} fell by {_text(-value)} [{_text(-high)}, {_text(-low)}] {over}"
    else:  # also where a binned ECE changed one way, and the ECE without its bias the other
        start = (
            f"{name} did not clearly change {over}: {_text(value, sign=True)} [{_text(low)}, {_text(high)}]"
        )
    return f"{start}; {_counts(members)}."


def _counts(members: Sequence[DifferenceRow]) -> str:
    """`significantly up in 12 of 13, down in none (Holm, .05)`; what is missing was no language tested."""
    tested = [row for row in members if row.value is not None and row.holm is not None]
    if not tested:
        return "no language could be tested"
    found = [row for row in tested if row.holm is not None and row.holm <= ALPHA]
    up = sum(row.low is not None and row.low > 0.0 for row in found)
    down = sum(row.high is not None and row.high < 0.0 for row in found)
    of = f"of {len(tested)}" + (" tested" if len(tested) < len(members) else "")
    if up and down:
        text = f"significantly up in {up} and down in {down} {of}"
    elif up or down:
        text = f"significantly {'up' if up else 'down'} in {up or down} {of}"
    else:
        text = f"significantly in none {of}"
    return f"{text} (Holm, {_text(ALPHA, digits=2)})"


def _text(value: float, *, sign: bool = False, digits: int = 3) -> str:
    """`.210`, `-.004`, `+.031`: no 0 before the point, and no minus before .000."""
    text = f"{value:{'+' if sign else ''}z.{digits}f}"
    text = text.replace("0.", ".", 1) if abs(value) < 1.0 and "0." in text[:3] else text
    return text.replace("-", "−").replace("+.000", ".000")
