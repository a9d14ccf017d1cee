"""Paired differences between cells of a study: what training changed, and what smoothing changed.

Both cells have answered the same items in the same bootstrap replicates, so a difference holds only what
differs. Holm's correction runs over the languages of one contrast and metric; buckets and all languages are
macro means and are not corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from analysis.inference import estimates
from analysis.inference.estimates import Estimate, holm, interval, p_value
from analysis.reading.headline import WITH_DIFFERENCES
from analysis.reading.shards import Cell, Missing, Study, Test
from analysis.results.settings import Series, settings
from analysis.results.table import Level, Row, long_table

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Contrast:
    """Two cells of one setting; differences are a - b."""

    test: Test
    a: Series
    b: Series

    @property
    def label(self) -> str:
        """`SFT ε=0.1 - SFT ε=0`."""
        return f"{self.a.label} - {self.b.label}"


@dataclass(frozen=True)
class Difference:
    """The difference of one metric."""

    value: float
    low: float | None
    """95%; None, as the p-value, where the two sides cannot be paired."""
    high: float | None
    p_value: float | None
    """Two-sided, that there is no difference."""
    holm: float | None = None
    """The p-value after Holm's correction over languages; None for buckets and all languages."""

    @property
    def is_significant(self) -> bool:
        """By the corrected p-value where there is one."""
        p = self.p_value if self.holm is None else self.holm
        return p is not None and p < SIGNIFICANT


@dataclass(frozen=True, eq=False)
class DifferenceRow:
    """A contrast over a language, a resource bucket or all languages."""

    contrast: Contrast
    level: Level
    name: str
    a: Row | None
    """None where the cell was not planned in this language."""
    b: Row | None
    missing: Missing | None
    """Why there are no differences."""
    differences: Mapping[str, Difference]
    """By metric; empty where they are missing."""


def paired(value: float, estimate: Estimate | None) -> Difference:
    """A difference with what its paired replicates say."""
    if estimate is None:
        return Difference(value, None, None, None)
    return Difference(value, *interval(estimate), p_value(estimate))


def corrected(
    by_language: Mapping[str, Mapping[str, Difference]], metrics: Sequence[str]
) -> dict[str, dict[str, Difference]]:
    """With Holm's correction over the languages. A language without a difference counts as a test."""
    result: dict[str, dict[str, Difference]] = {language: {} for language in by_language}
    for metric in metrics:
        of_metric = {language: differences.get(metric) for language, differences in by_language.items()}
        p_values = holm({language: d.p_value if d else None for language, d in of_metric.items()})
        for language, difference in of_metric.items():
            if difference is not None:
                result[language][metric] = replace(difference, holm=p_values[language])
    return result


def contrasts(study: Study) -> list[Contrast]:
    """The contrasts of each setting, in the order of the settings and without doubles.

    In each setting: the first trained cell against the base model; every smoothing factor against the least;
    and the most against the base model.
    """
    distinct: dict[tuple[Test, Cell, Cell], Contrast] = {}
    for setting in settings(study):
        base = [item for item in setting.series if item.cell.is_base]
        trained = [item for item in setting.series if not item.cell.is_base]
        smoothed = sorted(
            (item for item in trained if item.cell.get("label_smoothing") is not None), key=_smoothing
        )
        pairs = [(trained[0], base[0])] if base and trained else []
        pairs += [(item, smoothed[0]) for item in smoothed[1:]]
        pairs += [(smoothed[-1], base[0])] if base and smoothed else []
        for a, b in pairs:
            distinct.setdefault((setting.test, a.cell, b.cell), Contrast(setting.test, a, b))
    return list(distinct.values())


def _smoothing(item: Series) -> float:
    return float(item.cell.get("label_smoothing"))


@lru_cache(maxsize=2)
def difference_rows(study: Study) -> tuple[DifferenceRow, ...]:
    """All differences, by contrast, then level, then name; kept, since every view of a study has them.

    All shards of a language asked the same items: `load_study` refuses others.
    """
    return tuple(row for contrast in contrasts(study) for row in _rows(study, contrast))


def _rows(study: Study, contrast: Contrast) -> list[DifferenceRow]:
    table, cells = long_table(study), (contrast.a.cell, contrast.b.cell)
    rows = []
    for level, name in table.places(contrast.test, cells):
        a, b = (table.row(contrast.test, cell, name) for cell in cells)
        missing = _why_missing(contrast, a, b)
        differences = difference_of_rows(a, b) if a and b and missing is None else {}
        rows.append(DifferenceRow(contrast, level, name, a, b, missing, differences))
    languages = {row.name: row.differences for row in rows if row.level == "language"}
    holm_corrected = corrected(languages, [metric.name for metric in WITH_DIFFERENCES])
    return [
        replace(row, differences=holm_corrected[row.name]) if row.level == "language" else row for row in rows
    ]


def difference_of_rows(a: Row, b: Row) -> dict[str, Difference]:
    """a - b for each metric; neither is missing."""
    differences = {}
    for metric in WITH_DIFFERENCES:
        ours, theirs = a.estimate(metric.name), b.estimate(metric.name)
        values = a.value(metric.name), b.value(metric.name)
        if ours is not None and theirs is not None and values[0] is not None and values[1] is not None:
            differences[metric.name] = paired(values[0] - values[1], estimates.difference(ours, theirs))
    return differences


def _why_missing(contrast: Contrast, a: Row | None, b: Row | None) -> Missing | None:
    """`SFT ε=0.1: 1 of 3 missing`; missing too where the other side has other languages."""
    reasons = [
        f"{item.label}: {'not planned' if side is None else side.missing}"
        for item, side in ((contrast.a, a), (contrast.b, b))
        if side is None or side.missing
    ]
    if not reasons and a and b:
        languages = {shard.language for shard in a.shards} ^ {shard.language for shard in b.shards}
        if languages:
            reasons.append(f"only one has {', '.join(sorted(languages))}")
    return Missing("incomplete", "; ".join(reasons)) if reasons else None
