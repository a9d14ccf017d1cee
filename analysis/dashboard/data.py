"""All that the dashboard draws, as one compact JSON value from which the page makes its figures and tables.

`results[test][cell]` has the rows of the long table, by language, with their bins, and by bucket and `all`.
Numbers have six decimals; tables/ has them in full.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from analysis.reading.headline import HEADLINE, IN_TABLES, METRICS, Metric, has
from analysis.reading.scored import CONFIDENCES
from analysis.reading.shards import BUCKETS, Cell, Shard, Study, Test, bucket_of
from analysis.results.claims import claims
from analysis.results.names import group_title, language_text
from analysis.results.settings import COMPARED, Setting, settings, varied_axes
from analysis.results.table import LongTable, Row, long_table
from study.axes import NAMED_ALONE, axis_label, axis_text, axis_title, value_text
from study.bins import NUM_BINS, Bins, merge_bins
from study.languages import LANGUAGES

NUMERIC = ("learning_rate", "label_smoothing")
"""Axes on which the page draws responses."""
VALUES = tuple(
    name
    for metric in METRICS
    if metric in IN_TABLES
    for name in (metric.name, metric.floor_name)
    if name == metric.name or metric.has_floor
)
"""The order of `values` and `ranges` in a row."""


def to_json(value: Any) -> str:
    """JSON for a script element. A `<` in a text could end the element, so it is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def page_data(study: Study) -> dict[str, Any]:
    """The page's data."""
    all_settings, tests, cells = settings(study), study.tests(), study.groups()
    all_choices = choices(study, all_settings)
    place = {cell: number for number, cell in enumerate(cells)}
    return {
        "num_bins": NUM_BINS,
        "confidences": CONFIDENCES,
        "metrics": VALUES,
        "squared": [metric.name for metric in METRICS if metric.is_squared],
        "lacks": [[metric.name for metric in HEADLINE if not has(test[2], metric)] for test in tests],
        "headlines": [_described(metric) for metric in HEADLINE],
        "columns": columns(),
        "languages": {code: _language(code) for code in study.languages()},
        "buckets": {bucket: group_title(bucket) for bucket in BUCKETS},
        "axes": [[axis, axis_title(axis).capitalize()] for axis in all_choices[0]],
        "numeric": {axis: {"label": axis_label(axis), "title": axis_title(axis)} for axis in NUMERIC},
        "cells": [
            {
                "base": cell.is_base,
                "axes": {
                    axis: {"value": value, "text": value_text(value)}
                    for axis in NUMERIC
                    if (value := cell.get(axis)) is not None
                },
            }
            for cell in cells
        ],
        "settings": [
            {
                "test": tests.index(setting.test),
                "choice": choice,
                "apart": _apart(study, choice),
                "series": [[place[item.cell], item.label] for item in setting.series],
                "claims": [
                    {
                        "title": claim.title,
                        "a": place[claim.contrast.a.cell],
                        "b": place[claim.contrast.b.cell],
                        "levels": claim.sentences,
                    }
                    for claim in claims(study, setting)
                ],
            }
            for setting, choice in zip(all_settings, all_choices, strict=True)
        ],
        "results": [
            {
                place[cell]: _results(long_table(study), test, cell)
                for cell in cells
                if study.select(test, cell)
            }
            for test in tests
        ],
    }


def _described(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "title": metric.long_heading,
        "confidence": metric.confidence,
        "ends": [end if math.isfinite(end) else None for end in metric.ends],
        "squared": metric.is_squared,
    }


def columns() -> list[tuple[str, str]]:
    """The columns of the page's table: metrics and floors with their headings."""
    pairs = []
    for metric in IN_TABLES:
        pairs.append((metric.name, metric.heading[0].upper() + metric.heading[1:]))
        pairs += [(metric.floor_name, "floor")] if metric.has_floor else []
    return pairs


