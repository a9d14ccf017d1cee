"""What the figures show, as plain data: the rows and the bins of the tables, nothing computed anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.reading.shards import BUCKETS, Cell, Missing, Shard, Study, Test
from analysis.results.aggregate import summarise
from analysis.results.labels import Setting, settings, trained_label
from study.axes import axis_text
from study.bins import Bins, error_over_bins, merge_bins

METRICS = {
    "accuracy": "Accuracy",
    "confidence_raw": "Confidence, raw",
    "confidence_renormalised": "Confidence, ren.",
    "ece_raw": "ECE, raw",
    "ece_renormalised": "ECE, ren.",
}
NOT_PLANNED = Missing("not planned")
"""Of a cell that the study does not ask in this language: not missing, there is no such job."""
MIXED = ("learning_rate", "label_smoothing", "seed")
"""Axes inside one response: the first two are drawn, seeds are averaged."""


@dataclass(frozen=True)
class Value:
    """One number of the tables, or why there is none."""

    value: float | None
    low: float | None
    """Of the 95% interval; None where the value is missing or has none."""
    high: float | None
    floor: float | None
    """Of an ECE: about what a perfectly calibrated model would show."""
    missing: Missing | None


@dataclass(frozen=True)
class Matrix:
    """A metric of one setting, languages x cells."""

    metric: str
    languages: tuple[str, ...]
    """From rich to poor in resources."""
    labels: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    """A row a language, a column a cell."""
    is_trained: bool
    """Not just several base models, which have no order."""
    has_base: bool
    """The first cell is the base model that the others were trained from."""


@dataclass(frozen=True, eq=False)
class Diagram:
    """The bins of one cell on one language, or merged over a bucket and over seeds."""

    bins: Bins | None
    """Over the shards that are there; None where none is."""
    ece: float | None
    """Of these very bins; None where a shard is missing."""
    num_shards: int
    """0: not planned."""
    num_missing: int
    num_seeds: int
    """That are pooled in the bins."""


@dataclass(frozen=True, eq=False)
class Diagrams:
    """Reliability of one setting by one kind of confidence: languages or buckets x cells."""

    kind: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    rows: tuple[tuple[Diagram, ...], ...]
    """A row a name, a column a cell."""


@dataclass(frozen=True)
class Response:
    """Means over languages against the learning rate (or, where there is only one, the smoothing)."""

    test: Test
    label: str
    """What sets it apart from the study's other responses; empty where there is just one."""
    axis: str
    x: tuple[float, ...]
    """Of `axis`, ascending."""
    groups: tuple[str, ...]
    """`all`, then the buckets."""
    lines: tuple[str, ...]
    """Labels of the smoothing factors."""
    values: dict[tuple[str, str], tuple[tuple[Value, ...], ...]]
    """By metric and group: lines x points."""
    base: dict[tuple[str, str], Value]
    """By metric and group, of the base model; empty where the study has none."""


def prepare_matrix(study: Study, setting: Setting, metric: str) -> Matrix:
    """A metric of each language and cell: the mean over seeds, as in the tables' language rows."""
    languages = _languages(study, setting)
    rows = tuple(
        tuple(value_of(study.select(setting.test, item.cell, code), metric) for item in setting.series)
        for code in languages
    )
    is_trained = any(not item.cell.is_base for item in setting.series)
    labels = tuple(item.label for item in setting.series)
    return Matrix(metric, languages, labels, rows, is_trained, is_trained and setting.series[0].cell.is_base)


def prepare_changes(matrix: Matrix) -> Matrix:
    """Each further cell minus the first; missing where one of the two is. No interval: see `differences`."""
    rows = tuple(tuple(_change(value, row[0]) for value in row[1:]) for row in matrix.rows)
    return Matrix(matrix.metric, matrix.languages, matrix.labels[1:], rows, matrix.is_trained, False)


def prepare_diagrams(study: Study, setting: Setting, kind: str, level: str) -> Diagrams:
    """kind: raw | renormalised. level: language, or bucket for all languages together and each bucket."""
    names = (
        _languages(study, setting)
        if level == "language"
        else _groups(study, setting.test, [item.cell for item in setting.series])
    )
    rows = tuple(
        tuple(
            _diagram(_members(study, setting.test, item.cell, level, name), kind) for item in setting.series
        )
        for name in names
    )
    return Diagrams(kind, names, tuple(item.label for item in setting.series), rows)


