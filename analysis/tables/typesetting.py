"""Tables for people: Markdown and LaTeX from sections of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from analysis.reading.shards import Study
from analysis.results.names import SECTIONS


class Column(NamedTuple):
    """A column: a field for each row. The one whose heading is `name` says what a row is about."""

    heading: str
    is_number: bool
    fields: list[str]


@dataclass(frozen=True)
class Section:
    """One table of a file."""

    title: str
    numbers: list[int]
    """The number of each row in the file, from 1."""
    columns: list[Column]
    """Those that vary."""
    same: str
    """The other columns as a phrase."""


@dataclass(frozen=True)
class Document:
    """A file of tables."""

    study: Study
    note: str
    sections: list[Section]
    origins: list[str]
    """What each row was computed from, in the order of the rows' numbers."""


def markdown(document: Document) -> str:
    """A pipe table per section; the note and what does not vary above, the origins of the rows at the end."""
    study = document.study
    lines = [f"# {study.name}", ""]
    lines += [_pipe_safe(study.description), ""] if study.description else []
    lines += [_pipe_safe(_missing_text(study)), "", document.note, ""]
    for section in document.sections:
        lines += [f"## {section.title}", "", _pipe_safe(f"In every row: {section.same}."), ""]
        lines.append("| " + " | ".join(["row", *(column.heading for column in section.columns)]) + " |")
        lines.append("| --: | " + " | ".join("--:" if c.is_number else ":--" for c in section.columns) + " |")
        lines += [
            "| " + " | ".join([str(number), *map(_pipe_safe, fields)]) + " |"
            for number, fields in _body(section)
        ]
        lines.append("")
    lines += ["## Jobs", ""]
    lines += [f"- row {number}: {origin}" for number, origin in enumerate(document.origins, start=1)]
    return "\n".join(lines) + "\n"


def latex(document: Document) -> str:
    """A longtable per section, with booktabs' rules; the origin of each row as a comment."""
    study = document.study
    lines = [r"% needs \usepackage{booktabs,longtable}; wide: for a landscape page (pdflscape)"]
    for section in document.sections:
        about = (
            f"{study.name}, {section.title.lower()}. {_missing_text(study)} {document.note} "
            f"In every row: {section.same}."
        )
        head = " & ".join(latex_safe(column.heading) for column in section.columns) + r" \\"
        lines += [
            r"\begingroup\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\begin{{longtable}}{{{''.join('r' if c.is_number else 'l' for c in section.columns)}}}",
            rf"\caption{{{latex_safe(about)}}}\\",
            *(r"\toprule", head, r"\midrule", r"\endfirsthead"),
            *(r"\toprule", head, r"\midrule", r"\endhead"),
            *(r"\bottomrule", r"\endfoot"),
        ]
        for number, fields in _body(section):
            lines.append(f"% {document.origins[number - 1]}")
            lines.append(" & ".join(map(latex_safe, fields)) + r" \\")
        lines += [r"\end{longtable}", r"\endgroup"]
    return "\n".join(lines) + "\n"


def column(heading: str, values: Sequence[Any]) -> Column:
    """A column of axis values, names or counts."""
    is_number = all(value is None or isinstance(value, int | float) for value in values)
    return Column(heading, is_number, [field_text(value) for value in values])


def by_level(levels: Sequence[str], columns: Sequence[Column], *, keep: Sequence[str] = ()) -> list[Section]:
    """The rows in a section for each level: per model, per bucket, per language.

    levels: of each row. keep: headings of columns that are shown even where all their fields are the same.
    """
    sections = []
    for level, title in SECTIONS.items():
        places = [place for place, of_row in enumerate(levels) if of_row == level]
        chosen = [
            Column(level if c.heading == "name" else c.heading, c.is_number, [c.fields[p] for p in places])
            for c in columns
            if c.heading != "name" or level != "all"
        ]
        if places:
            varied, same = _sort_columns(chosen, keep=(level, *keep))
            sections.append(Section(title, [place + 1 for place in places], varied, same))
    return sections


def _sort_columns(columns: Sequence[Column], *, keep: Sequence[str]) -> tuple[list[Column], str]:
    """The columns that vary or are to be kept, and the others as a phrase, without those of dashes."""
    varied = [c for c in columns if len(set(c.fields)) > 1 or (c.heading in keep and set(c.fields) != {"-"})]
    same = [
        f"{c.heading} {c.fields[0]}"
        for c in columns
        if c not in varied and not (c.heading in ("missing", "average") and c.fields[0] in ("-", "none"))
    ]
    return varied, ", ".join(same)


def field_text(value: Any) -> str:
    """The value of an axis or a count as text, a dash where it is missing."""
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _body(section: Section) -> Iterator[tuple[int, tuple[str, ...]]]:
    rows = zip(*(column.fields for column in section.columns), strict=True)
    yield from zip(section.numbers, rows, strict=True)


def _missing_text(study: Study) -> str:
    return f"{len(study.missing)} of {len(study.shards)} shards are missing."


def _pipe_safe(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def latex_safe(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\n": " ",
        "[": "{[}",  # at the start of a row these two would be arguments of the `\\\\` before it
        "*": "{*}",
        **{sign: "\\" + sign for sign in "&%$#_{}"},
    }
    return "".join(special.get(sign, sign) for sign in text)
