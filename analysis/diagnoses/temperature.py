"""tables/temperature.*: what one number T would have done, beside what label smoothing does.

T is fitted on the validation split of the benchmark where the study evaluates one, else cross-fitted on the
test split; `fitted_on` says which. Where the validation split is planned and not there, T is missing: it is
not fitted on something else instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from analysis.diagnoses.rows import Row, by_group, finished, named, with_macro
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
from analysis.reading.shards import BUCKETS, Study
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
    "language: after it, with one T for all languages, that of English for all, one for each. All are macro "
    "means over languages, of several seeds their mean; T is a geometric mean; 0.01 and 100 are the "
    "ends of the range. To read beside each other: "
    "smoothing without scaling, and no smoothing with it. A dash is missing; why, temperature.csv says."
)


def temperature_rows(here: CellRecords, validation: CellRecords | None, axes: Sequence[str]) -> Iterator[Row]:
    """Of each scheme the languages of one cell, its buckets, and all.

    validation: the same cell on the validation split, None where the study evaluates none.
    """
    for scheme in SCHEMES:
        scaled, reasons = _scaled(here, validation, scheme)
        rows = []
        for language, shard in here.shards.items():
            row = {
                **named(here.test, here.cell, axes),
                "scheme": scheme,
                "fitted_on": CROSS_FITTED if validation is None else validation.test[1],
                "level": "language",
                "name": language,
                "average": "none",
            }
            numbers: Row | str = reasons.get(language, "")
            if language in scaled:
                numbers = _numbers(here.answers[language], scaled[language])
            source = validation or here
            used = [
                source.shards[code] for code in _fits_on(scheme, language, source) if code in source.shards
            ]
            rows.append(finished(row, numbers, COLUMNS, [shard.job_id, *(one.job_id for one in used)]))
        yield from with_macro(rows, COLUMNS)


def _fits_on(scheme: Scheme, language: str, source: CellRecords) -> list[str]:
    """The languages whose examples make T for a language."""
    return {"global": list(source.shards), "english": ["en"], "per_language": [language]}[scheme]


def _scaled(
    here: CellRecords, validation: CellRecords | None, scheme: Scheme
) -> tuple[dict[str, Scaled], dict[str, str]]:
    """Each language after scaling, or the reason why not."""
    source = validation or here
    place = "" if validation is None else f"{validation.test[1]} split: "
    found: dict[str, Scaled] = {}
    reasons = {code: str(here.shards[code].missing) for code in here.missing}
    together = [[code] for code in here.answers] if scheme == "per_language" else [list(here.answers)]
    for group in filter(None, together):
        needed = _fits_on(scheme, group[0], source)
        lacking = [code for code in needed if code not in source.answers]
        if lacking:
            which = lacking[0] if len(lacking) == 1 else f"{len(lacking)} of {len(needed)} languages"
            reasons.update(dict.fromkeys(group, f"{place}no records of {which} to fit on"))
            continue
        test = {code: here.answers[code].sample for code in group}
        try:
            if validation is None:
                found |= cross_fitted(test, scheme)
            else:
                fitted_on = {code: validation.answers[code].sample for code in needed}
                found |= validated(test, fitted_on, scheme)
        except NotFittedError as error:
            reasons.update(dict.fromkeys(group, f"{place}{error}"))
    return found, reasons


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
"""Of the tables for people."""


def comparisons(
    study: Study, rows: Sequence[Row], levels: Sequence[str] = (*BUCKETS, "all")
) -> Iterator[tuple[str, list[list[str]]]]:
    """For people: a title, and a line for each bucket and cell, under HEADER, for each setting."""
    groups = by_group(rows, axis_names(study))
    for setting in settings(study):
        lines = []
        for level in levels:
            for item in setting.series:
                found = [row for row in groups.get((setting.test, item.cell), ()) if row["name"] == level]
                if found:
                    of_scheme = {row["scheme"]: row for row in found}
                    lines.append([level, item.label, *_line([of_scheme[scheme] for scheme in SCHEMES])])
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
    """A table for each setting; the rows have the numbers of temperature.csv."""
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
