"""All that the dashboard draws, as one compact JSON value: the page makes its figures and tables from it.

`results[test][cell]` has a row for each language, with its bins, and one for each bucket and for all
languages: the latter two come from here with their intervals, which the page could not compute. Numbers have
six decimals; tables/ has them in full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from analysis.reading.measure import CONFIDENCES, METRIC_NAMES
from analysis.reading.shards import BUCKETS, Cell, Shard, Study, Test
from analysis.results.aggregate import Summary, summarise
from analysis.results.claims import claims
from analysis.results.labels import COMPARED, Setting, bucket_of, language_text, settings, varied_axes
from study.axes import axis_text, value_text
from study.bins import NUM_BINS, Bins, merge_bins
from study.languages import LANGUAGES

METRICS = tuple(name for name in METRIC_NAMES if name not in ("n", "chance", "gap_raw", "gap_renormalised"))
AXIS_NAMES = {"learning_rate": "learning rate", "label_smoothing": "label smoothing"}
NUMERIC = ("learning_rate", "label_smoothing")
"""Axes that the page draws a response to."""

HEADLINES = (
    ("accuracy", "Accuracy"),
    ("confidence_raw", "Confidence, raw"),
    ("confidence_renormalised", "Confidence, renormalised"),
    ("ece_raw", "ECE, raw"),
    ("ece_renormalised", "ECE, renormalised"),
)
COLUMNS = (
    ("accuracy", "Accuracy"),
    ("confidence_raw", "Conf. raw"),
    ("confidence_renormalised", "Conf. ren."),
    ("ece_raw", "ECE raw"),
    ("ece_floor_raw", "floor"),
    ("ece_renormalised", "ECE ren."),
    ("ece_floor_renormalised", "floor"),
    ("nll", "NLL"),
    ("brier", "Brier"),
    ("option_mass", "Mass"),
)
"""Of the table: a metric, and its heading."""


def to_json(value: Any) -> str:
    """For a script element: a `<` in a text could end it, so none is written."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def page_data(study: Study) -> dict[str, Any]:
    """The page's data."""
    found, tests, cells = settings(study), study.tests(), study.groups()
    chosen = choices(study, found)
    place = {cell: number for number, cell in enumerate(cells)}
    return {
        "num_bins": NUM_BINS,
        "metrics": METRICS,
        "headlines": HEADLINES,
        "columns": COLUMNS,
        "languages": {code: _language(code) for code in study.languages()},
        "axes": [[axis, AXIS_NAMES.get(axis, axis).capitalize()] for axis in chosen[0]],
        "cells": [
            {
                "base": cell.is_base,
                "axes": {axis: cell.get(axis) for axis in NUMERIC if cell.get(axis) is not None},
            }
            for cell in cells
        ],
        "settings": [
            {
                "test": tests.index(setting.test),
                "choice": choice,
                "series": [[place[item.cell], item.label] for item in setting.series],
                "claims": [
                    {
                        "title": claim.title,
                        "a": place[claim.a],
                        "b": place[claim.b],
                        "levels": claim.sentences,
                    }
                    for claim in claims(study, setting)
                ],
            }
            for setting, choice in zip(found, chosen, strict=True)
        ],
        "results": [
            {place[cell]: _results(study, test, cell) for cell in cells if study.select(test, cell)}
            for test in tests
        ],
    }


def choices(study: Study, found: Sequence[Setting]) -> list[dict[str, str]]:
    """What each setting is chosen by: model, dataset, benchmark and the other axes that vary, as texts.

    All have the same keys. No two settings have the same texts.
    """
    trained = [cell for cell in study.groups() if not cell.is_base]
    axes = ["model", *(["dataset"] if any(cell.get("dataset") is not None for cell in trained) else [])]
    more = [axis for axis in varied_axes(trained) if axis not in (*axes, *COMPARED)]
    of_setting = [
        next((item.cell for item in setting.series if not item.cell.is_base), setting.series[0].cell)
        for setting in found
    ]
    texts: dict[str, list[str]] = {}
    for axis in (*axes, *more):
        values = [cell.get(axis) for cell in of_setting]
        brief = [_brief(value) for value in values]
        # two models of one name in different folders: then by the whole of it
        is_clear = len(set(brief)) == len({str(value) for value in values})
        texts[axis] = brief if is_clear else ["none" if value is None else str(value) for value in values]
    for number, setting in enumerate(found):
        if len(setting.series) > 1 and all(item.cell.is_base for item in setting.series):
            texts["model"][number] = "base models"
    tests = study.tests()
    parts = [i for i in range(len(tests[0])) if i == 0 or len({test[i] for test in tests}) > 1]
    texts["benchmark"] = [" · ".join(setting.test[i] for i in parts) for setting in found]
    order = [*axes, "benchmark", *more]
    return [{axis: texts[axis][number] for axis in order} for number in range(len(found))]


def _brief(value: Any) -> str:
    return "none" if value is None else value_text(value)


def _language(code: str) -> dict[str, str]:
    script = LANGUAGES[code].script if code in LANGUAGES else "other"
    return {"name": language_text(code), "bucket": bucket_of(code), "script": script}


def _results(study: Study, test: Test, cell: Cell) -> dict[str, Any]:
    shards = study.select(test, cell)
    groups = {
        bucket: members for bucket in BUCKETS if (members := [s for s in shards if s.bucket == bucket])
    } | {"all": shards}
    return {
        "languages": {
            code: _row(members) | _bins(members)
            for code in study.languages()
            if (members := study.select(test, cell, code))
        },
        "groups": {name: _numbers(summarise(members)) for name, members in groups.items()},
    }


def _row(shards: Sequence[Shard]) -> dict[str, Any]:
    summary = summarise(shards)
    row = _numbers(summary) | {"jobs": summary.job_ids}
    return row if summary.metrics else row | {"done": len(shards) - summary.num_missing}


def _numbers(summary: Summary) -> dict[str, Any]:
    if summary.metrics is None:
        return {"seeds": summary.num_seeds, "missing": str(summary.missing)}
    return {
        "n": summary.metrics.n,
        "seeds": summary.num_seeds,
        "values": [_rounded(getattr(summary.metrics, metric)) for metric in METRICS],
        "ranges": [_range(summary, metric) for metric in METRICS],
    }


def _range(summary: Summary, metric: str) -> list[float | None] | None:
    found = summary.interval(metric)
    return None if found is None else [_rounded(end) for end in found]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _bins(shards: Sequence[Shard]) -> dict[str, Any]:
    """Of the seeds that are there, pooled; of each filled bin four numbers in one flat list, by kind."""
    found = [shard.bins for shard in shards if shard.bins is not None]
    return {
        "bins": {
            kind: _flat(merge_bins([bins[kind] for bins in found])) if found else [] for kind in CONFIDENCES
        }
    }


def _flat(bins: Bins) -> list[float]:
    """Number of the bin, predictions, correct ones, mean confidence; of each bin that holds any."""
    flat: list[float] = []
    for number in bins.filled.nonzero()[0].tolist():
        count = int(bins.count[number])
        correct = round(float(bins.accuracy[number]) * count)
        flat += [number, count, correct, round(float(bins.confidence[number]), 6)]
    return flat


def missing_rows(study: Study) -> list[dict[str, str]]:
    """What is missing: cell, language, reason and job of each shard."""
    return [
        {
            "cell": " · ".join(axis_text(axis, value) for axis, value in shard.cell.axes),
            "language": language_text(shard.language),
            "reason": str(shard.missing),
            "job_id": shard.job_id,
        }
        for shard in study.missing
    ]
