"""What the differences say, in sentences: `Confidence (raw) rose by .210 [.190, .229] over 13 languages`.

A sentence never says more than its interval: where that holds 0, nothing rose or fell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.reading.headline import CLAIMED, Metric, has
from analysis.reading.shards import BUCKETS, Study, bucket_of
from analysis.results.contrasts import Contrast
from analysis.results.differences import (
    SIGNIFICANT,
    Difference,
    DifferenceRow,
    difference_of_rows,
    difference_rows,
)
from analysis.results.names import decimal
from analysis.results.settings import Setting
from analysis.results.table import summarise

MEANS = ("all", *BUCKETS)
ONE_SEED = (
    "One training seed: this compares two checkpoints, not two methods. Another seed may change as much."
)


@dataclass(frozen=True)
class Claim:
    """What is said of one contrast, a - b."""

    contrast: Contrast
    sentences: Mapping[str, list[str]]
    """By bucket, and `all`: a sentence for each metric."""

    @property
    def title(self) -> str:
        return f"{self.contrast.a.label} against {self.contrast.b.label}"


def claims(study: Study, setting: Setting) -> list[Claim]:
    """The claims of a setting, in the order of its contrasts. Buckets without a language are left out."""
    cells = {item.cell for item in setting.series}
    by_contrast: dict[Contrast, list[DifferenceRow]] = {}
    for row in difference_rows(study):
        if row.contrast.test == setting.test and {row.contrast.a.cell, row.contrast.b.cell} <= cells:
            by_contrast.setdefault(row.contrast, []).append(row)
    return [
        Claim(contrast, {row.name: _sentences(study, row, rows) for row in rows if row.name in MEANS})
        for contrast, rows in by_contrast.items()
    ]


def findings(study: Study, setting: Setting) -> list[str]:
    """What changed between the cells of a setting, over all languages that were asked, in sentences."""
    return [
        f"{claim.title}: {sentence}"
        for claim in claims(study, setting)
        for sentence in claim.sentences.get("all", ())
    ]


def _sentences(study: Study, mean: DifferenceRow, rows: Sequence[DifferenceRow]) -> list[str]:
    """mean: over a bucket or all languages. rows: of the same contrast."""
    members = [row for row in rows if row.level == "language" and mean.name in ("all", bucket_of(row.name))]
    said, differences, over = [], mean.differences, _over(len(members))
    if mean.missing is not None:
        said.append(f"No mean {over} ({mean.missing}).")
        common = [row.name for row in members if row.missing is None]
        differences = _over_common(study, mean.contrast, common)
        over = _over(len(common), "the ") + " that both have"
    protocol = mean.contrast.test[2]
    for metric in CLAIMED:
        if not has(protocol, metric):
            continue
        change, each = differences.get(metric.name), [row.differences.get(metric.name) for row in members]
        said.append(sentence(_called(metric, protocol), change, over, each))
    return [*said, ONE_SEED] if has_one_seed(mean) else said


def _called(metric: Metric, protocol: str) -> Metric:
    """Under option_text raw confidence is called what it is."""
    per_token = protocol == "option_text" and metric.confidence == "raw"
    return replace(metric, confidence="per token of the answer") if per_token else metric


def has_one_seed(row: DifferenceRow) -> bool:
    """Whether a trained side of a contrast has one training seed, so that nothing says how seeds differ."""
    return any(side is not None and not side.cell.is_base and side.num_seeds == 1 for side in (row.a, row.b))


def _over_common(study: Study, contrast: Contrast, languages: Sequence[str]) -> Mapping[str, Difference]:
    """The differences of the means over these languages, which both cells have; empty without any."""
    if not languages:
        return {}
    a, b = (
        summarise([s for s in study.select(contrast.test, item.cell) if s.language in languages])
        for item in (contrast.a, contrast.b)
    )
    return difference_of_rows(a, b, paired_seeds=contrast.shares_data_order)


def sentence(
    metric: Metric, change: Difference | None, over: str, languages: Sequence[Difference | None]
) -> str:
    """One metric: the change of the macro mean, then in how many languages it is significant, and which way.

    change: None where there is no mean. over: the languages of the mean, `over 3 languages`. languages: the
    difference in each, None where it is missing.
    """
    name, counts = metric.subject, _counts(languages)
    if change is None:
        return f"{name}: {counts}."
    value, low, high = change.value, change.low, change.high
    if value == 0.0 and (low, high) == (0.0, 0.0):
        start = f"{name} did not change {over}"
    elif low is None or high is None:
        start = f"{name} changed by {decimal(value, sign=True)} {over}, without an interval"
    elif low > 0.0:
        start = f"{name} rose by {decimal(value)} [{decimal(low)}, {decimal(high)}] {over}"
    elif high < 0.0:
        start = f"{name} fell by {decimal(-value)} [{decimal(-high)}, {decimal(-low)}] {over}"
    else:
        ends = f"[{decimal(low)}, {decimal(high)}]"
        start = f"{name} did not clearly change {over}: {decimal(value, sign=True)} {ends}"
    return f"{start}; {counts}."


def _over(count: int, which: str = "") -> str:
    """`over 42 languages`; `which`: `the `."""
    return f"over {which}{count} languages" if count != 1 else f"in {which}{count} language"


def _counts(languages: Sequence[Difference | None]) -> str:
    """`significantly up in 12 of 13, down in none (Holm, .05)`; a missing language was not tested."""
    tested = [change for change in languages if change is not None and change.holm is not None]
    if not tested:
        return "no language could be tested"
    significant = [change for change in tested if change.is_significant]
    up = sum(change.low is not None and change.low > 0.0 for change in significant)
    down = sum(change.high is not None and change.high < 0.0 for change in significant)
    of = f"of {len(tested)}" + (" tested" if len(tested) < len(languages) else "")
    if up and down:
        text = f"significantly up in {up} and down in {down} {of}"
    elif up or down:
        text = f"significantly {'up' if up else 'down'} in {up or down} {of}"
    else:
        text = f"no significant change in any {of}"
    return f"{text} (Holm, {decimal(SIGNIFICANT, digits=2)})"
