"""The dashboard's figures as plain dicts of plotly.js (data, layout); nothing here draws or imports plotly.

Colours are names, `@ink` or `@s0`, that the page replaces by those of its light or dark style.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from analysis.aggregate import Shard, Study, Summary, summarise
from analysis.labels import Series, Setting
from study.languages import LANGUAGES

Figure = dict[str, Any]

SYMBOLS = ("circle-open", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "x")
NUM_COLOURS = len(SYMBOLS)
ROW_PX = 24
LEVELS = (
    ("accuracy", "Accuracy"),
    ("confidence_raw", "Confidence, raw"),
    ("confidence_renormalised", "Confidence, renormalised"),
)
ERRORS = (("ece_raw", "ECE, raw"), ("ece_renormalised", "ECE, renormalised"))


def level_figure(study: Study, setting: Setting) -> Figure:
    """Accuracy and confidence per language: a marker for each cell, a line from the first to the last."""
    return _by_language(study, setting, LEVELS, floors=False)


def error_figure(study: Study, setting: Setting) -> Figure:
    """ECE per language; ticks mark the ECE that a perfectly calibrated model would show."""
    return _by_language(study, setting, ERRORS, floors=True)


def _by_language(
    study: Study, setting: Setting, panels: Sequence[tuple[str, str]], *, floors: bool
) -> Figure:
    rows = _rows(study, setting)
    summaries = {
        (item.label, code): summarise(shards)
        for item in setting.series
        for code in rows
        if (shards := study.select(setting.test, item.cell, code))
    }
    data: list[Figure] = []
    for number, (metric, title) in enumerate(panels, start=1):
        place = {"xaxis": f"x{number}", "yaxis": "y"}
        data.append(_connectors(rows, setting, summaries, metric) | place)
        for index, item in enumerate(setting.series):
            found = [
                (code, summary)
                for code in rows
                if (summary := summaries.get((item.label, code))) is not None and summary.metrics is not None
            ]
            marker = {"symbol": SYMBOLS[index % NUM_COLOURS], "size": 9, "color": colour(index)}
            if index == 0:
                marker["line"] = {"width": 2}
            data.append(
                place
                | {
                    "type": "scatter",
                    "mode": "markers",
                    "name": escape(item.label),
                    "legendgroup": item.label,
                    "showlegend": number == 1,
                    "marker": marker,
                    "x": [getattr(summary.metrics, metric) for _, summary in found],
                    "y": [rows[code] for code, _ in found],
                    "text": [_hover(code, item, summary, metric, title) for code, summary in found],
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
            if floors:
                floor = metric.replace("ece", "ece_floor")
                data.append(
                    place
                    | {
                        "type": "scatter",
                        "mode": "markers",
                        "showlegend": False,
                        "legendgroup": item.label,
                        "hoverinfo": "skip",
                        "marker": {
                            "symbol": "line-ns",
                            "size": 9,
                            "line": {"width": 1.5, "color": colour(index)},
                        },
                        "x": [getattr(summary.metrics, floor) for _, summary in found],
                        "y": [rows[code] for code, _ in found],
                    }
                )
    largest = max(
        (max(trace["x"]) for trace in data if trace["mode"] == "markers" and trace["x"]), default=1.0
    )
    limit = 1.0 if not floors else min(1.0, largest * 1.08)
    return {"data": data, "layout": _language_layout(rows, panels, limit)}


def _rows(study: Study, setting: Setting) -> dict[str, float]:
    """Each language's height in the figure, the richest on top, half a row between buckets."""
    present = {shard.language for item in setting.series for shard in study.select(setting.test, item.cell)}
    ordered = [code for code in study.languages() if code in present]
    heights: dict[str, float] = {}
    height = 0.0
    for previous, code in pairwise([None, *ordered]):
        if previous is not None and bucket_of(previous) != bucket_of(str(code)):
            height -= 0.5
        height -= 1.0
        heights[str(code)] = height
    return heights


