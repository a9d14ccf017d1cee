"""What the differences say, in sentences: `Confidence (raw) rose by .210 [.190, .229] over 13 languages`.

A sentence never says more than its interval: one that holds 0 is no rise and no fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.inference.estimates import difference, interval
from analysis.reading.shards import BUCKETS, Cell, Study
from analysis.results.aggregate import summarise
from analysis.results.differences import DifferenceRow, difference_rows
from analysis.results.labels import Setting, bucket_of

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


def claims(study: Study, setting: Setting) -> list[Claim]:
    """The claims of a setting, in the order of its contrasts. Levels without a language are left out."""
    cells = {item.cell for item in setting.series}
    by_contrast: dict[tuple[Cell, Cell], list[DifferenceRow]] = {}
    for row in difference_rows(study):
        contrast = row.contrast
        if contrast.test == setting.test and {contrast.a, contrast.b} <= cells:
            by_contrast.setdefault((contrast.a, contrast.b), []).append(row)
    found = []
    for (a, b), rows in by_contrast.items():
        title = rows[0].contrast.label.replace(" - ", " against ")
        sentences = {level: _sentences(study, rows, level) for level in LEVELS}
        found.append(Claim(title, a, b, {level: said for level, said in sentences.items() if said}))
    return found


def findings(study: Study, setting: Setting) -> list[str]:
    """What changed between the cells of a setting, over all languages that were asked, in sentences."""
    return [
        f"{claim.title}: {sentence}"
        for claim in claims(study, setting)
        for sentence in claim.sentences.get("all", ())
    ]


def _sentences(study: Study, rows: Sequence[DifferenceRow], level: str) -> list[str]:
    said: list[str] = []
    biased: set[str] = set()
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
            row = whole[0]
            if row.missing is not None:
                if not said:
                    said.append(f"No mean {_over(len(members))} ({row.missing}).")
                row = _over_common(study, row, members)
            said.append(sentence(row, members))
            biased |= _bias(row)
    if biased:
        said.append(
            f"The bins of an ECE bias its change, here {' and '.join(sorted(biased))}; the interval is "
            "without that bias, so it need not hold the value."
        )
    return said


def _over_common(study: Study, whole: DifferenceRow, members: Sequence[DifferenceRow]) -> DifferenceRow:
    """The difference of the means over the languages that both cells have; `whole` where there is none."""
    contrast, common = whole.contrast, {row.name for row in members if row.value is not None}
    a, b = (
        [shard for shard in study.select(contrast.test, cell) if shard.language in common]
        for cell in (contrast.a, contrast.b)
    )
    if not common:
        return whole
    one, other = summarise(a), summarise(b)
    ours, theirs = one.estimate(whole.metric), other.estimate(whole.metric)
    assert ours is not None  # as the other: a language with a value has all of its shards
    assert theirs is not None
    paired = difference(ours, theirs)
    low, high = interval(paired)
    return replace(whole, value=paired.value, low=low, high=high)


def _bias(row: DifferenceRow) -> set[str]:
    """Where a value lies beyond its interval: which way its bins bias the change."""
    if not row.metric.startswith("ece") or row.value is None or row.low is None or row.high is None:
        return set()
    return {"downward"} if row.value < row.low else {"upward"} if row.value > row.high else set()


def sentence(whole: DifferenceRow, members: Sequence[DifferenceRow]) -> str:
    """One metric: the change of the macro mean, then in how many languages it is significant, and which way.

    whole: where it says that something is missing, over the members that have a value. members: the languages
    of the mean.
    """
    name = NAMES[whole.metric]
    over = _over(len(members))
    if whole.missing is not None:
        over = _over(sum(row.value is not None for row in members), "the ") + " that both have"
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


def _over(count: int, which: str = "") -> str:
    """`over 42 languages`; `which`: `the `."""
    return f"over {which}{count} languages" if count != 1 else f"in {which}{count} language"


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
        text = f"no significant change in any {of}"
    return f"{text} (Holm, {_text(ALPHA, digits=2)})"


def _text(value: float, *, sign: bool = False, digits: int = 3) -> str:
    """`.210`, `-.004`, `+.031`: no 0 before the point, and no minus before .000."""
    text = f"{value:{'+' if sign else ''}z.{digits}f}"
    text = text.replace("0.", ".", 1) if abs(value) < 1.0 and "0." in text[:3] else text
    return text.replace("-", "−").replace("+.000", ".000")
