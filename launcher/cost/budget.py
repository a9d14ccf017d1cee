"""A forecast, printed for people and as JSON for scripts; and whether it fits the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.cost.forecast import Forecast, Line
from study.errors import BudgetError
from study.grid.config import BudgetConfig
from study.jobs.job import KINDS

MAX_LINES = 40


def check_budget(result: Forecast, budget: BudgetConfig) -> None:
    """Raise BudgetError when the forecast exceeds the budget, or is not known where there is a limit."""
    gpu = [(line, line.device_hours) for line in result.lines if line.device == "GPU"]
    disk = [(line, None if line.disk_bytes is None else line.disk_bytes / 2**30) for line in result.lines]
    _check(gpu, budget.gpu_hours, "budget.gpu_hours", "GPU-hours", "measure it with --pilot")
    _check(disk, budget.disk_gib, "budget.disk_gib", "GiB", "measure it with --pilot")


def _check(
    amounts: Sequence[tuple[Line, float | None]], limit: float | None, key: str, unit: str, remedy: str
) -> None:
    if limit is None:
        return
    total = math.fsum(amount for _, amount in amounts if amount is not None)
    missing = [line for line, amount in amounts if amount is None]
    if total > limit:
        least = "at least " if missing else ""
        raise BudgetError(
            f"{key}: the forecast is {least}{_number(total)} {unit}, above {_number(limit)}; "
            "cut the grid, or raise the budget"
        )
    if missing:
        first, more = missing[0], f" (and of {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise BudgetError(
            f"{key}: the {unit} of '{first.name}'{more} are not known, since {'; '.join(first.unknown)}; "
            f"{remedy}, or remove the limit"
        )


def to_json(result: Forecast) -> dict[str, Any]:
    """The forecast for scripts; what is not known is null."""
    return {
        "gpu_hours": result.hours("GPU"),
        "core_hours": result.hours("core"),
        "disk_bytes": result.disk_bytes,
        "tasks": dict(result.num_tasks),
        "arrays": result.num_arrays,
        "lines": [asdict(line) for line in result.lines],
    }


def print_forecast(result: Forecast, console: Console, *, of_pilot: bool = False) -> None:
    """Print a line per kind, model and data, the totals, what was guessed, and what is not known.

    of_pilot: whether it is a pilot's forecast, for which measuring by a pilot is not suggested.
    """
    if not result.lines:
        return
    table = Table(title="forecast", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("", "tasks", "h/task", "hours", "disk", "10^15 ops", "speed"):
        table.add_column(name, justify="left" if name in ("", "speed") else "right", no_wrap=name != "")
    for line in result.lines[:MAX_LINES]:
        table.add_row(
            escape(f"{line.kind} {_short(line.model)} · {line.data}"),
            _number(line.num_tasks),
            _number(line.task_hours),
            f"{_number(line.device_hours)} {line.device}-h",
            _size(line.disk_bytes),
            _number(None if line.flops is None else line.flops / 1e15),
            escape(line.speed),
        )
    console.print(table)
    if len(result.lines) > MAX_LINES:
        console.print(f"... and {len(result.lines) - MAX_LINES} lines more like these", highlight=False)
    devices = dict.fromkeys(line.device for line in result.lines)
    hours = ", ".join(f"{_total([x.device_hours for x in result.lines if x.device == device])} {device}-hours"
                      for device in devices)  # fmt: skip
    disk = [line.disk_bytes for line in result.lines]
    most = " at most" if None not in disk else ""
    slots = ", ".join(f"{result.num_tasks[kind]} {kind}" for kind in KINDS if result.num_tasks.get(kind))
    arrays = f", in {result.num_arrays} arrays" if result.num_arrays is not None else ""
    console.print(f"in all {hours}; {_total(disk, size=True)} of disk{most}", highlight=False)
    console.print(f"queue slots: {slots}{arrays}", highlight=False)
    estimates = list(dict.fromkeys(basis for line in result.lines for basis in line.estimates))
    if estimates:
        _notes("estimated from", estimates, console)
    unknown = list(dict.fromkeys(reason for line in result.lines for reason in line.unknown))
    if unknown:
        _notes("not known:", unknown, console)
        if not of_pilot:
            console.print("  --pilot measures one cell, with few steps", highlight=False)


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].partition("@")[0]


def _notes(title: str, notes: Sequence[str], console: Console) -> None:
    shown = "; ".join(notes[:6]) + (f"; and {len(notes) - 6} more" if len(notes) > 6 else "")
    console.print(f"{title} {escape(shown)}", highlight=False)


def _total(values: Sequence[float | None], *, size: bool = False) -> str:
    """The sum, or the sum of the known values as "at least"."""
    known = [value for value in values if value is not None]
    if not known:
        return "unknown"
    total = math.fsum(known)
    least = "at least " if len(known) < len(values) else ""
    return least + (_size(total) if size else _number(total))


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    if value == round(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _size(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "unknown"
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= factor:
            return f"{_number(round(num_bytes / factor, 1))} {unit}"
    return f"{_number(round(num_bytes / 2**10, 1))} KiB"
