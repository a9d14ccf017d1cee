"""tables/multiverse.csv and .md: does the sign of a contrast depend on how calibration error is estimated?

An ECE has choices that no theory makes: how many bins, of equal width or equal mass, or a kernel in place of
bins, and which confidence. Here each contrast is computed again under all of them (a "multiverse analysis":
Steegen et al. 2016). The estimators share their data, so that many agree is no evidence of its own; that one
disagrees shows what a finding hangs on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.diagnoses.rows import Row, by_group
from analysis.reading.headline import L2_ECE
from analysis.reading.scored import CONFIDENCES
from analysis.reading.shards import Study
from analysis.results.contrasts import Contrast
from analysis.results.differences import DifferenceRow, difference_rows
from analysis.results.settings import axis_names
from analysis.tables.calibration import BINS
from study.bins import NUM_BINS

MORE_BINS = (10, 20, 100)
"""Numbers of bins beside the default of 15."""
WIDTH, MASS = "equal_width", "equal_mass"
ESTIMATORS: Mapping[str, tuple[int | None, str | None]] = {
    "ece": (NUM_BINS, WIDTH),
    **{f"ece_{number}": (number, WIDTH) for number in MORE_BINS},
    "ace": (NUM_BINS, MASS),
    **{f"ace_{number}": (number, MASS) for number in MORE_BINS},
    "smooth_ece": (None, None),
    "debiased_l2": (NUM_BINS, WIDTH),
}
"""The columns of metrics.csv that estimate a calibration error -> number of bins and scheme, if any."""
TITLES = {"smooth_ece": "smooth", "debiased_l2": "L2 without bias"}
HEADLINE = L2_ECE["renormalised"]
HEADER = ("contrast", "languages", f"{HEADLINE.heading} [95%]", "same sign", "the others")


def multiverse_rows(study: Study, metrics: Sequence[Row]) -> list[Row]:
    """A row for each contrast, mean over languages, confidence and estimator. metrics: of metrics.csv."""
    groups = by_group(metrics, axis_names(study))
    rows = []
    for difference in _means(study):
        contrast = difference.contrast
        headline = difference.differences[HEADLINE.name]
        sides = [groups.get((contrast.test, side.cell), []) for side in (contrast.a, contrast.b)]
        for kind in CONFIDENCES:
            keys = (difference.level, difference.name, kind)
            a, b = (
                next((row for row in side if (row["level"], row["name"], row["confidence"]) == keys), None)
                for side in sides
            )
            if a is None or b is None:
                continue
            for estimator, (num_bins, scheme) in ESTIMATORS.items():
                values = a[estimator], b[estimator]
                missing = a["missing"] or b["missing"] or (None if None not in values else "not defined")
                change = None if missing else values[0] - values[1]
                rows.append(
                    {
                        **dict(zip(("benchmark", "split", "protocol"), contrast.test, strict=True)),
                        "contrast": contrast.label,
                        "level": difference.level,
                        "name": difference.name,
                        "confidence": _kind(contrast, kind),
                        "estimator": estimator,
                        "missing": missing,
                        "change": change,
                        "has_sign_of_headline": None if change is None else change * headline.value > 0.0,
                        "headline": HEADLINE.name,
                        "headline_change": headline.value,
                        "headline_low": headline.low,
                        "headline_high": headline.high,
                        "num_bins": num_bins,
                        "bin_scheme": scheme,
                        "bin_edges": BINS["bin_edges"] if num_bins else None,
                        "job_ids": list(dict.fromkeys([*a["job_ids"], *b["job_ids"]])),
                    }
                )
    return rows


def _means(study: Study) -> Iterator[DifferenceRow]:
    """The contrasts over buckets and all languages whose headline has a change."""
    for row in difference_rows(study):
        if row.level != "language" and HEADLINE.name in row.differences:
            yield row


def _kind(contrast: Contrast, kind: str) -> str:
    """The kind of confidence; raw confidence under option_text is that of an average token."""
    return "per_token" if kind == "raw" and contrast.test[2] == "option_text" else kind


def to_markdown(study: Study, rows: Sequence[Row]) -> str:
    """For each contrast: how many estimators have the headline's sign, and what the others show."""
    lines = [
        f"# {study.name}: does the sign hold under other estimators of calibration error?",
        "",
        f"Each contrast is computed with {len(ESTIMATORS)} estimators ({'; '.join(map(_title, ESTIMATORS))}) "
        f"for each kind of confidence. The headline is the {HEADLINE.subject}; where its interval holds 0, "
        "its sign is undecided. Under option_text, raw confidence is that of an average token. The "
        "estimators share their data: that they agree is no further evidence, that one disagrees shows what "
        "a finding hangs on. multiverse.csv has every number.",
        "",
    ]
    tests: dict[tuple[Any, ...], list[list[str]]] = {}
    for group in _by_contrast(rows):
        first = group[0]
        tests.setdefault((first["benchmark"], first["split"], first["protocol"]), []).append(_line(group))
    for test, body in tests.items():
        lines += [f"## {' '.join(test)}", "", _pipes(HEADER), "| :-- | :-- | --: | --: | :-- |"]
        lines += [*map(_pipes, body), ""]
    return "\n".join(lines)


def _by_contrast(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("benchmark", "split", "protocol", "contrast", "level", "name"))
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _line(group: Sequence[Row]) -> list[str]:
    first = group[0]
    headline = f"{first['headline_change']:+.3f}"
    low, high = first["headline_low"], first["headline_high"]
    if low is not None and high is not None:
        headline += f" [{low:+.3f}, {high:+.3f}]" + (" undecided" if low <= 0.0 <= high else "")
    known = [row for row in group if row["change"] is not None]
    others = [row for row in known if not row["has_sign_of_headline"]]
    texts = [
        f"{_title(row['estimator'])}, {_words(row['confidence'])}: {row['change']:+.3f}" for row in others
    ]
    undefined = len(group) - len(known)
    texts += [f"{undefined} not defined"] if undefined else []
    return [
        first["contrast"],
        first["name"],
        headline,
        f"{len(known) - len(others)} of {len(known)}",
        "; ".join(texts) or "-",
    ]


def _title(estimator: str) -> str:
    """`10 bins of equal mass`."""
    num_bins, scheme = ESTIMATORS[estimator]
    return TITLES.get(estimator) or f"{num_bins} bins of {_words(scheme)}"


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _pipes(fields: Sequence[str]) -> str:
    return "| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |"
