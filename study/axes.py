"""How the axes of a grid are written for people: in job names, tables, figures and on the command line."""

from __future__ import annotations

from typing import Any

SHORT = {"learning_rate": "lr", "label_smoothing": "ε"}
NAMED_ALONE = ("model", "dataset")
"""Axes whose values say what they are: `Llama-3.1-8B` needs no `model=` before it."""


def axis_label(axis: str) -> str:
    """`lr`, for headings and before values."""
    return SHORT.get(axis, axis)


def axis_title(axis: str) -> str:
    """`learning rate`, where there is room; with a symbol, where the label is one."""
    title = axis.replace("_", " ")
    return f"{title} ε" if axis == "label_smoothing" else title


def axis_text(axis: str, value: Any) -> str:
    """`lr=0.001`; a model or a dataset by its name alone."""
    text = value_text(value)
    return text if axis in NAMED_ALONE else f"{axis_label(axis)}={text}"


def value_text(value: Any) -> str:
    """A number without trailing zeros, the last part of a path or a hub id."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).rstrip("/").split("/")[-1]
