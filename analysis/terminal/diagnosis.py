"""The diagnoses of a study in a terminal: a line or two per cell, with the worst language where they vary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.diagnoses.diagnose import Diagnosis
from analysis.diagnoses.rows import Row, by_group
from analysis.diagnoses.temperature import comparisons, gains, uncalibrated_bases, without_labels
from analysis.reading.cell_records import BASE
from analysis.reading.scored import CONFIDENCES
from analysis.reading.shards import BUCKETS
from analysis.results.names import short
from analysis.results.settings import axis_names, settings
from study.axes import axis_text

if TYPE_CHECKING:
    from rich.console import Console

MAX_SETTINGS = 4
"""With more settings, the numbers of single buckets are only in the files."""
Line = list[str]


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print a section per table, and the choice of learning rates."""
    few = len(settings(diagnosis.study)) <= MAX_SETTINGS
    levels = (*BUCKETS, "all") if few else ("all",)
    columns = ("cell", "languages", "as is", "global", "English", "own", "T global", "T English")
    lines = [
        [" · ".join(filter(None, [title, cell])), level, *numbers[:4], *numbers[-2:]]
        for title, body in comparisons(diagnosis.study, diagnosis.rows["temperature"], levels)
        for level, cell, *numbers in body
    ]
    _print(console, "ECE after temperature scaling; renormalised, macro over languages", columns, lines)
    fitted = " and ".join(dict.fromkeys(row["fitted_on"] for row in diagnosis.rows["temperature"]))
    if lines:
        _say(
            console,
            f"own: one T for each language. T is fitted on: {fitted}. To compare smoothing with scaling, set "
            "its row as is beside the row without smoothing after scaling.",
        )
    changed, free = (
        [
            [" · ".join(filter(None, [title, cell])), *numbers]
            for title, body in shown(diagnosis.study, diagnosis.rows["temperature"], ("all",))
            for _, cell, *numbers in body
        ]
        for shown in (gains, without_labels)
    )
    _print(
        console,
        "What the label-fitted T changes; macro over all languages",
        ("cell", "global: ΔNLL", "95%", "ΔECE", "own: ΔNLL", "95%", "ΔECE"),
        changed,
    )
    _print(
        console,
        "ECE with a T from the base, without labels (free); macro over all languages",
        (
            *("cell", "agreeing", "T global", "as is", "free, global", "fitted, global", "free, own"),
            *("fitted, own", "base", "floor"),
        ),
        free,
    )
    if free:
        caveats = uncalibrated_bases(diagnosis.rows["temperature"])
        _say(console, " ".join(["agreeing: items on which a cell and its base choose alike.", *caveats]))
    _print(
        console,
        "Change of the ECE, and its parts from confidence and accuracy; macro over all languages",
        ("cell", "against", "raw: Δ", "conf.", "acc.", "ren.: Δ", "conf.", "acc."),
        list(_changes(diagnosis)),
    )
    if not diagnosis.rows["diagnostics"]:
        _say(console, "No tables: the study evaluates only validation splits.")
    elif not diagnosis.rows["decomposition"]:
        _say(console, "No decomposition: no cell can be compared with another.")
    _print(
        console,
        "Answers: mean over languages and seeds (the worst language)",
        ("cell", "position bias", "option mass", "mass < ½", "tokens/en", "rotation dep."),
        list(_answers(diagnosis)),
    )
    sliced = list(_sensitivity(diagnosis))
    if sliced:
        header = ("cell", "items", "accuracy", "conf. ren.", "ECE ren.", "floor")
        _print(
            console, "Culturally sensitive (CS) and agnostic (CA) items; macro over languages", header, sliced
        )
    elif diagnosis.rows["diagnostics"]:
        _say(console, "No items table marks items CS or CA; subjects and categories: slices.csv.")
    _print(
        console,
        "Spearman's ρ with the Joshi class; change: against the base model. p by permutation of languages, "
        "not corrected: related languages count as independent",
        ("cell", "quantity", *("accuracy", "conf. ren.", "ECE ren.", "gap ren.")),
        list(_correlations(diagnosis)),
    )
    _select(diagnosis, console)


def _cells(diagnosis: Diagnosis, table: str) -> Iterator[tuple[str, list[Row]]]:
    """The name and rows of each cell of each setting."""
    groups = by_group(diagnosis.rows[table], axis_names(diagnosis.study))
    for setting in settings(diagnosis.study):
        for item in setting.series:
            rows = groups.get((setting.test, item.cell), [])
            if rows:
                yield " · ".join(filter(None, [setting.label, item.label])), rows


def _changes(diagnosis: Diagnosis) -> Iterator[Line]:
    for name, rows in _cells(diagnosis, "decomposition"):
        for compared_with in dict.fromkeys(row["compared_with"] for row in rows):
            line = [name, BASE if compared_with == BASE else "ε=0"]
            for kind in CONFIDENCES:
                chosen = next(
                    row
                    for row in rows
                    if (row["compared_with"], row["confidence"], row["metric"], row["level"])
                    == (compared_with, kind, "ece", "all")
                )
                line += [_signed(chosen[column]) for column in ("change", "from_confidence", "from_accuracy")]
            yield line