def prepare_responses(study: Study) -> list[Response]:
    """One for each test, model and dataset (each combination of the axes that are not drawn).

    Only those that were trained with more than one learning rate or smoothing factor.
    """
    found: dict[tuple[Test, Cell], list[Setting]] = {}
    for setting in settings(study):
        trained = [item.cell for item in setting.series if not item.cell.is_base]
        if trained:
            found.setdefault((setting.test, trained[0].without(*MIXED)), []).append(setting)
    responses = [_response(study, test, members) for (test, _), members in found.items()]
    return [response for response in responses if len(response.x) > 1]


def value_of(shards: Sequence[Shard], metric: str) -> Value:
    """The macro mean over shards of one cell."""
    if not shards:
        return Value(None, None, None, None, NOT_PLANNED)
    summary = summarise(shards)
    if summary.metrics is None:
        return Value(None, None, None, None, summary.missing)
    low, high = summary.interval(metric) or (None, None)
    floor = getattr(summary.metrics, metric.replace("ece", "ece_floor")) if "ece" in metric else None
    return Value(getattr(summary.metrics, metric), low, high, floor, None)


def _change(value: Value, start: Value) -> Value:
    if value.value is None or start.value is None:
        return Value(None, None, None, None, value.missing or start.missing)
    return Value(value.value - start.value, None, None, None, None)


def _diagram(shards: Sequence[Shard], kind: str) -> Diagram:
    found = [shard.bins[kind] for shard in shards if shard.bins is not None]
    bins = merge_bins(found) if found else None
    complete = bins is not None and len(found) == len(shards)
    ece = error_over_bins(bins) if bins is not None and complete else None
    num_seeds = len({shard.cell.get("seed") for shard in shards})
    return Diagram(bins, ece, len(shards), len(shards) - len(found), num_seeds)


def _response(study: Study, test: Test, members: Sequence[Setting]) -> Response:
    base = [item.cell for item in members[0].series if item.cell.is_base]
    cells = [item.cell for setting in members for item in setting.series if not item.cell.is_base]
    axis = "learning_rate" if len({cell.get("learning_rate") for cell in cells}) > 1 else "label_smoothing"
    x = tuple(sorted({cell.get(axis) for cell in cells if cell.get(axis) is not None}))
    by_line: dict[str, dict[float, Cell]] = {}
    for cell in cells:
        by_line.setdefault(trained_label(cell) if axis == "learning_rate" else "SFT", {})[cell.get(axis)] = (
            cell
        )
    groups = _groups(study, test, [*base, *cells])
    parts = members[0].label.split(" · ")
    rate = axis_text("learning_rate", cells[0].get("learning_rate"))
    return Response(
        test=test,
        label=" · ".join(part for part in parts if part != rate),
        axis=axis,
        x=x,
        groups=groups,
        lines=tuple(by_line),
        values={
            (metric, group): tuple(
                tuple(
                    value_of(_members(study, test, line[at], "bucket", group) if at in line else [], metric)
                    for at in x
                )
                for line in by_line.values()
            )
            for metric in METRICS
            for group in groups
        },
        base={
            (metric, group): value_of(_members(study, test, cell, "bucket", group), metric)
            for cell in base
            for metric in METRICS
            for group in groups
        },
    )


def _members(study: Study, test: Test, cell: Cell, level: str, name: str) -> list[Shard]:
    if level == "language":
        return study.select(test, cell, name)
    return [shard for shard in study.select(test, cell) if name in ("all", shard.bucket)]


def _languages(study: Study, setting: Setting) -> tuple[str, ...]:
    present = {shard.language for item in setting.series for shard in study.select(setting.test, item.cell)}
    return tuple(code for code in study.languages() if code in present)


def _groups(study: Study, test: Test, cells: Sequence[Cell]) -> tuple[str, ...]:
    """`all` and the buckets that have a language; of a single bucket that bucket alone."""
    present = {shard.bucket for cell in cells for shard in study.select(test, cell)}
    buckets = [bucket for bucket in BUCKETS if bucket in present]
    return tuple(buckets if len(buckets) == 1 else ["all", *buckets])
