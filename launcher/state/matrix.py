"""A study as a matrix: a row for each model, a column for each language, a character for each state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launcher.state.pace import describe, duration
from launcher.state.status import STATES, JobStatus, Survey, failures
from study.jobs.job import Job
from study.jobs.specs import EvalSpec

STYLES = {
    "done": "green",
    "running": "bold cyan",
    "queued": "yellow",
    "failed": "bold red",
    "blocked": "red",
    "missing": "dim",
    "stale": "bold magenta",
}
GLYPHS = {
    "done": "●", "running": "▶", "queued": "○", "failed": "✗", "blocked": "⊘", "missing": "·", "stale": "?",
}  # fmt: skip
PLAIN_GLYPHS = {
    "done": "#", "running": ">", "queued": "o", "failed": "X", "blocked": "-", "missing": ".", "stale": "?",
}  # fmt: skip
SHORT = {"learning_rate": "lr", "label_smoothing": "smoothing"}
OWN_WIDTH = 6
"""Of the column that tells of the job which makes the model: a character, and how far it is."""
COUNTS_WIDTH = 24
MAX_TROUBLES = 20
MAX_PACES = 10


@dataclass
class _Row:
    """One model. label: its axes. own: the job that makes it, None where it is taken as it is."""

    label: dict[str, str]
    own: JobStatus | None = None
    shards: dict[str, dict[str, JobStatus]] = field(default_factory=dict)
    """benchmark -> language -> its evaluation."""


def matrix(found: Survey, console: Console, *, max_rows: int | None = None) -> RenderableType:
    """The study's models against languages, as wide as the console allows, else counts.

    max_rows: of each benchmark; of more, those that need a look come first and the rest is counted.
    """
    rows = _rows(found.statuses)
    constants, axes = _axes(rows)
    blocks: dict[str, list[str]] = {}
    for row in rows:
        for benchmark, shards in row.shards.items():
            known = blocks.setdefault(benchmark, [])
            known += [language for language in shards if language not in known]
    title = Text.assemble(("study ", "dim"), (found.plan.study, "bold"))
    for axis, value in constants.items():
        title.append(f" · {SHORT.get(axis, axis)} {value}", "dim")
    parts: list[RenderableType] = [title]
    for benchmark, languages in blocks.items() or {"": []}.items():
        # a model's own job is told once more in each block: it is why a row is blocked
        mine = [row for row in rows if benchmark in row.shards or (not row.shards and row.own is not None)]
        shown, rest = _most_urgent(mine, benchmark, max_rows)
        parts += [Text(), _block(benchmark, languages, shown, axes, console)]
        if rest:
            counts = Counter(status.state for row in rest for status in _all_of(row, benchmark))
            parts.append(Text.assemble(f"... and {len(rest)} rows more: ", counts_of(counts, console)))
    return Group(*parts)


def _rows(statuses: Sequence[JobStatus]) -> list[_Row]:
    rows: dict[str, _Row] = {}
    for status in statuses:
        job = status.job
        if isinstance(job.spec, EvalSpec):
            model = job.spec.model
            row = rows.setdefault(model.name, _Row({}))
            row.label = row.label if row.shards else _label(job, "base")
            row.shards.setdefault(job.spec.benchmark.label, {})[job.spec.language] = status
        elif job.kind != "analyse":
            rows[job.job_id] = _Row(_label(job, "prepared"), own=status)
    models = list(dict.fromkeys(row.label["model"] for row in rows.values()))
    return sorted(rows.values(), key=lambda row: (models.index(row.label["model"]), "as" not in row.label))


def _label(job: Job, alone: str) -> dict[str, str]:
    """The cell as people read it. alone: what a model is called that no training axis describes."""
    label = {axis: _short(value) for axis, value in job.cell.items()}
    return label if len(label) > 1 else {**label, "as": alone}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).rstrip("/").split("/")[-1]


def _axes(rows: Sequence[_Row]) -> tuple[dict[str, str], list[str]]:
    """Axes with the same value everywhere, told once; and those that tell rows apart."""
    trained = [row.label for row in rows if "as" not in row.label]
    names = list(dict.fromkeys(axis for label in trained for axis in label if axis != "model"))
    constants = {axis: trained[0][axis] for axis in names if len({label.get(axis) for label in trained}) == 1}
    return constants, ["model", *(axis for axis in names if axis not in constants)]


def _most_urgent(
    rows: Sequence[_Row], benchmark: str, max_rows: int | None
) -> tuple[Sequence[_Row], Sequence[_Row]]:
    if max_rows is None or len(rows) <= max_rows:
        return rows, ()
    urgency = ("failed", "stale", "running", "blocked", "queued", "missing", "done")
    first = {
        id(row): min(
            (urgency.index(status.state) for status in _all_of(row, benchmark)), default=len(urgency)
        )
        for row in rows
    }
    chosen = {id(row) for row in sorted(rows, key=lambda row: first[id(row)])[:max_rows]}
    return [row for row in rows if id(row) in chosen], [row for row in rows if id(row) not in chosen]


def _all_of(row: _Row, benchmark: str) -> Iterator[JobStatus]:
    if row.own is not None:
        yield row.own
    yield from row.shards.get(benchmark, {}).values()


def _block(
    benchmark: str, languages: Sequence[str], rows: Sequence[_Row], axes: Sequence[str], console: Console
) -> Table:
    glyphs = glyphs_of(console)
    heads, labels = _labels(rows, axes)
    widths = [max(len(text) for text in column) for column in zip(heads, *labels, strict=True)]
    left = console.width - sum(width + 2 for width in widths) - OWN_WIDTH - 2
    header, step = _header(languages, left)
    if languages and not step:  # too narrow: counts instead, and long names are cut
        widths[0] = max(8, min(widths[0], widths[0] + left - COUNTS_WIDTH))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head, width in zip(heads, widths, strict=True):
        table.add_column(head, vertical="bottom", no_wrap=True, width=width)
    table.add_column("train", width=OWN_WIDTH, no_wrap=True)
    if languages:
        table.add_column(Text.assemble((benchmark, "bold"), "\n", header), no_wrap=True)
    for row, label in zip(rows, labels, strict=True):
        shards = row.shards.get(benchmark, {})
        if step:
            line = _line(languages, shards, step, glyphs)
        else:
            counts = Counter(status.state for status in shards.values())
            line = Text(" ").join(
                Text(f"{glyphs[state]}{counts[state]}", STYLES[state]) for state in STATES if counts[state]
            )
        table.add_row(*(Text(text) for text in label), _own(row.own, glyphs), *([line] if languages else []))
    return table


def _labels(rows: Sequence[_Row], axes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Column heads, and what each row says below them: what the row above says already is left out."""
    more = [""] if len(axes) == 1 and any("as" in row.label for row in rows) else []
    heads = [*(SHORT.get(axis, axis) for axis in axes), *more]
    result: list[list[str]] = []
    before: list[str] = []
    for row in rows:
        full = [row.label.get(axis, "") for axis in axes] + ["trained" for _ in more]
        if "as" in row.label:  # no training axis describes it: it says so in the first one's place
            full[1] = row.label["as"]
        same = 0
        while same < len(full) - 1 and before[same : same + 1] == full[same : same + 1]:
            same += 1
        result.append([""] * same + full[same:])
        before = full
    return heads, result


