"""The reliability diagrams, from the same bins as the ECE."""

from __future__ import annotations

from html import escape

from analysis.aggregate import Study
from analysis.diagrams import Figure, base_layout, colour, line, panel_title
from analysis.labels import Series, Setting
from study.bins import Bins, error_over_bins, merge_bins


def reliability_figure(study: Study, setting: Setting) -> Figure:
    """Accuracy against confidence over the ECE's own bins: a column a cell, raw above renormalised."""
    columns = len(setting.series)
    gap = 0.18 / columns
    width = (1.0 - gap * (columns - 1)) / columns
    layout = base_layout(height=600)
    layout["margin"] = {"l": 70, "r": 20, "t": 40, "b": 60}
    layout["showlegend"] = False
    layout["annotations"] = []
    layout["shapes"] = []
    data: list[Figure] = []
    for row, kind in enumerate(("raw", "renormalised")):
        low = 0.0 if row else 0.56
        for column, item in enumerate(setting.series):
            number = row * columns + column + 1
            left = column * (width + gap)
            shards = study.select(setting.test, item.cell)
            layout[f"xaxis{number}"] = _unit_axis([left, left + width], f"y{number}", f"confidence, {kind}")
            layout[f"yaxis{number}"] = _unit_axis(
                [low, low + 0.44], f"x{number}", "accuracy" if column == 0 else ""
            )
            layout["shapes"].append(line(f"x{number}", (0, 1), f"y{number}", (0, 1), dash="dot"))
            if row == 0:
                layout["annotations"].append(panel_title(escape(item.label), left + width / 2))
            found = [shard.bins[kind] for shard in shards if shard.bins is not None]
            note = f"{len(found)} of {len(shards)} shards" if len(found) < len(shards) else ""
            if found:
                bins = merge_bins(found)
                note = note or f"ECE of the pool {error_over_bins(bins):.3f}"
                data.append(
                    _reliability_trace(bins, item, column) | {"xaxis": f"x{number}", "yaxis": f"y{number}"}
                )
            layout["annotations"].append(
                {
                    "text": note,
                    "xref": f"x{number}",
                    "yref": f"y{number}",
                    "x": 0.02,
                    "y": 0.98,
                    "xanchor": "left",
                    "yanchor": "top",
                    "showarrow": False,
                    "font": {"color": "@muted", "size": 12},
                }
            )
    return {"data": data, "layout": layout}


def _reliability_trace(bins: Bins, item: Series, index: int) -> Figure:
    filled = bins.filled
    share = bins.weight[filled]
    hover = [
        f"<b>{escape(item.label)}</b><br>({lo:.3f}, {hi:.3f}]<br>confidence {conf:.3f}<br>"
        f"accuracy {acc:.3f}<br>{count} of {bins.num_examples} predictions"
        for lo, hi, conf, acc, count in zip(
            bins.lo[filled],
            bins.hi[filled],
            bins.confidence[filled],
            bins.accuracy[filled],
            bins.count[filled],
            strict=True,
        )
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(item.label),
        "x": bins.confidence[filled].tolist(),
        "y": bins.accuracy[filled].tolist(),
        "text": hover,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour(index), "width": 1},
        "cliponaxis": False,
        # area in proportion to the share of the predictions, with a floor so that none vanishes
        "marker": {
            "color": colour(index),
            "size": [max(5.0, 34.0 * s**0.5) for s in share.tolist()],
            "opacity": 0.75,
        },
    }


def _unit_axis(domain: list[float], anchor: str, title: str) -> Figure:
    return {
        "domain": domain,
        "anchor": anchor,
        "range": [0, 1],
        "title": {"text": title, "standoff": 8},
        "gridcolor": "@grid",
        "zeroline": False,
        "dtick": 0.25,
        "fixedrange": True,
    }
