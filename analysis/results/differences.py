"""Paired differences between cells of a study: what training changed, and what smoothing changed.

Both cells have answered the same items in the same bootstrap replicates, so a difference holds only what
differs. Holm's correction runs over the languages of one contrast and metric; buckets and all languages are
macro means and are not corrected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from analysis.inference.changes import (
    Change,
    change,
    equivalence_p,
    false_discovery,
    holm,
    interaction,
)
from analysis.reading.headline import WITH_DIFFERENCES
from analysis.reading.shards import Missing, Study
from analysis.results.contrasts import Contrast, contrasts
from analysis.results.table import Level, Row, long_table, summarise
from study.jobs.contrasts import EQUIVALENCE_MARGIN

SIGNIFICANT = 0.05
APART = ("low", "high")
"""Resource buckets whose changes are compared with each other."""


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
    false_discovery: float | None = None
    """The p-value adjusted over all tests of the study (Benjamini and Hochberg)."""
    equivalence: float | None = None
    """The p-value of two one-sided tests that the difference is at least the study's margin, either way."""
    standard_error: float | None = None
    degrees_of_freedom: float | None = None
    seed_share: float | None = None
    """The share of the squared standard error that comes from training seeds."""
    language_sd: float | None = None
    """The standard deviation of the differences over the languages of a mean, noise included."""

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


def has_seeds(row: DifferenceRow) -> bool:
    """Whether both sides have several training seeds."""
    return all(side is not None and side.num_seeds > 1 for side in (row.a, row.b))


def inferred(value: float, of_value: Change | None, margin: float = EQUIVALENCE_MARGIN) -> Difference:
    """A difference with what its paired replicates say."""
    if of_value is None:
        return Difference(value, None, None, None)
    equivalence = equivalence_p(of_value.estimate, margin)
    return Difference(
        of_value.value,
        of_value.low,
        of_value.high,
        of_value.p_value,
        equivalence=equivalence,
        standard_error=of_value.error,
        degrees_of_freedom=of_value.freedom if math.isfinite(of_value.freedom) else None,
        seed_share=of_value.seed_share,
    )


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


@lru_cache(maxsize=2)
def difference_rows(study: Study) -> tuple[DifferenceRow, ...]:
    """All differences, by contrast, then level, then name; kept, since every view of a study has them.

    All shards of a language asked the same items: `load_study` refuses others.
    """
    rows = [row for contrast in contrasts(study) for row in _rows(study, contrast)]
    adjusted = iter(false_discovery([d.p_value for row in rows for d in row.differences.values()]))
    return tuple(
        replace(
            row,
            differences={
                metric: replace(difference, false_discovery=next(adjusted))
                for metric, difference in row.differences.items()
            },
        )
        for row in rows
    )


def _rows(study: Study, contrast: Contrast) -> list[DifferenceRow]:
    table, cells = long_table(study), (contrast.a.cell, contrast.b.cell)
    rows = []
    for level, name in table.places(contrast.test, cells):
        a, b = (table.row(contrast.test, cell, name) for cell in cells)
        missing = _why_missing(contrast, a, b)
        differences = {}
        if a and b and missing is None:
            differences = difference_of_rows(
                a, b, paired_seeds=contrast.shares_data_order, margin=study.equivalence_margin
            )
        rows.append(DifferenceRow(contrast, level, name, a, b, missing, differences))
    languages = {row.name: row.differences for row in rows if row.level == "language"}
    rows = [_with_language_sd(row, languages) for row in rows]
    rows += _interactions(study, contrast, rows)
    holm_corrected = corrected(languages, [metric.name for metric in WITH_DIFFERENCES])
    return [
        replace(row, differences=holm_corrected[row.name]) if row.level == "language" else row for row in rows
    ]


def _with_language_sd(row: DifferenceRow, languages: Mapping[str, Mapping[str, Difference]]) -> DifferenceRow:
    if row.level == "language" or row.a is None:
        return row
    members = [languages[code] for code in dict.fromkeys(shard.language for shard in row.a.shards)]
    differences = {}
    for metric, difference in row.differences.items():
        values = [of_language[metric].value for of_language in members if metric in of_language]
        spread = float(np.std(values, ddof=1)) if len(values) == len(members) > 1 else None
        differences[metric] = replace(difference, language_sd=spread)
    return replace(row, differences=differences)


def _interactions(study: Study, contrast: Contrast, rows: Sequence[DifferenceRow]) -> list[DifferenceRow]:
    """One row: how much more changed in low-resource languages than in high-resource ones."""
    by_name = {row.name: row for row in rows if row.level == "bucket"}
    first, second = (by_name.get(bucket) for bucket in APART)
    if first is None or second is None:
        return []
    sides = [(first.a, second.a), (first.b, second.b)]
    missing = first.missing or second.missing
    differences: dict[str, Difference] = {}
    for metric in WITH_DIFFERENCES:
        estimates = [[row.estimate(metric.name) if row else None for row in side] for side in sides]
        (a, a_other), (b, b_other) = estimates
        if metric.is_squared or missing or a is None or a_other is None or b is None or b_other is None:
            continue
        more = interaction((a, a_other), (b, b_other), paired_seeds=contrast.shares_data_order)
        differences[metric.name] = inferred(more.value, more, study.equivalence_margin)
    whole = [summarise([*one.shards, *other.shards]) if one and other else None for one, other in sides]
    name = " - ".join(APART)
    return [DifferenceRow(contrast, "bucket", name, whole[0], whole[1], missing, differences)]


def difference_of_rows(
    a: Row, b: Row, *, paired_seeds: bool, margin: float = EQUIVALENCE_MARGIN
) -> dict[str, Difference]:
    """a - b for each metric; neither is missing. paired_seeds: see `analysis.inference.changes`."""
    differences = {}
    for metric in WITH_DIFFERENCES:
        ours, theirs = a.estimate(metric.name), b.estimate(metric.name)
        values = a.value(metric.name), b.value(metric.name)
        if values[0] is not None and values[1] is not None:
            of_value = change(ours, theirs, paired_seeds=paired_seeds) if ours and theirs else None
            differences[metric.name] = inferred(values[0] - values[1], of_value, margin)
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