def _header(languages: Sequence[str], width: int) -> tuple[Text, int]:
    """Language codes, side by side where there is room, else standing; and characters a language, or 0."""
    longest = max((len(code) for code in languages), default=0)
    side_by_side = longest + 1
    if len(languages) * side_by_side - 1 <= width:
        return Text(" ".join(code.ljust(longest) for code in languages), "dim"), side_by_side
    for step in (2, 1):
        if len(languages) * step <= width:
            lines = [
                (" " * (step - 1)).join(code.ljust(longest)[i] for code in languages) for i in range(longest)
            ]
            return Text("\n".join(lines), "dim"), step
    return Text(f"{len(languages)} languages", "dim"), 0


def _line(
    languages: Sequence[str], shards: Mapping[str, JobStatus], step: int, glyphs: Mapping[str, str]
) -> Text:
    line = Text()
    for language in languages:
        status = shards.get(language)
        glyph, style = (glyphs[status.state], STYLES[status.state]) if status is not None else (" ", "")
        line.append(glyph.ljust(step), style)
    line.rstrip()
    return line


def _own(status: JobStatus | None, glyphs: Mapping[str, str]) -> Text:
    """The state of the job that makes a model, and how far it is."""
    if status is None:
        return Text()
    text = glyphs[status.state]
    if status.state in ("running", "queued") and status.progress is not None and status.progress["total"]:
        text += f" {status.progress['done'] / status.progress['total']:.0%}"
    return Text(text, STYLES[status.state])


