"""A forecast of power as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.inference.power import MAX_SEEDS, POWER, Design, detectable, seeds_needed
from analysis.reading.loading import load_study
from analysis.results.components import ASSUMED, METRICS, measured
from analysis.results.names import decimal


@dataclass(frozen=True)
class Findable:
    """What a design finds of one metric."""

    detectable: float | None
    """The smallest change found with 80% power; infinite where none is, None where the number of questions is
    not known."""
    seeds_needed: int | None
    """For the change that was asked for; None where no number of seeds is enough, or it is not known."""
    level: float | None = None
    """Of an L2 ECE, the value from which it rises."""


@dataclass(frozen=True)
class Forecast:
    """What a design finds on one benchmark, split and protocol."""

    test: str
    num_languages: int
    num_items: float | None
    """Questions of a language; None where nobody knows."""
    num_seeds: int
    change: float
    source: str
    """Where the components are from."""
    metrics: Mapping[str, Findable]


def forecast(
    test: str,
    num_languages: int,
    num_items: float | None,
    num_seeds: int,
    change: float,
    study_dir: Path | None,
) -> Forecast:
    """What a design can find, with components measured in a study, or assumed without one.

    Raises UserError where the folder is not a study.
    """
    components = dict(ASSUMED)
    source = "assumed: from a pilot of one 270M model"
    if study_dir is not None:
        of_study = measured(load_study(study_dir))
        components |= of_study
        source = f"measured in {study_dir}" if of_study else f"assumed: {study_dir} has no contrast"
    metrics = {}
    for metric in METRICS:
        if num_items is None:
            metrics[metric] = Findable(None, None)
            continue
        design = Design(num_languages, num_items, num_seeds)
        smallest = detectable(components[metric], design)
        needed = seeds_needed(components[metric], design, change)
        metrics[metric] = Findable(smallest, needed, getattr(components[metric], "level", None))
    return Forecast(test, num_languages, num_items, num_seeds, change, source, metrics)


def print_forecasts(forecasts: Sequence[Forecast]) -> None:
    """Print a table for each test, and how to read it."""
    from rich import box
    from rich.table import Table

    from study.terminal import make_console

    console = make_console()
    for one in forecasts:
        items = "an unknown number of" if one.num_items is None else f"{one.num_items:g}"
        seeds = f"{one.num_seeds} seed{'s' if one.num_seeds > 1 else ''}"
        console.print(f"{one.test}: {one.num_languages} languages x {items} questions, {seeds}", markup=False)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("mean over languages")
        table.add_column(f"found with {POWER:.0%} power", justify="right")
        table.add_column(f"seeds to find {decimal(one.change)}", justify="right")
        for metric, found in one.metrics.items():
            smallest = "unknown" if found.detectable is None else decimal(found.detectable, digits=4)
            smallest = "none" if found.detectable == math.inf else smallest
            needed = f"more than {MAX_SEEDS}" if found.seeds_needed is None else str(found.seeds_needed)
            needed = "unknown" if found.detectable is None else needed
            title = METRICS[metric] + (
                "" if found.level is None else f", from {decimal(found.level)} upwards"
            )
            table.add_row(title, smallest, needed)
        console.print(table)
    notes = [
        f"Components {forecasts[0].source}. Tests at the level .05, two-sided, seeds paired.",
    ]
    if forecasts[0].num_seeds == 1:
        notes.append("With one seed these are changes between two checkpoints, not between two methods.")
    if all(one.source.startswith("assumed") for one in forecasts):
        notes.append("Give --from STUDY, a pilot or an earlier study: components differ between models.")
    console.print(" ".join(notes), style="dim", markup=False)
