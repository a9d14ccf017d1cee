"""The study in a terminal: languages by resource bucket, cells side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.reading.loading import load_study
from analysis.reading.shards import BUCKETS, Shard, Study
from analysis.results.aggregate import summarise
from analysis.results.labels import Series, Setting, constants, crop, settings, short
from study.bins import NUM_BINS
from study.languages import LANGUAGES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

NUMBERS = ("accuracy", "confidence_raw", "confidence_renormalised", "ece_raw", "ece_renormalised")
NAME_WIDTH = 15
CELL_WIDTH = 5 * len(NUMBERS) + 1
MAX_SETTINGS = 4
"""With more, languages would fill many screens: one line a cell instead."""


def print_summary(study_dir: Path, console: Console, *, study: Study | None = None) -> None:
    """Print accuracy, confidence and ECE, raw and renormalised; means over seeds, macro over languages.

    study: the study as loaded already. Raises UserError where the folder is not a study.
    """
    from rich.text import Text

    study = study or load_study(study_dir)
    found = settings(study)
    heading = Text(" · ".join([study.name, *constants(study)]), style="bold")
    console.print(heading)
    if len(found) > MAX_SETTINGS:
        console.print(_overview(study, found))
    else:
        per_table = max(1, (console.width - NAME_WIDTH - 3) // (CELL_WIDTH + 3))
        for setting in found:
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
    reasons = Counter(shard.missing.kind for shard in study.missing if shard.missing)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return (
        f"{size}raw: probability over the full vocabulary; ren: renormalised over the options. "
        f"ECE: {NUM_BINS} bins of equal width, (lo, hi]. Bucket rows: macro mean over languages. "
        f"{len(study.missing)} of {len(study.shards)} shards missing{f' ({why})' if why else ''}."
    )


def _by_language(study: Study, setting: Setting, series: Sequence[Series]) -> Table:
    table = _table(
        setting.label or "language", [_header(item.label, study, setting, item) for item in series]
    )
    columns = [study.select(setting.test, item.cell) for item in series]
    present = {shard.language for column in columns for shard in column}

    def add(name: str, style: str, chosen: Sequence[Sequence[Shard]]) -> None:
        table.add_row(crop(name, NAME_WIDTH), *(_numbers(shards) for shards in chosen), style=style)

    for bucket in BUCKETS:
        members = [[shard for shard in column if shard.bucket == bucket] for column in columns]
        languages = [
            code for code in study.languages() if code in {s.language for column in members for s in column}
        ]
        if languages:
            add(f"{bucket} ({len(languages)})", "bold", members)
        for code in languages:
            name = LANGUAGES[code].name if code in LANGUAGES else ""
            add(f"  {code:<3} {name}", "", [[s for s in column if s.language == code] for column in members])
        if languages:
            table.add_section()
    add(f"all ({len(present)})", "bold", columns)
    return table


def _overview(study: Study, found: Sequence[Setting]) -> Table:
    """One line a cell: macro over all languages."""
    table = _table("cell", [_header("all languages, macro")])
    for setting in found:
        table.add_row(setting.label, "", style="bold")
        for item in setting.series:
            table.add_row(f"  {item.label}", _numbers(study.select(setting.test, item.cell)))
    return table


def _table(first: str, headers: Sequence[Text]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first, no_wrap=True, vertical="bottom")
    for header in headers:
        table.add_column(header, no_wrap=True, width=CELL_WIDTH)
    return table


def _header(
    label: str, study: Study | None = None, setting: Setting | None = None, item: Series | None = None
) -> Text:
    from rich.text import Text

    if study is not None and setting is not None and item is not None:
        num_seeds = len({shard.cell for shard in study.select(setting.test, item.cell)})
        label += f", {num_seeds} seeds" if num_seeds > 1 else ""
    columns = " ".join(f"{name:>4}" for name in ("acc", "raw", "ren", "raw", "ren"))
    return Text(f"{crop(label, CELL_WIDTH)}\n{'':4} {'conf.':^9} {'ECE':^9}\n{columns}")


def _numbers(shards: Sequence[Shard]) -> Text:
    from rich.text import Text

    if not shards:
        return Text("not planned", style="dim")
    summary = summarise(shards)
    if summary.missing is not None:
        text = summary.missing.detail if summary.missing.kind == "incomplete" else summary.missing.kind
        return Text(crop(text, CELL_WIDTH), style="yellow")
    return Text(" ".join(f"{short(getattr(summary.metrics, name)):>4}" for name in NUMBERS))