def _connectors(
    rows: dict[str, float], setting: Setting, summaries: dict[tuple[str, str], Summary], metric: str
) -> Figure:
    """One grey line a language, from its least to its largest value; None breaks the line."""
    x: list[float | None] = []
    y: list[float | None] = []
    for code, height in rows.items():
        values = [
            getattr(summary.metrics, metric)
            for item in setting.series
            if (summary := summaries.get((item.label, code))) is not None and summary.metrics is not None
        ]
        if values:
            x += [min(values), max(values), None]
            y += [height, height, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": "@line", "width": 2},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _language_layout(rows: dict[str, float], panels: Sequence[tuple[str, str]], limit: float) -> Figure:
    gap = 0.04
    width = (1.0 - gap * (len(panels) - 1)) / len(panels)
    bottom = min(rows.values(), default=0.0) - 0.7
    layout: Figure = base_layout(height=125 + round(ROW_PX * -bottom))
    longest = max((len(language_text(code)) for code in rows), default=0)
    layout["margin"] = {"l": 20 + 8 * longest, "r": 110, "t": 70, "b": 40}
    layout["yaxis"] = {
        "range": [bottom, -0.3],
        "tickvals": list(rows.values()),
        "ticktext": [escape(language_text(code)) for code in rows],
        "zeroline": False,
        "fixedrange": True,
        "gridcolor": "@grid",
        "ticks": "",
    }
    layout["annotations"] = []
    for number, (_, title) in enumerate(panels, start=1):
        left = (number - 1) * (width + gap)
        layout[f"xaxis{number}"] = {
            "domain": [left, left + width],
            "range": [0, limit],
            "gridcolor": "@grid",
            "zeroline": False,
            "tickformat": "~g",
            "dtick": 0.25 if limit > 0.8 else 0.1 if limit > 0.25 else 0.05,
            "anchor": "y",
            "fixedrange": True,
        }
        layout["annotations"].append(panel_title(title, left + width / 2))
    layout["shapes"] = []
    for bucket in dict.fromkeys(bucket_of(code) for code in rows):
        heights = [height for code, height in rows.items() if bucket_of(code) == bucket]
        layout["annotations"].append(
            {
                "text": bucket if bucket == "other" else f"{bucket} resource",
                "xref": "paper",
                "x": 1.0,
                "xanchor": "left",
                "xshift": 8,
                "yref": "y",
                "y": max(heights),
                "showarrow": False,
                "font": {"color": "@muted", "size": 13},
            }
        )
        if max(heights) < -1.0:  # not the first
            edge = max(heights) + 0.75
            layout["shapes"].append(line("paper", (0, 1), "y", (edge, edge)))
    return layout


def _hover(code: str, item: Series, summary: Summary, metric: str, title: str) -> str:
    value = getattr(summary.metrics, metric)
    n = summary.metrics.n if summary.metrics else 0
    lines = [
        f"<b>{escape(language_text(code))}</b> · {escape(item.label)}",
        f"{title}: {value:.3f}",
        f"n = {n}",
    ]
    if summary.num_seeds > 1:
        lines.append("seeds: " + ", ".join(_seed_text(shard, metric) for shard in summary.shards))
    return "<br>".join([*lines, *(f"job {job_id}" for job_id in summary.job_ids)])


def _seed_text(shard: Shard, metric: str) -> str:
    return f"{getattr(shard.metrics, metric):.3f}" if shard.metrics else "missing"


def base_layout(height: int) -> Figure:
    """What all figures share. height: px."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "@ink", "size": 13, "family": "system-ui, sans-serif"},
        "hoverlabel": {
            "bgcolor": "@panel",
            "bordercolor": "@line",
            "font": {"color": "@ink"},
            "align": "left",
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "top",
            "yref": "container",
        },
        "hovermode": "closest",
        "dragmode": False,
    }


def panel_title(text: str, x: float) -> Figure:
    """A heading above the panel whose middle lies at `x`, 0..1 of the figure."""
    return {
        "text": f"<b>{text}</b>",
        "xref": "paper",
        "yref": "paper",
        "x": x,
        "xanchor": "center",
        "y": 1.0,
        "yanchor": "bottom",
        "yshift": 6,
        "showarrow": False,
    }


def line(
    xref: str, x: tuple[float, float], yref: str, y: tuple[float, float], *, dash: str = "solid"
) -> Figure:
    """A thin straight line behind the data."""
    style = {"color": "@line", "width": 1, "dash": dash}
    return {
        "type": "line", "xref": xref, "x0": x[0], "x1": x[1], "yref": yref, "y0": y[0], "y1": y[1],
        "layer": "below", "line": style,
    }  # fmt: skip


def colour(index: int) -> str:
    """The name of a series' colour; they repeat after eight."""
    return f"@s{index % NUM_COLOURS}"


def bucket_of(code: str) -> str:
    """The resource bucket of a language, `other` where the project's table lacks it."""
    return LANGUAGES[code].bucket if code in LANGUAGES else "other"


def language_text(code: str) -> str:
    """`Swahili (sw)`."""
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else code
