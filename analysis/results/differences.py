"""Paired differences between cells of a study: what training changed, and what smoothing changed.

Both sides have answered the same items in the same bootstrap replicates, so a difference holds only what
differs. Holm's correction runs over the languages of one contrast and metric; buckets and all languages are
macro means and stand by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from analysis.inference.estimates import difference, holm, interval, p_value
from analysis.reading.shards import BUCKETS, Cell, Shard, Study, Test
from analysis.results.aggregate import Summary, summarise
from analysis.results.labels import Series, settings

METRICS = (
    "accuracy",
    "confidence_raw",
    "confidence_renormalised",
    "ece_raw",
    "ece_renormalised",
    "nll",
)


@dataclass(frozen=True)
class Contrast:
    """Two cells of one setting; differences are a - b."""

    test: Test
    label: str
    """`SFT smoothing=0.1 - SFT smoothing=0`."""
    a: Cell
    """Without its seed, as b."""
    b: Cell


@dataclass(frozen=True)
class DifferenceRow:
    """A contrast and metric x (a language | a resource bucket | all languages)."""

    contrast: Contrast
    level: str
    name: str
    metric: str
    value: float | None
    """a - b, as the calibration table has both."""
    low: float | None
    high: float | None
    """95%, as the value None where something is missing."""
    p_value: float | None
    """Two-sided, that there is no difference."""
    holm: float | None
    """The same after Holm's correction over languages; None for buckets and all languages."""
    missing: str | None
    """Why there is no difference; None when there is."""
    n: int | None
    """Examples, of one seed; over several languages their sum."""
    num_seeds: int
    """Of a; a base model has one."""
    job_ids_a: tuple[str, ...]
    job_ids_b: tuple[str, ...]
    record_hash_a: str | None
    """Of the records of each side, as the calibration table has it; None of a side that is missing."""
    record_hash_b: str | None


def contrasts(study: Study) -> list[Contrast]:
    """What is set against what, in the order of the settings and without doubles.

    In each setting: the first trained cell against the base model; every smoothing factor against the least;
    and the most against the base model.
    """
    found: dict[tuple[Test, Cell, Cell], Contrast] = {}
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
            label = f"{a.label} - {b.label}"
            found.setdefault((setting.test, a.cell, b.cell), Contrast(setting.test, label, a.cell, b.cell))
    return list(found.values())


def _smoothing(item: Series) -> float:
    return float(item.cell.get("label_smoothing"))


def difference_rows(study: Study) -> list[DifferenceRow]:
    """All differences, by contrast, then level, then name, then metric.

    Raises ValueError where two cells did not answer the same items (`load_study` refuses such shards).
    """
    return list(_difference_rows(study))


@lru_cache(maxsize=2)
def _difference_rows(study: Study) -> tuple[DifferenceRow, ...]:
    # kept, as tables, dashboard and figures all want them
    return tuple(row for contrast in contrasts(study) for row in _rows(study, contrast))


def _rows(study: Study, contrast: Contrast) -> Iterator[DifferenceRow]:
    cells = (contrast.a, contrast.b)
    a, b = (study.select(contrast.test, cell) for cell in cells)
    require_same_items(a, b)
    groups = [
        ("language", code, [study.select(contrast.test, cell, code) for cell in cells])
        for code in study.languages()
    ]
    for bucket in BUCKETS:
        groups.append(("bucket", bucket, [[shard for shard in s if shard.bucket == bucket] for s in (a, b)]))
    groups.append(("all", "all", [a, b]))
    rows = [
        row
        for level, name, sides in groups
        if any(sides)
        for row in _of_group(contrast, level, name, *(summarise(side) if side else None for side in sides))
    ]
    corrected = {
        metric: holm(
            {row.name: row.p_value for row in rows if row.metric == metric and row.level == "language"}
        )
        for metric in METRICS
    }
    for row in rows:
        yield replace(row, holm=corrected[row.metric][row.name]) if row.level == "language" else row


def require_same_items(a: Sequence[Shard], b: Sequence[Shard]) -> None:
    """Raises ValueError where shards of one language asked other items: their difference says nothing."""
    asked: dict[str, Shard] = {}
    for shard in (*a, *b):
        if shard.items is not None:
            other = asked.setdefault(shard.language, shard)
            if other.items != shard.items:
                raise ValueError(
                    f"jobs {other.job_id} and {shard.job_id} asked other items in {shard.language}, so there "
                    "is no difference between their cells."
                )


def _of_group(
    contrast: Contrast, level: str, name: str, one: Summary | None, other: Summary | None
) -> Iterator[DifferenceRow]:
    """A row for each metric."""
    missing = _why_missing(contrast, one, other)
    for metric in METRICS:
        row = DifferenceRow(
            contrast=contrast,
            level=level,
            name=name,
            metric=metric,
            value=None,
            low=None,
            high=None,
            p_value=None,
            holm=None,
            missing=missing,
            n=None,
            num_seeds=one.num_seeds if one else 0,
            job_ids_a=tuple(one.job_ids if one else ()),
            job_ids_b=tuple(other.job_ids if other else ()),
            record_hash_a=one.record_hash if one else None,
            record_hash_b=other.record_hash if other else None,
        )
        if missing is None:
            assert one is not None  # as the other: neither is missing
            assert other is not None
            row = _with_numbers(row, one, other)
        yield row


def _with_numbers(row: DifferenceRow, one: Summary, other: Summary) -> DifferenceRow:
    assert one.metrics is not None
    assert other.metrics is not None
    ours, theirs = one.estimate(row.metric), other.estimate(row.metric)
    assert ours is not None  # each of METRICS has an estimate
    assert theirs is not None
    paired = difference(ours, theirs)
    low, high = interval(paired)
    return replace(
        row,
        value=getattr(one.metrics, row.metric) - getattr(other.metrics, row.metric),
        low=low,
        high=high,
        p_value=p_value(paired),
        n=one.metrics.n,
    )


def _why_missing(contrast: Contrast, one: Summary | None, other: Summary | None) -> str | None:
    """`SFT smoothing=0.1: 1 of 3 missing`; missing too where the other side has other languages."""
    names = contrast.label.split(" - ")
    reasons = [
        f"{name}: {'not planned' if side is None else side.missing}"
        for name, side in zip(names, (one, other), strict=True)
        if side is None or side.missing
    ]
    if not reasons and one is not None and other is not None:
        languages = [{shard.language for shard in side.shards} for side in (one, other)]
        if languages[0] != languages[1]:
            reasons.append(f"only one has {', '.join(sorted(languages[0] ^ languages[1]))}")
    return "; ".join(reasons) or None
