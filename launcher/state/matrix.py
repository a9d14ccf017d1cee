"""`status` for people: a row for each model, a column for each language, a character for each state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launcher.state.pace import describe, duration
from launcher.state.status import STATES, JobStatus, Survey, failures
from study.axes import axis_label, value_text
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
TRAIN_WIDTH = 6
"""Of the column for the job that makes the model: a character, and a percentage."""
COUNTS_WIDTH = 24
MAX_TROUBLES = 20
MAX_PACES = 10


@dataclass
class _Row:
    """One model. label: its axes. training: the job that makes it; None for a base model."""

    label: dict[str, str]
    training: JobStatus | None = None
    shards: dict[str, dict[str, JobStatus]] = field(default_factory=dict)
    """benchmark -> language -> evaluation."""


def matrix(survey: Survey, console: Console, *, max_rows: int | None = None) -> RenderableType:
    """Models against languages; counts instead of languages where the console is too narrow.

    max_rows: of each benchmark. If there are more, the most urgent are shown and the others are counted.
    """
    rows = _rows(survey.statuses)
    constants, axes = _axes(rows)
    blocks: dict[str, list[str]] = {}
    for row in rows:
        for benchmark, shards in row.shards.items():
            known = blocks.setdefault(benchmark, [])
            known += [language for language in shards if language not in known]
    title = Text.assemble(("study ", "dim"), (survey.plan.study, "bold"))
    for axis, value in constants.items():
        title.append(f" · {axis_label(axis)} {value}", "dim")
    parts: list[RenderableType] = [title]
    for benchmark, languages in blocks.items() or {"": []}.items():
        # a model's training is repeated in each block: it is why a row is blocked
        members = [row for row in rows if benchmark in row.shards or (not row.shards and row.training)]
        shown, rest = _most_urgent(members, benchmark, max_rows)
        parts += [Text(), _block(benchmark, languages, shown, axes, console)]
        if rest:
            counts = Counter(status.state for row in rest for status in _all_of(row, benchmark))
            parts.append(Text.assemble(f"... and {len(rest)} more rows: ", counts_of(counts, console)))
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
            rows[job.job_id] = _Row(_label(job, "prepared"), training=status)
    models = list(dict.fromkeys(row.label["model"] for row in rows.values()))
    return sorted(rows.values(), key=lambda row: (models.index(row.label["model"]), "as" not in row.label))


def _label(job: Job, untrained: str) -> dict[str, str]:
    """The cell for people. untrained: describes a model that has no training axis, under the key `as`."""
    label = {axis: value_text(value) for axis, value in job.cell.items()}
    return label if len(label) > 1 else {**label, "as": untrained}


def _axes(rows: Sequence[_Row]) -> tuple[dict[str, str], list[str]]:
    """Axes that have the same value in all rows, and axes that distinguish rows."""
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

    def rank(row: _Row) -> int:
        return min((urgency.index(status.state) for status in _all_of(row, benchmark)), default=len(urgency))

    chosen = {id(row) for row in sorted(rows, key=rank)[:max_rows]}
    return [row for row in rows if id(row) in chosen], [row for row in rows if id(row) not in chosen]


def _all_of(row: _Row, benchmark: str) -> Iterator[JobStatus]:
    if row.training is not None:
        yield row.training
    yield from row.shards.get(benchmark, {}).values()


def _block(
    benchmark: str, languages: Sequence[str], rows: Sequence[_Row], axes: Sequence[str], console: Console
) -> Table:
    glyphs = glyphs_of(console)
    heads, labels = _labels(rows, axes)
    widths = [max(len(text) for text in column) for column in zip(heads, *labels, strict=True)]
    left = console.width - sum(width + 2 for width in widths) - TRAIN_WIDTH - 2
    header, step = _header(languages, left)
    if languages and not step:  # too narrow: counts, and long names are cut
        widths[0] = max(8, min(widths[0], widths[0] + left - COUNTS_WIDTH))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head, width in zip(heads, widths, strict=True):
        table.add_column(head, vertical="bottom", no_wrap=True, width=width)
    table.add_column("train", width=TRAIN_WIDTH, no_wrap=True)
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
        table.add_row(
            *(Text(text) for text in label), _training(row.training, glyphs), *([line] if languages else [])
        )
    return table


def _labels(rows: Sequence[_Row], axes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Column heads, and the fields of each row, without leading fields that repeat the row above."""
    more = [""] if len(axes) == 1 and any("as" in row.label for row in rows) else []
    heads = [*(axis_label(axis) for axis in axes), *more]
    result: list[list[str]] = []
    before: list[str] = []
    for row in rows:
        full = [row.label.get(axis, "") for axis in axes] + ["trained" for _ in more]
        if "as" in row.label:  # it has no training axes; their first column describes it
            full[1] = row.label["as"]
        same = 0
        while same < len(full) - 1 and before[same : same + 1] == full[same : same + 1]:
            same += 1
        result.append([""] * same + full[same:])
        before = full
    return heads, result