def _answers(diagnosis: Diagnosis) -> Iterator[Line]:
    for name, rows in _cells(diagnosis, "diagnostics"):
        yield [
            name,
            _spread(rows, "position_distance"),
            _spread(rows, "option_mass_mean", is_low_bad=True),
            _spread(rows, "option_mass_share_below_half"),
            _spread(rows, "token_premium"),
            _spread(rows, "share_rotation_dependent"),
        ]


def _spread(rows: Sequence[Row], column: str, *, is_low_bad: bool = False) -> str:
    """The mean over languages that have the number, and the language with the worst."""
    pairs = [(row[column], row["name"]) for row in rows if row[column] is not None]
    if not pairs:
        return "-"
    value, language = min(pairs) if is_low_bad else max(pairs)
    lacking = len({row["name"] for row in rows}) - len({name for _, name in pairs})
    note = f", {lacking} missing" if lacking else ""
    mean = float(np.mean([number for number, _ in pairs]))
    return f"{short(mean)} ({language} {short(value)}{note})"


def _sensitivity(diagnosis: Diagnosis) -> Iterator[Line]:
    for name, rows in _cells(diagnosis, "slices"):
        for value in sorted({str(row["slice"]) for row in rows}):
            of_value = [row for row in rows if row["slice"] == value and row["level"] == "all"]
            columns = ("accuracy", "confidence_renormalised", "ece_renormalised", "ece_floor_renormalised")
            yield [name, value, *(_mean(of_value, column) for column in columns)]


def _correlations(diagnosis: Diagnosis) -> Iterator[Line]:
    metrics = ("accuracy", "confidence_renormalised", "ece_renormalised", "gap_renormalised")
    for name, rows in _cells(diagnosis, "correlations"):
        for quantity in dict.fromkeys(row["quantity"] for row in rows):
            of_metric = {row["metric"]: row for row in rows if row["quantity"] == quantity}
            yield [name, quantity.split()[0], *(_rho(of_metric[metric]) for metric in metrics)]


def _rho(row: Row) -> str:
    rho, p = row["spearman_joshi"], row["p_value"]
    return str(row["missing"]) if rho is None else f"{rho:+.2f} ({short(p)})"


def _mean(rows: Sequence[Row], column: str) -> str:
    values = [row[column] for row in rows]
    return "-" if None in values or not values else f"{np.mean(values):.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _select(diagnosis: Diagnosis, console: Console) -> None:
    from rich.text import Text

    console.print(Text("Learning rate", style="bold"))
    if not diagnosis.selections:
        _say(console, "Nothing was selected: the learning rate is not an axis of any trained cell.")
    for reason in dict.fromkeys(
        selection.reason for selection in diagnosis.selections if not selection.chosen
    ):
        cells = sum(selection.reason == reason for selection in diagnosis.selections)
        _say(console, f"{reason} ({cells} of {len(diagnosis.selections)} groups of cells)")
    for selection in diagnosis.selections:
        if selection.chosen:
            cell = " ".join(axis_text(axis, value) for axis, value in selection.cell.axes)
            _say(console, f"{cell}: {selection.chosen:g}, {selection.reason}")
    header = ("cell", "criterion", "chosen", "in replicates", "next", "in replicates", "difference", "95%")
    _print(console, "How sure the choice is, by each criterion", header, list(_choices(diagnosis)))


def _choices(diagnosis: Diagnosis) -> Iterator[Line]:
    """The chosen learning rate and the one that most other replicates choose."""
    for selection in (*diagnosis.selections, *diagnosis.other_selections):
        if selection.chosen is None or selection.candidates[0].share_chosen is None:
            continue
        (chosen,) = (one for one in selection.candidates if one.learning_rate == selection.chosen)
        others = [one for one in selection.candidates if one is not chosen]
        other = max(others, key=lambda one: (one.share_chosen or 0.0, -abs(one.difference or 0.0)))
        yield [
            " ".join(axis_text(axis, value) for axis, value in selection.cell.axes),
            selection.metric,
            f"{chosen.learning_rate:g}",
            f"{chosen.share_chosen:.0%}",
            f"{other.learning_rate:g}",
            f"{other.share_chosen:.0%}",
            _signed(other.difference),
            f"[{_signed(other.difference_low)}, {_signed(other.difference_high)}]",
        ]


def _say(console: Console, text: str) -> None:
    from rich.text import Text

    console.print(Text(text, style="dim"))


def _print(console: Console, title: str, header: Sequence[str], lines: Sequence[Line]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [k for k in range(len(header)) if k < 1 or any(line[k] != "-" for line in lines)]
    if len(shown) == 1:
        return
    console.print(Text(title.strip(), style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for place in shown:
        is_name = place == 0
        table.add_column(Text(header[place]), justify="left" if is_name else "right", no_wrap=not is_name)
    for line in lines:
        table.add_row(*(Text(line[place]) for place in shown))
    console.print(table)