def choices(study: Study, all_settings: Sequence[Setting]) -> list[dict[str, str]]:
    """What each setting is chosen by: model, dataset, benchmark and the other axes that vary, as texts.

    All have the same keys. No two settings have the same texts.
    """
    trained = [cell for cell in study.groups() if not cell.is_base]
    axes = ["model", *(["dataset"] if any(cell.get("dataset") is not None for cell in trained) else [])]
    more = [axis for axis in varied_axes(trained) if axis not in (*axes, *COMPARED)]
    cells = [
        next((item.cell for item in setting.series if not item.cell.is_base), setting.series[0].cell)
        for setting in all_settings
    ]
    texts: dict[str, list[str]] = {}
    for axis in (*axes, *more):
        values = [cell.get(axis) for cell in cells]
        brief = ["none" if value is None else value_text(value) for value in values]
        # two models of one name in different folders: then their full paths
        is_clear = len(set(brief)) == len({str(value) for value in values})
        texts[axis] = brief if is_clear else ["none" if value is None else str(value) for value in values]
    for number, setting in enumerate(all_settings):
        if len(setting.series) > 1 and all(item.cell.is_base for item in setting.series):
            texts["model"][number] = "base models"
    tests = study.tests()
    parts = [i for i in range(len(tests[0])) if i == 0 or len({test[i] for test in tests}) > 1]
    texts["benchmark"] = [" · ".join(setting.test[i] for i in parts) for setting in all_settings]
    order = [*axes, "benchmark", *more]
    return [{axis: texts[axis][number] for axis in order} for number in range(len(all_settings))]


def _apart(study: Study, choice: dict[str, str]) -> str:
    """What sets a setting apart from others of its model and benchmark: `alpaca · lr=1e-05`."""
    trained = [cell for cell in study.groups() if not cell.is_base]
    return " · ".join(
        choice[axis] if axis in NAMED_ALONE else f"{axis_label(axis)}={choice[axis]}"
        for axis in varied_axes(trained)
        if axis in choice and axis != "model"
    )


def _language(code: str) -> dict[str, str]:
    script = LANGUAGES[code].script if code in LANGUAGES else "other"
    return {"name": language_text(code), "bucket": bucket_of(code), "script": script}


def _results(table: LongTable, test: Test, cell: Cell) -> dict[str, Any]:
    rows = [row for _, name in table.places(test, [cell]) if (row := table.row(test, cell, name))]
    return {
        "languages": {row.name: _language_row(row) for row in rows if row.level == "language"},
        "groups": {row.name: _numbers(row) for row in rows if row.level != "language"},
    }


def _language_row(row: Row) -> dict[str, Any]:
    done = {} if row.metrics else {"done": len(row.shards) - row.num_missing}
    return {**_numbers(row), "jobs": row.job_ids, **done, "bins": _pooled_bins(row.shards)}


def _numbers(row: Row) -> dict[str, Any]:
    if row.metrics is None:
        return {"seeds": row.num_seeds, "missing": str(row.missing)}
    values: list[float | None] = []
    ranges: list[list[float | None] | None] = []
    for metric in METRICS:
        if metric in IN_TABLES:
            number = row[metric.name]
            values.append(_rounded(number.value))
            ranges.append(None if number.low is None else [_rounded(number.low), _rounded(number.high)])
            if metric.has_floor:
                values.append(_rounded(number.floor))
                ranges.append(None)
    return {"n": row.n, "seeds": row.num_seeds, "values": values, "ranges": ranges}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _pooled_bins(shards: Sequence[Shard]) -> dict[str, list[float]]:
    """The bins of the seeds that are there, by kind; four numbers for each filled bin, in one flat list."""
    several = [shard.bins for shard in shards if shard.bins is not None]
    return {
        kind: _flat(merge_bins([bins[kind] for bins in several])) if several else [] for kind in CONFIDENCES
    }


def _flat(bins: Bins) -> list[float]:
    """For each filled bin its number, its predictions, the correct ones and the mean confidence."""
    flat: list[float] = []
    for number in bins.filled.nonzero()[0].tolist():
        count = int(bins.count[number])
        correct = round(float(bins.accuracy[number]) * count)
        flat += [number, count, correct, round(float(bins.confidence[number]), 6)]
    return flat


def missing_rows(study: Study) -> list[dict[str, str]]:
    """Cell, language, reason and job of each missing shard."""
    return [
        {
            "cell": " · ".join(axis_text(axis, value) for axis, value in shard.cell.axes),
            "language": language_text(shard.language),
            "reason": str(shard.missing),
            "job_id": shard.job_id,
        }
        for shard in study.missing
    ]
