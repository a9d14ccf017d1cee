"""The study in a terminal: languages by resource bucket, cells side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.reading.headline import HEADLINE
from analysis.reading.loading import load_study
from analysis.reading.shards import Study, bucket_of
from analysis.results.names import crop, language_name, short
from analysis.results.settings import Series, Setting, constants, settings
from analysis.results.table import Row, long_table
from study.bins import NUM_BINS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

NAME_WIDTH = 15
CELL_WIDTH = 5 * len(HEADLINE) - 1
MAX_SETTINGS = 4
"""With more settings, languages would fill many screens: a line per cell instead."""


def print_summary(study_dir: Path, console: Console, *, study: Study | None = None) -> None:
    """Print the headline metrics; means over seeds, macro over languages.

    study: where it is loaded already. Raises UserError where the folder is not a study.
    """
    from rich.text import Text

    study = study or load_study(study_dir)
    all_settings = settings(study)
    console.print(Text(" · ".join([study.name, *constants(study)]), style="bold"))
    if len(all_settings) > MAX_SETTINGS:
        console.print(_overview(study, all_settings))
    else:
        per_table = max(1, (console.width - NAME_WIDTH - 3) // (CELL_WIDTH + 3))
        for setting in all_settings:
            for start in range(0, len(setting.series), per_table):
                console.print(_by_language(study, setting, setting.series[start : start + per_table]))
    console.print(Text(note(study), style="dim"))


def note(study: Study) -> str:
    """What the numbers are, and what is missing."""
    counts = sorted({shard.metrics.n for shard in study.shards if shard.metrics})
    size = (
        ""
        if not counts
        else f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") + " a language. "
    )
    kinds = Counter(shard.missing.kind for shard in study.missing if shard.missing)
    why = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (
        f"{size}raw: probability over the full vocabulary; ren: renormalised over the options. "
        f"L2 ECE: root-mean-square calibration error in {NUM_BINS} bins, without bias. Bucket rows: "
        "macro mean over languages. "
        f"{len(study.missing)} of {len(study.shards)} shards missing{f' ({why})' if why else ''}."
    )


def _by_language(study: Study, setting: Setting, series: Sequence[Series]) -> Table:
    results = long_table(study)
    cells = [item.cell for item in series]
    headers = []
    for item in series:
        row = results.row(setting.test, item.cell)
        seeds = f" ({row.num_seeds} seeds)" if row and row.num_seeds > 1 else ""
        headers.append(_header(item.label + seeds))
    table = _table(setting.label or "language", headers)

    def add(title: str, style: str, name: str) -> None:
        rows = (results.row(setting.test, cell, name) for cell in cells)
        table.add_row(crop(title, NAME_WIDTH), *map(_numbers, rows), style=style)

    languages = results.names(setting.test, cells, "language")
    for bucket in results.names(setting.test, cells, "bucket"):
        members = [code for code in languages if bucket_of(code) == bucket]
        add(f"{bucket} ({len(members)})", "bold", bucket)
        for code in members:
            add(f"  {code:<3} {language_name(code)}", "", code)
        table.add_section()
    add(f"all ({len(languages)})", "bold", "all")
    return table


def _overview(study: Study, all_settings: Sequence[Setting]) -> Table:
    """A line per cell: macro means over all languages."""
    table = _table("cell", [_header("all languages, macro")])
    for setting in all_settings:
        table.add_row(setting.label, "", style="bold")
        for item in setting.series:
            table.add_row(f"  {item.label}", _numbers(long_table(study).row(setting.test, item.cell)))
    return table


def _table(first: str, headers: Sequence[Text]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first, no_wrap=True, vertical="bottom")
    for header in headers:
        table.add_column(header, no_wrap=True, width=CELL_WIDTH)
    return table


def _header(label: str) -> Text:
    """Three lines: the cell, the metrics by kind of confidence, below them the kinds and other metrics."""
    from rich.text import Text

    above, below = [], []
    for _, group in groupby(HEADLINE, lambda metric: metric.kind):
        metrics = list(group)
        by_confidence = metrics[0].confidence is not None
        above.append(f"{metrics[0].short if by_confidence else '':^{5 * len(metrics) - 1}}")
        below += [f"{(metric.confidence or metric.short)[:3]:>4}" for metric in metrics]
    return Text("\n".join([crop(label, CELL_WIDTH), " ".join(above), " ".join(below)]))


def _numbers(row: Row | None) -> Text:
    from rich.text import Text

    if row is None:
        return Text("not planned", style="dim")
    if row.missing is not None:
        text = row.missing.detail if row.missing.kind == "incomplete" else row.missing.kind
        return Text(crop(text, CELL_WIDTH), style="yellow")
    values = (row.value(metric.name) for metric in HEADLINE)
    return Text(" ".join("   -" if value is None else f"{_four(value):>4}" for value in values))


def _four(value: float) -> str:
    """`.123`, `-.12`: a number below 0 loses a digit."""
    return short(value, digits=3 if value > -0.0005 else 2)
