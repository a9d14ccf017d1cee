"""tables/temperature.*: what temperature scaling, one number T, would have done in place of label smoothing.

T is fitted on the validation split of the benchmark if the study evaluates one, else cross-fitted on the test
split; `fitted_on` says which. If the validation split is planned and its records are missing, so is T: it is
not fitted on something else instead.

Beside it stands T from the base model, without labels, for each trained cell whose base the study evaluates:
see `analysis.metrics.temperature`. It is fitted on the test items themselves, since no label enters.
`agreeing` counts the items of a row's languages on which both agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from analysis.diagnoses.rows import Row, Table, by_group, language_rows, with_macro
from analysis.inference.clustered import macro_interval
from analysis.metrics import floor_over_bins
from analysis.metrics.temperature import (
    MIN_AGREEING,
    NUM_FOLDS,
    SCHEMES,
    NotFittedError,
    Scaled,
    Scheme,
    agreement,
    cross_fitted,
    label_free,
    scaled_log_probs,
    validated,
)
from analysis.reading.cell_records import BASE, Answers, CellRecords, paired_rows
from analysis.reading.shards import BUCKETS, Shard, Study, bucket_of
from analysis.results.settings import axis_names, settings
from study.bins import FloatArray, bin_predictions, error_over_bins

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
    "nll_change",
    "nll_change_low",
    "nll_change_high",
    "ece_change",
    "agreeing",
    "temperature_label_free",
    "ece_after_label_free",
    "base_ece",
    "base_ece_floor",
    "label_free_missing",
)
IS_BASE, NO_BASE = "is a base model", "the study does not evaluate its base"
NLL_CHANGE = "nll_change"
CLEARLY_ABOVE = 2.0
"""A base whose ECE is more than so many times its floor is said not to be calibrated."""
CROSS_FITTED = f"test split, cross-fitted in {NUM_FOLDS} folds"
NOTE = (
    "Confidence here is renormalised over the options: temperature scaling has no raw one. ECE in 15 bins of "
    "equal width, (lo, hi]; NLL in nats over the options. as is: without scaling. global, English, per "
    "language: after scaling with one T for all languages, with the T of English, with one T for each. All "
    "numbers are macro means over languages, then means over seeds (for T, geometric means); the range of T "
    "is 0.01 to 100. Compare smoothing without scaling with no smoothing after scaling. Δ: after scaling "
    "minus as is; the 95% interval takes T as given, and covers the questions (drawn together over "
    "languages) and the spread over seeds. label-free: with a T fitted without labels, so that where a cell "
    f"and its base choose the same option (agreeing, {MIN_AGREEING} at least) it is as confident as the "
    "base. Items on which they differ do not enter; where these are many, this T leaves too much confidence. "
    "floor: about the ECE of a calibrated model. A dash is a missing number; temperature.csv says why."
)


def temperature_rows(records: CellRecords) -> Iterator[Row]:
    """For each scheme the languages of one cell, its buckets, and all."""
    source = records.validation or records
    base = records.before.get(BASE)
    pairs = _pairs(records, base) if base else {}
    for scheme in SCHEMES:
        fitted_on = CROSS_FITTED if records.validation is None else source.test[1]
        keys = {"scheme": scheme, "fitted_on": fitted_on}
        scaled = _scaled(records, scheme)
        free = _label_free(records, pairs, scheme)
        numbers: dict[str, Row | str] = {}
        changes: dict[str, FloatArray] = {}
        for code, result in scaled.items():
            if isinstance(result, str):
                numbers[code] = result
                continue
            answers = records.answers[code]
            changes[code] = _nll(answers, result.log_probs) - _nll(answers, answers.examples.log_probs)
            numbers[code] = {
                **_numbers(answers, result),
                NLL_CHANGE: float(np.mean(changes[code])),
                **_label_free_numbers(
                    answers, base.answers.get(code) if base else None, pairs.get(code), free[code]
                ),
            }
        used = partial(_used, records, source, scheme)
        for row in with_macro(language_rows(records, keys, numbers.__getitem__, used), COLUMNS):
            members = [code for code in records.shards if row["name"] in (code, bucket_of(code), "all")]
            yield row if row["missing"] else {**row, **_interval(records, changes, members)}


def _interval(records: CellRecords, changes: Mapping[str, FloatArray], languages: Sequence[str]) -> Row:
    """The ends of the interval of the mean change of the NLL over languages; empty for one question alone."""
    ids = [records.answers[code].scored.example_ids for code in languages]
    ends = macro_interval([changes[code] for code in languages], ids)
    return dict(zip((f"{NLL_CHANGE}_low", f"{NLL_CHANGE}_high"), ends or (None, None), strict=True))


def _used(records: CellRecords, source: CellRecords, scheme: Scheme, language: str) -> list[Shard]:
    """The shards that a row is computed from, beside its own: those T is fitted on, and those of the base."""
    base = records.before.get(BASE)
    cells = [(source, _fits_on(source, scheme, language))]
    if base:
        cells += [(cell, _fits_on(records, scheme, language)) for cell in (records, base)]
        cells += [(base, [language])]
    return [cell.shards[code] for cell, codes in cells for code in codes if code in cell.shards]


def _fits_on(source: CellRecords, scheme: Scheme, language: str) -> list[str]:
    """The languages on whose examples T is fitted for a language."""
    return {"global": list(source.shards), "english": ["en"], "per_language": [language]}[scheme]


def _fitted_together(records: CellRecords, scheme: Scheme) -> list[list[str]]:
    """The languages with records, by the temperature that they share."""
    codes = list(records.answers)
    return [[code] for code in codes] if scheme == "per_language" else [codes] if codes else []


def _lacking(needed: Sequence[str], there: Collection[str]) -> str:
    """Which of the languages that T is fitted on are not there, in words; empty if none."""
    lacking = [code for code in needed if code not in there]
    if len(lacking) > 1:
        return f"{len(lacking)} of {len(needed)} languages"
    return "".join(lacking)


def _scaled(records: CellRecords, scheme: Scheme) -> dict[str, Scaled | str]:
    """Each language with records after scaling by the label-fitted T, or why there is none."""
    source = records.validation or records
    place = "" if records.validation is None else f"{source.test[1]} split: "
    result: dict[str, Scaled | str] = {}
    for group in _fitted_together(records, scheme):
        needed = _fits_on(source, scheme, group[0])
        if which := _lacking(needed, source.answers):
            result |= dict.fromkeys(group, f"{place}no records of {which} to fit on")
            continue
        samples = {code: records.answers[code].sample for code in group}
        try:
            if records.validation is None:
                result |= cross_fitted(samples, scheme)
            else:
                result |= validated(samples, {code: source.answers[code].sample for code in needed}, scheme)
        except NotFittedError as error:
            result |= dict.fromkeys(group, f"{place}{error}")
    return result


def _pairs(records: CellRecords, base: CellRecords) -> dict[str, tuple[FloatArray, FloatArray]]:
    """The scores of a cell and of its base for the same items, for each language that both have."""
    return {
        code: (answers.scored.score, theirs.scored.score[paired_rows(answers, theirs)])
        for code, answers in records.answers.items()
        if (theirs := base.answers.get(code)) is not None
    }


def _label_free(
    records: CellRecords, pairs: Mapping[str, tuple[FloatArray, FloatArray]], scheme: Scheme
) -> dict[str, float | str]:
    """T from the base for each language with records, or why there is none."""
    if BASE not in records.before:
        return dict.fromkeys(records.answers, IS_BASE if records.cell.is_base else NO_BASE)
    result: dict[str, float | str] = {}
    for group in _fitted_together(records, scheme):
        if which := _lacking(_fits_on(records, scheme, group[0]), pairs):
            result |= dict.fromkeys(group, f"no records of {which} of the cell or its base")
            continue
        try:
            result |= label_free(pairs, group, scheme)
        except NotFittedError as error:
            result |= dict.fromkeys(group, str(error))
    return result


def _label_free_numbers(
    answers: Answers,
    base: Answers | None,
    pair: tuple[FloatArray, FloatArray] | None,
    fitted: float | str,
) -> Row:
    row: Row = {}
    if base is not None and pair is not None:
        bins = base.bins["renormalised"]
        row = {"base_ece": error_over_bins(bins), "base_ece_floor": floor_over_bins(bins)}
        with contextlib.suppress(NotFittedError):  # other options: `fitted` says so
            row["agreeing"] = int(np.count_nonzero(agreement(*pair)))
    if isinstance(fitted, str):
        return {**row, "label_free_missing": fitted}
    confidence = np.exp(scaled_log_probs(answers.scored.score, fitted).max(axis=1))
    ece = error_over_bins(bin_predictions(confidence, answers.examples.correct))
    return {**row, "temperature_label_free": fitted, "ece_after_label_free": ece}


def _nll(answers: Answers, log_probs: FloatArray) -> FloatArray:
    """(N,) nats."""
    label = answers.scored.label
    return np.asarray(-log_probs[np.arange(len(label)), label])


def _numbers(answers: Answers, scaled: Scaled) -> Row:
    correct = answers.examples.correct
    row: Row = {"temperature": scaled.temperature, "n": len(correct), "accuracy": float(np.mean(correct))}
    for when, log_probs in (("before", answers.examples.log_probs), ("after", scaled.log_probs)):
        confidence = np.exp(log_probs.max(axis=1))
        bins = bin_predictions(confidence, correct)
        row |= {
            f"confidence_{when}": float(np.mean(confidence)),
            f"ece_{when}": error_over_bins(bins),
            f"ece_floor_{when}": floor_over_bins(bins),
            f"nll_{when}": float(np.mean(_nll(answers, log_probs))),
        }
    return {**row, "ece_change": row["ece_after"] - row["ece_before"]}


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
GAINS_HEADER = (
    *("languages", "cell", "ΔNLL global", "95%", "ΔECE global", "ΔNLL per lang.", "95%", "ΔECE per lang."),
)
LABEL_FREE_HEADER = (
    *("languages", "cell", "agreeing", "T global", "ECE as is", "label-free global", "label-fitted global"),
    *("label-free per lang.", "label-fitted per lang.", "ECE of the base", "floor"),
)
Levels = Sequence[str]
Line = Callable[[Sequence[Row]], list[str] | None]
"""The numbers of a cell over some languages, from a row for each scheme; None if it has none to show."""


def comparisons(
    study: Study, rows: Sequence[Row], levels: Levels = (*BUCKETS, "all")
) -> Iterator[tuple[str, list[list[str]]]]:
    """For each setting a title, and a line under HEADER for each bucket and cell."""
    return _lines(study, rows, levels, _line)


def gains(
    study: Study, rows: Sequence[Row], levels: Levels = (*BUCKETS, "all")
) -> Iterator[tuple[str, list[list[str]]]]:
    """The same under GAINS_HEADER: what the label-fitted T changes."""
    return _lines(study, rows, levels, _gain)


def without_labels(
    study: Study, rows: Sequence[Row], levels: Levels = (*BUCKETS, "all")
) -> Iterator[tuple[str, list[list[str]]]]:
    """The same under LABEL_FREE_HEADER, for the cells whose base is there."""
    return _lines(study, rows, levels, _label_free_line)


def uncalibrated_bases(rows: Sequence[Row]) -> list[str]:
    """A sentence for each base that is not calibrated itself: in which languages, or over all of them."""
    where: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        ece, floor = row["base_ece"], row["base_ece_floor"]
        if row["level"] != "bucket" and ece is not None and ece > CLEARLY_ABOVE * floor:
            key = (str(row["model"]), f"{row['benchmark']} {row['split']}, {row['protocol']}")
            place = "all languages together" if row["level"] == "all" else row["name"]
            where.setdefault(key, {})[place] = f"{place} ({ece:.3f}, floor {floor:.3f})"
    return [
        f"The base {model} is not calibrated itself on {test} in {', '.join(places.values())}: there the "
        "label-free T copies the base's error."
        for (model, test), places in where.items()
    ]


def _lines(
    study: Study, rows: Sequence[Row], levels: Levels, line: Line
) -> Iterator[tuple[str, list[list[str]]]]:
    groups = by_group(rows, axis_names(study))
    for setting in settings(study):
        lines, has_rows = [], False
        for level in levels:
            for item in setting.series:
                of_cell = groups.get((setting.test, item.cell), ())
                by_scheme = {row["scheme"]: row for row in of_cell if row["name"] == level}
                has_rows |= bool(by_scheme)
                numbers = line([by_scheme[scheme] for scheme in SCHEMES]) if by_scheme else None
                if numbers is not None:
                    lines.append([level, item.label, *numbers])
        if has_rows:
            yield setting.label, lines


def _line(schemes: Sequence[Row]) -> list[str]:
    numbers: list[float | None] = []
    for metric in ("ece", "nll"):
        before = [row[f"{metric}_before"] for row in schemes]
        numbers.append(next((number for number in before if number is not None), None))
        numbers += [row[f"{metric}_after"] for row in schemes]
    numbers += [row["temperature"] for row in schemes[:2]]
    return [_text(number) for number in numbers]


def _gain(schemes: Sequence[Row]) -> list[str]:
    texts = []
    for row in (schemes[0], schemes[2]):
        low, high = row[f"{NLL_CHANGE}_low"], row[f"{NLL_CHANGE}_high"]
        texts += [_text(row[NLL_CHANGE], "+.3f"), "-" if low is None else f"[{low:+.3f}, {high:+.3f}]"]
        texts += [_text(row["ece_change"], "+.3f")]
    return texts


def _label_free_line(schemes: Sequence[Row]) -> list[str] | None:
    together, _, own = schemes
    if together["missing"] or together["label_free_missing"] in (IS_BASE, NO_BASE):
        return None
    numbers = [together["temperature_label_free"], together["ece_before"]]
    numbers += [row[f"ece_after{kind}"] for row in (together, own) for kind in ("_label_free", "")]
    numbers += [together["base_ece"], together["base_ece_floor"]]
    return [_text(together["agreeing"], ".0f"), *map(_text, numbers)]


def _text(number: float | None, form: str = ".3f") -> str:
    return "-" if number is None else format(number, form)


def to_markdown(study: Study, rows: Sequence[Row]) -> str:
    """A Markdown table for each setting, from the rows of temperature.csv."""
    fitted = " and ".join(dict.fromkeys(str(row["fitted_on"]) for row in rows))
    note = " ".join([f"{NOTE} T is fitted on: {fitted}.", *uncalibrated_bases(rows)])
    lines = [f"# {study.name}: temperature scaling and label smoothing", "", note, ""]
    views = zip(*(view(study, rows) for view in (comparisons, gains, without_labels)), strict=True)
    for (title, body), (_, changes), (_, free) in views:
        lines += [f"## {title}", ""] if title else []
        for header, more in ((HEADER, body), (GAINS_HEADER, changes), (LABEL_FREE_HEADER, free)):
            if more:
                lines += [_pipes(header), _pipes([":--"] * 2 + ["--:"] * (len(header) - 2))]
                lines += [*map(_pipes, more), ""]
    return "\n".join(lines)


def _pipes(fields: Sequence[str]) -> str:
    return "| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |"


TABLE = Table(
    "temperature",
    ("scheme", "fitted_on", "level", "name", "average"),
    COLUMNS,
    temperature_rows,
    over_seeds=True,
    intervals=(NLL_CHANGE,),
    to_markdown=to_markdown,
    note=NOTE,
)
