"""tables/temperature.*: what temperature scaling, one number T, would have done in place of label smoothing.

T is fitted on the validation split of the benchmark if the study evaluates one, else cross-fitted on the test
split; `fitted_on` says which. If the validation split is planned and its records are missing, so is T: it is
not fitted on something else instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from analysis.diagnoses.rows import Row, Table, by_group, language_rows, with_macro
from analysis.metrics import floor_over_bins
from analysis.metrics.temperature import (
    NUM_FOLDS,
    SCHEMES,
    NotFittedError,
    Scaled,
    Scheme,
    cross_fitted,
    validated,
)
from analysis.reading.cell_records import Answers, CellRecords
from analysis.reading.shards import BUCKETS, Shard, Study
from analysis.results.settings import axis_names, settings
from study.bins import bin_predictions, error_over_bins

COLUMNS = (
    "temperature",
    "n",
    "accuracy",
    "confidence_before",
    "confidence_after",
    "ece_before",
    "ece_after",
    "ece_floor_after",
    "nll_before",
    "nll_after",
)
CROSS_FITTED = f"test split, cross-fitted in {NUM_FOLDS} folds"
NOTE = (
    "Confidence here is renormalised over the options: temperature scaling has no raw one. ECE in 15 bins of "
    "equal width, (lo, hi]; NLL in nats over the options. as is: without scaling. global, English, per "
    "language: after scaling with one T for all languages, with the T of English, with one T for each. All "
    "numbers are macro means over languages, then means over seeds (for T, geometric means); the range of T "
    "is 0.01 to 100. Compare smoothing without scaling with no smoothing after scaling. A dash is a missing "
    "number; temperature.csv says why."
)


def temperature_rows(records: CellRecords) -> Iterator[Row]:
    """For each scheme the languages of one cell, its buckets, and all."""
    source = records.validation or records
    for scheme in SCHEMES:
        fitted_on = CROSS_FITTED if records.validation is None else source.test[1]
        keys = {"scheme": scheme, "fitted_on": fitted_on}
        numbers = _numbers_of(records, scheme).__getitem__
        rows = language_rows(records, keys, numbers, partial(_fitting_shards, source, scheme))
        yield from with_macro(rows, COLUMNS)


def _fits_on(source: CellRecords, scheme: Scheme, language: str) -> list[str]:
    """The languages on whose examples T is fitted for a language."""
    return {"global": list(source.shards), "english": ["en"], "per_language": [language]}[scheme]


def _fitting_shards(source: CellRecords, scheme: Scheme, language: str) -> list[Shard]:
    return [source.shards[code] for code in _fits_on(source, scheme, language) if code in source.shards]


def _numbers_of(records: CellRecords, scheme: Scheme) -> dict[str, Row | str]:
    """For each language with records its numbers before and after scaling, or why there are none."""
    source = records.validation or records
    place = "" if records.validation is None else f"{source.test[1]} split: "
    together = [[code] for code in records.answers] if scheme == "per_language" else [list(records.answers)]
    numbers: dict[str, Row | str] = {}
    for group in filter(None, together):
        needed = _fits_on(source, scheme, group[0])
        lacking = [code for code in needed if code not in source.answers]
        if lacking:
            which = lacking[0] if len(lacking) == 1 else f"{len(lacking)} of {len(needed)} languages"
            numbers |= dict.fromkeys(group, f"{place}no records of {which} to fit on")
            continue
        samples = {code: records.answers[code].sample for code in group}
        try:
            if records.validation is None:
                scaled = cross_fitted(samples, scheme)
            else:
                scaled = validated(samples, {code: source.answers[code].sample for code in needed}, scheme)
        except NotFittedError as error:
            numbers |= dict.fromkeys(group, f"{place}{error}")
        else:
            numbers |= {code: _numbers(records.answers[code], scaled[code]) for code in group}
    return numbers


def _numbers(answers: Answers, scaled: Scaled) -> Row:
    correct, label = answers.examples.correct, answers.scored.label
    row: Row = {"temperature": scaled.temperature, "n": len(correct), "accuracy": float(np.mean(correct))}
    for when, log_probs in (("before", answers.examples.log_probs), ("after", scaled.log_probs)):
        confidence = np.exp(log_probs.max(axis=1))
        bins = bin_predictions(confidence, correct)
        row |= {
            f"confidence_{when}": float(np.mean(confidence)),
            f"ece_{when}": error_over_bins(bins),
            f"ece_floor_{when}": floor_over_bins(bins),
            f"nll_{when}": float(-np.mean(log_probs[np.arange(len(label)), label])),
        }
    return row


HEADER = (
    "languages",
    "cell",
    *(
        f"{metric} {when}"
        for metric in ("ECE", "NLL")
        for when in ("as is", "global", "English", "per lang.")
    ),
    "T global",
    "T English",
)
"""The columns of `comparisons`."""


def comparisons(
    study: Study, rows: Sequence[Row], levels: Sequence[str] = (*BUCKETS, "all")
) -> Iterator[tuple[str, list[list[str]]]]:
    """For each setting a title, and a line under HEADER for each bucket and cell."""
    groups = by_group(rows, axis_names(study))
    for setting in settings(study):
        lines = []
        for level in levels:
            for item in setting.series:
                of_cell = groups.get((setting.test, item.cell), ())
                by_scheme = {row["scheme"]: row for row in of_cell if row["name"] == level}
                if by_scheme:
                    lines.append([level, item.label, *_line([by_scheme[scheme] for scheme in SCHEMES])])
        if lines:
            yield setting.label, lines


def _line(schemes: Sequence[Row]) -> list[str]:
    numbers: list[float | None] = []
    for metric in ("ece", "nll"):
        before = [row[f"{metric}_before"] for row in schemes]
        numbers.append(next((number for number in before if number is not None), None))
        numbers += [row[f"{metric}_after"] for row in schemes]
    numbers += [row["temperature"] for row in schemes[:2]]
    return ["-" if number is None else f"{number:.3f}" for number in numbers]


def to_markdown(study: Study, rows: Sequence[Row]) -> str:
    """A Markdown table for each setting, from the rows of temperature.csv."""
    fitted = " and ".join(dict.fromkeys(str(row["fitted_on"]) for row in rows))
    lines = [
        f"# {study.name}: temperature scaling and label smoothing",
        "",
        f"{NOTE} T is fitted on: {fitted}.",
        "",
    ]
    for title, body in comparisons(study, rows):
        lines += [f"## {title}", ""] if title else []
        lines += [_pipes(HEADER), _pipes([":--"] * 2 + ["--:"] * (len(HEADER) - 2))]
        lines += [*map(_pipes, body), ""]
    return "\n".join(lines)


def _pipes(fields: Sequence[str]) -> str:
    return "| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |"


TABLE = Table(
    "temperature",
    ("scheme", "fitted_on", "level", "name", "average"),
    COLUMNS,
    temperature_rows,
    over_seeds=True,
    to_markdown=to_markdown,
    note=NOTE,
)
