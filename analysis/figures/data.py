"""What the figures show, as plain data: numbers of the long table, and pooled bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.reading.headline import HEADLINE, Metric, has
from analysis.reading.shards import Cell, Study, Test
from analysis.results.settings import Setting, settings, trained_label
from analysis.results.table import NOT_PLANNED, Level, LongTable, Number, Row, long_table
from study.axes import axis_text
from study.bins import Bins, error_over_bins, merge_bins

MIXED = ("learning_rate", "label_smoothing", "seed")
"""Axes inside one response: the first two are drawn, seeds are averaged."""


@dataclass(frozen=True)
class Matrix:
    """A metric of one setting, languages x cells."""

    metric: Metric
    languages: tuple[str, ...]
    """From rich to poor in resources."""
    labels: tuple[str, ...]
    rows: tuple[tuple[Number, ...], ...]
    """A row per language, a column per cell."""
    is_trained: bool
    """False for several base models alone, which have no order."""
    has_base: bool
    """The first cell is the base model that the others were trained from."""


@dataclass(frozen=True, eq=False)
class Diagram:
    """The bins of one cell in one language or bucket, merged over languages and seeds."""

    bins: Bins | None
    """Over the shards that are not missing; None where all are."""
    ece: float | None
    """The ECE of these bins; None where a shard is missing."""
    num_shards: int
    """0: not planned."""
    num_missing: int
    num_seeds: int
    """Seeds pooled in the bins."""


@dataclass(frozen=True, eq=False)
class Diagrams:
    """Reliability of one setting by one kind of confidence: languages or buckets x cells."""

    kind: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    rows: tuple[tuple[Diagram, ...], ...]
    """A row per name, a column per cell."""


@dataclass(frozen=True)
class Response:
    """Means over languages against the learning rate (or, where there is only one, the smoothing)."""

    test: Test
    label: str
    """What sets it apart from the study's other responses; empty where there is just one."""
    axis: str
    x: tuple[float, ...]
    """Values of `axis`, ascending."""
    groups: tuple[str, ...]
    """`all`, then the buckets."""
    lines: tuple[str, ...]
    """Labels of the smoothing factors."""
    metrics: tuple[Metric, ...]
    values: dict[tuple[str, str], tuple[tuple[Number, ...], ...]]
    """By metric and group: lines x points."""
    base: dict[tuple[str, str], Number]
    """The base model's by metric and group; empty where the study has no base model."""


def prepare_matrix(study: Study, setting: Setting, metric: Metric) -> Matrix:
    """A metric of each language and cell: the mean over seeds, as in the tables' language rows."""
    table, cells = long_table(study), [item.cell for item in setting.series]
    languages = table.names(setting.test, cells, "language")
    is_trained = any(not cell.is_base for cell in cells)
    return Matrix(
        metric=metric,
        languages=tuple(languages),
        labels=tuple(item.label for item in setting.series),
        rows=tuple(
            tuple(table.number(setting.test, cell, code, metric.name) for cell in cells) for code in languages
        ),
        is_trained=is_trained,
        has_base=is_trained and cells[0].is_base,
    )


def prepare_changes(matrix: Matrix) -> Matrix:
    """Each further cell minus the first; missing where one of the two is. No interval: see `differences`."""
    rows = tuple(tuple(_change(number, row[0]) for number in row[1:]) for row in matrix.rows)
    return Matrix(matrix.metric, matrix.languages, matrix.labels[1:], rows, matrix.is_trained, False)


def _change(number: Number, start: Number) -> Number:
    if number.value is None or start.value is None:
        return Number(missing=number.missing or start.missing)
    return Number(number.value - start.value)


def prepare_diagrams(study: Study, setting: Setting, kind: str, level: Level) -> Diagrams:
    """kind: raw | renormalised. level: language, or bucket for all languages together and each bucket."""
    table, cells = long_table(study), [item.cell for item in setting.series]
    names = (
        tuple(table.names(setting.test, cells, "language"))
        if level == "language"
        else _groups(table, setting.test, cells)
    )
    rows = tuple(
        tuple(_diagram(table.row(setting.test, cell, name), kind) for cell in cells) for name in names
    )
    return Diagrams(kind, names, tuple(item.label for item in setting.series), rows)


def _diagram(row: Row | None, kind: str) -> Diagram:
    """Languages and seeds are pooled, which no row of the table is: the ECE is that of these bins."""
    shards = row.shards if row else ()
    bins = [shard.bins[kind] for shard in shards if shard.bins is not None]
    merged = merge_bins(bins) if bins else None
    ece = error_over_bins(merged) if merged is not None and len(bins) == len(shards) else None
    return Diagram(merged, ece, len(shards), len(shards) - len(bins), row.num_seeds if row else 0)


def prepare_responses(study: Study) -> list[Response]:
    """One for each test, model and dataset (each combination of the axes that are not drawn).

    Only those that were trained with more than one learning rate or smoothing factor.
    """
    by_model: dict[tuple[Test, Cell], list[Setting]] = {}
    for setting in settings(study):
        trained = [item.cell for item in setting.series if not item.cell.is_base]
        if trained:
            by_model.setdefault((setting.test, trained[0].without(*MIXED)), []).append(setting)
    responses = [_response(long_table(study), members) for members in by_model.values()]
    return [response for response in responses if len(response.x) > 1]


def _response(table: LongTable, members: Sequence[Setting]) -> Response:
    test = members[0].test
    base = [item.cell for item in members[0].series if item.cell.is_base]
    cells = [item.cell for setting in members for item in setting.series if not item.cell.is_base]
    axis = "learning_rate" if len({cell.get("learning_rate") for cell in cells}) > 1 else "label_smoothing"
    x = tuple(sorted({cell.get(axis) for cell in cells if cell.get(axis) is not None}))
    by_line: dict[str, dict[float, Cell]] = {}
    for cell in cells:
        label = trained_label(cell) if axis == "learning_rate" else "SFT"
        by_line.setdefault(label, {})[cell.get(axis)] = cell
    groups = _groups(table, test, [*base, *cells])
    metrics = tuple(metric for metric in HEADLINE if has(test[2], metric))
    keys = [(metric.name, group) for metric in metrics for group in groups]
    rate = axis_text("learning_rate", cells[0].get("learning_rate"))
    return Response(
        test=test,
        label=" · ".join(part for part in members[0].label.split(" · ") if part != rate),
        axis=axis,
        x=x,
        groups=groups,
        lines=tuple(by_line),
        metrics=metrics,
        values={
            (metric, group): tuple(
                tuple(table.number(test, line[at], group, metric) if at in line else NOT_PLANNED for at in x)
                for line in by_line.values()
            )
            for metric, group in keys
        },
        base={
            (metric, group): table.number(test, cell, group, metric)
            for cell in base
            for metric, group in keys
        },
    )


def _groups(table: LongTable, test: Test, cells: Sequence[Cell]) -> tuple[str, ...]:
    """`all` and the buckets that have a language; of a single bucket that bucket alone."""
    buckets = table.names(test, cells, "bucket")
    return tuple(buckets if len(buckets) == 1 else ["all", *buckets])