def glyphs_of(console: Console) -> Mapping[str, str]:
    """A character for each state that the terminal has."""
    return GLYPHS if console.encoding.lower().startswith("utf") else PLAIN_GLYPHS


def counts_of(counts: Mapping[str, int], console: Console) -> Text:
    """`● 12 done  ✗ 1 failed`: what there is of each state; it explains the characters, too."""
    glyphs = glyphs_of(console)
    parts = [
        Text(f"{glyphs[state]} {counts[state]} {state}", STYLES[state])
        for state in STATES
        if counts.get(state)
    ]
    return Text("  ").join(parts)


def print_status(found: Survey, study: str, console: Console) -> None:
    """The matrix, totals, what runs, and each distinct failure once. study: as its user types it."""
    console.print(matrix(found, console))
    console.print()
    console.print(totals(found, console))
    for text in pace_lines(found):
        console.print(text, highlight=False, soft_wrap=True)
    for line in trouble_lines(found, study):
        console.print(line, highlight=False, soft_wrap=True)


def totals(found: Survey, console: Console) -> RenderableType:
    """How many jobs are in each state, which explains the characters, and what became of the analysis."""
    lines = [Text.assemble(f"{len(found.statuses)} jobs  ", counts_of(found.counts, console))]
    for status in found.statuses:
        if status.job.kind == "analyse":
            state = Text(f"{glyphs_of(console)[status.state]} {status.state}", STYLES[status.state])
            lines.append(Text.assemble("analysis  ", state))
    return Group(*lines)


def pace_lines(found: Survey, *, most: int = MAX_PACES, width: int | None = None) -> list[Text]:
    """How fast each running task is and what time its job at work has left; who has stalled comes first.

    width: of a line, for which names are cut; None for as wide as they are.
    """
    running = [status for status in found.statuses if status.pace is not None]
    running.sort(key=lambda status: status.pace is not None and not status.pace.stalled)
    lines = []
    for status in running[:most]:
        assert status.pace is not None
        told = Text(describe(status.pace), STYLES["stale" if status.pace.stalled else "running"])
        if status.pace.num_waiting:
            told.append(f", then {status.pace.num_waiting} more", "dim")
        name = Text(f"{status.job.kind} {status.job.name}")
        if width is not None:
            name.truncate(max(12, width - told.cell_len - 2), overflow="ellipsis")
        lines.append(Text("  ").join((name, told)))
    if len(running) > most:
        lines.append(Text(f"... and {len(running) - most} tasks more at work", "dim"))
    return lines


def trouble_lines(found: Survey, study: str) -> list[str]:
    """Markup: each distinct failure, whom it struck, and what to type next."""
    lines: list[str] = []
    if found.look.trouble is not None:
        since = f"; its queue as of {age(found.look.told)} ago" if found.look.told else ""
        lines.append(f"[yellow]{escape(found.look.trouble)}[/]{since}, else as the jobs tell themselves")
    troubles = list(failures(found.statuses).items())
    for (state, cause, message), struck in troubles[:MAX_TROUBLES]:
        first = struck[0].job
        more = f" and {len(struck) - 1} more" if len(struck) > 1 else ""
        why = message if cause is None or cause in message else f"{cause}: {message}"
        name = f"{first.kind} {first.name} ({first.job_id}){more}: {why}"
        lines.append(f"[{STYLES[state]}]{state}[/] {escape(name)}")
        lines.append(f"  calsweep explain {escape(study)} {first.job_id}")
    if len(troubles) > MAX_TROUBLES:
        lines.append(f"... and {len(troubles) - MAX_TROUBLES} more: calsweep explain {escape(study)}")
    return lines


def age(since_s: float) -> str:
    """How long ago a moment was: `40 s`, `3 min`, `2.5 h`."""
    return duration(time.time() - since_s)