def _header(languages: Sequence[str], width: int) -> tuple[Text, int]:
    """Language codes, and columns per language: side by side, or vertical, or (0) only their number."""
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


def _training(status: JobStatus | None, glyphs: Mapping[str, str]) -> Text:
    """The state of the job that makes a model, and its percentage."""
    if status is None:
        return Text()
    text = glyphs[status.state]
    if status.state in ("running", "queued") and status.progress is not None and status.progress["total"]:
        text += f" {status.progress['done'] / status.progress['total']:.0%}"
    return Text(text, STYLES[status.state])


def glyphs_of(console: Console) -> Mapping[str, str]:
    """A character for each state, which the terminal can show."""
    return GLYPHS if console.encoding.lower().startswith("utf") else PLAIN_GLYPHS


def counts_of(counts: Mapping[str, int], console: Console) -> Text:
    """`● 12 done  ✗ 1 failed`: counts by state, and a legend of the characters."""
    glyphs = glyphs_of(console)
    parts = [
        Text(f"{glyphs[state]} {counts[state]} {state}", STYLES[state])
        for state in STATES
        if counts.get(state)
    ]
    return Text("  ").join(parts)


def print_status(survey: Survey, study: str, console: Console) -> None:
    """The matrix, totals, running jobs, and each distinct failure. study: as the user typed it."""
    console.print(matrix(survey, console))
    console.print()
    console.print(totals(survey, console))
    for text in pace_lines(survey):
        console.print(text, soft_wrap=True)
    for line in trouble_lines(survey, study):
        console.print(line, soft_wrap=True)


def totals(survey: Survey, console: Console) -> RenderableType:
    """Counts of jobs by state, and the state of the analysis."""
    lines = [Text.assemble(f"{len(survey.statuses)} jobs  ", counts_of(survey.counts, console))]
    for status in survey.statuses:
        if status.job.kind == "analyse":
            state = Text(f"{glyphs_of(console)[status.state]} {status.state}", STYLES[status.state])
            lines.append(Text.assemble("analysis  ", state))
    return Group(*lines)


def pace_lines(survey: Survey, *, most: int = MAX_PACES, width: int | None = None) -> list[Text]:
    """A line for each running task: its current job, and that job's pace; stalled ones come first.

    width: of a line, to which names are cut; None not to cut them.
    """
    running = [status for status in survey.statuses if status.pace is not None]
    running.sort(key=lambda status: status.pace is not None and not status.pace.stalled)
    lines = []
    for status in running[:most]:
        assert status.pace is not None
        pace = Text(describe(status.pace), STYLES["stale" if status.pace.stalled else "running"])
        if status.pace.num_waiting:
            pace.append(f", then {status.pace.num_waiting} more", "dim")
        name = Text(f"{status.job.kind} {status.job.name}")
        if width is not None:
            name.truncate(max(12, width - pace.cell_len - 2), overflow="ellipsis")
        lines.append(Text("  ").join((name, pace)))
    if len(running) > most:
        lines.append(Text(f"... and {len(running) - most} more running tasks", "dim"))
    return lines


def trouble_lines(survey: Survey, study: str) -> list[str]:
    """Markup: each distinct failure, the jobs that have it, and the command that explains it."""
    lines: list[str] = []
    if survey.view.trouble is not None:
        answered = survey.view.answered
        source = f"the queue is as of {age(answered)} ago, other" if answered else "all"
        lines.append(
            f"[yellow]{escape(survey.view.trouble)}[/]; {source} states are from the jobs' own files"
        )
    troubles = list(failures(survey.statuses).items())
    for (state, cause, message), members in troubles[:MAX_TROUBLES]:
        first = members[0].job
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        why = message if cause is None or cause in message else f"{cause}: {message}"
        name = f"{first.kind} {first.name} ({first.job_id}){more}: {why}"
        lines.append(f"[{STYLES[state]}]{state}[/] {escape(name)}")
        lines.append(f"  calsweep explain {escape(study)} {first.job_id}")
    if len(troubles) > MAX_TROUBLES:
        lines.append(f"... and {len(troubles) - MAX_TROUBLES} more: calsweep explain {escape(study)}")
    return lines


def age(since_s: float) -> str:
    """The time since a moment: `40 s`, `3 min`, `2.5 h`."""
    return duration(time.time() - since_s)
