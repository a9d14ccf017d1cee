"""Tables of a study as files: long-form rows, the same in every format.

A row is a cell x (a language | a resource bucket | all languages). Rows of one seed come first; a cell with
several seeds then has the means over them (`seed` empty, `num_seeds` above 1). `average` says how languages
were averaged: `macro` (each counts the same), `micro` (each example does), `none` for a single language. A
row with something missing has a reason in `missing`, and no numbers. `job_ids` and `record_hash` say what a
row was computed from. The tables for people have a section for each model, bucket and language.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.aggregate import BUCKETS, Average, Cell, Shard, Study, Test, load_study, summarise
from analysis.labels import axis_names
from analysis.measure import METRIC_NAMES
from analysis.summary import print_summary
from study.bins import NUM_BINS
from study.files import write_atomic
from study.paths import StudyPaths

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_NAME = "calibration"
BINS = {"num_bins": NUM_BINS, "bin_scheme": "equal_width", "bin_edges": "(lo, hi]"}
NOTE = (
    f"Bins of the ECE: {NUM_BINS} of equal width, (lo, hi], 0 in the first. raw: probability over the full "
    "vocabulary; renormalised (ren.): over the options. ECE floor: about the ECE of a perfectly calibrated "
    "model with the same confidences. macro: mean over languages; micro: over examples. n: examples, of one "
    "seed. NLL in nats. A dash: missing, or an axis that the cell does not have."
)

HEADINGS = {
    "learning_rate": "lr",
    "label_smoothing": "smoothing",
    "num_seeds": "n seeds",
    **{
        f"{metric}_{kind}": f"{text} {short}"
        for metric, text in (("confidence", "conf."), ("ece", "ECE"), ("ece_floor", "floor"))
        for kind, short in (("raw", "raw"), ("renormalised", "ren."))
    },
    "nll": "NLL",
    "brier": "Brier",
    "option_mass": "mass",
}
"""Short headings of the tables for people."""
NOT_FOR_PEOPLE = (
    "job_ids",
    "record_hash",
    "level",
    "num_shards",
    "num_missing",
    "gap_raw",
    "gap_renormalised",
)
"""Left out of them: told elsewhere in the file, in `missing`, or the difference of two columns."""
SECTIONS = {"all": "Per model", "bucket": "Per resource bucket", "language": "Per language"}
"""Their headings, by the level of their rows."""

Row = dict[str, Any]


def write_tables(
    study_dir: Path, *, formats: Sequence[str] | None = None, study: Study | None = None
) -> dict[str, Path]:
    """Write `tables/calibration.*` of a study folder; the path of each format (all four by default).

    study: the study as loaded already. Raises UserError where the folder is not a study.
    """
    study = study or load_study(study_dir)
    rows = table_rows(study)
    written: dict[str, Path] = {}
    for name in formats or FORMATS:
        written[name] = table_path(study_dir, name)
        write_atomic(written[name], FORMATS[name][1](study, rows))
    return written


def table_path(study_dir: Path, name: str) -> Path:
    """Where the table is in a format."""
    return StudyPaths(Path(study_dir)).tables / f"{TABLE_NAME}{FORMATS[name][0]}"


def table_rows(study: Study) -> list[Row]:
    """The table, one dict a row, all with the same keys in the same order."""
    axes = axis_names(study)
    runs = study.runs()
    seeds = {group: sum(run.without("seed") == group for run in runs) for group in study.groups()}
    cells = runs + [group for group, num_seeds in seeds.items() if num_seeds > 1]
    return [row for test in study.tests() for cell in cells for row in _cell_rows(study, test, cell, axes)]


def _cell_rows(study: Study, test: Test, cell: Cell, axes: Sequence[str]) -> Iterator[Row]:
    shards = study.select(test, cell)

    def row(level: str, name: str, average: Average | None, members: Sequence[Shard]) -> Row:
        summary = summarise(members, average or "macro")
        return {
            **dict(zip(("benchmark", "split", "protocol"), test, strict=True)),
            **{axis: cell.get(axis) for axis in axes},
            "num_seeds": summary.num_seeds,
            "level": level,
            "name": name,
            "average": average or "none",
            "missing": summary.missing,
            "num_shards": len(members),
            "num_missing": summary.num_missing,
            **{metric: getattr(summary.metrics, metric, None) for metric in METRIC_NAMES},
            **BINS,
            "job_ids": summary.job_ids,
            "record_hash": summary.record_hash,
        }

    averages: tuple[Average, ...] = ("macro", "micro")
    for language in study.languages():
        if members := study.select(test, cell, language):
            yield row("language", language, None, members)
    for bucket in BUCKETS:
        if members := [shard for shard in shards if shard.bucket == bucket]:
            for average in averages:
                yield row("bucket", bucket, average, members)
    if shards:
        for average in averages:
            yield row("all", "all", average, shards)


def to_csv(study: Study, rows: Sequence[Row]) -> str:
    """Full precision, UTF-8; an empty field is missing, and job ids are separated by spaces."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "job_ids": " ".join(row["job_ids"])} for row in rows)
    return stream.getvalue()


def to_parquet(study: Study, rows: Sequence[Row]) -> bytes:
    """As the CSV, with `job_ids` a list; the schema's metadata has study, description and note."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(rows[0])
    table = pa.table({name: _column([row[name] for row in rows], name) for name in names})
    about = {"study": study.name, "description": study.description, "note": NOTE}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(about), sink)
    return bytes(sink.getvalue().to_pybytes())


def _column(values: list[Any], name: str) -> pa.Array[Any]:
    """A typed column: an axis with mixed types becomes text, one without any value too."""
    import pyarrow as pa

    if name in METRIC_NAMES and name != "n":
        return pa.array(values, pa.float64())
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        column = pa.array([None if value is None else str(value) for value in values])
    return (
        column.cast(pa.int64() if name == "n" else pa.string()) if pa.types.is_null(column.type) else column
    )


def to_markdown(study: Study, rows: Sequence[Row]) -> str:
    """A pipe table a section, of what varies; the rest and the note above, what each row came from below.

    Rows have the numbers of the CSV's.
    """
    lines = [f"# {study.name}", ""]
    lines += [_pipe_safe(study.description), ""] if study.description else []
    lines += [_pipe_safe(_missing_text(study)), "", NOTE, ""]
    for title, numbers, columns, same in _sections(rows):
        lines += [f"## {title}", "", _pipe_safe(f"In every row: {same}."), ""]
        lines.append("| " + " | ".join(["row", *(column.heading for column in columns)]) + " |")
        lines.append("| --: | " + " | ".join("--:" if c.is_number else ":--" for c in columns) + " |")
        body = zip(*(column.fields for column in columns), strict=True)
        lines += [
            "| " + " | ".join([str(number), *map(_pipe_safe, fields)]) + " |"
            for number, fields in zip(numbers, body, strict=True)
        ]
        lines.append("")
    lines += ["## Jobs", ""]
    lines += [f"- row {number}: {_origin(row)}" for number, row in enumerate(rows, start=1)]
    return "\n".join(lines) + "\n"


def to_latex(study: Study, rows: Sequence[Row]) -> str:
    """A longtable a section, of what varies, with booktabs' rules; what each row came from as a comment."""
    lines = [r"% needs \usepackage{booktabs,longtable}; wide: for a landscape page (pdflscape)"]
    for title, numbers, columns, same in _sections(rows):
        about = f"{study.name}, {title.lower()}. {_missing_text(study)} {NOTE} In every row: {same}."
        head = " & ".join(_latex_safe(column.heading) for column in columns) + r" \\"
        lines += [
            r"\begingroup\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\begin{{longtable}}{{{''.join('r' if column.is_number else 'l' for column in columns)}}}",
            rf"\caption{{{_latex_safe(about)}}}\\",
            *(r"\toprule", head, r"\midrule", r"\endfirsthead"),
            *(r"\toprule", head, r"\midrule", r"\endhead"),
            *(r"\bottomrule", r"\endfoot"),
        ]
        body = zip(*(column.fields for column in columns), strict=True)
        for number, fields in zip(numbers, body, strict=True):
            lines.append(f"% {_origin(rows[number - 1])}")
            lines.append(" & ".join(map(_latex_safe, fields)) + r" \\")
        lines += [r"\end{longtable}", r"\endgroup"]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, tuple[str, Callable[[Study, Sequence[Row]], str | bytes]]] = {
    "csv": (".csv", to_csv),
    "markdown": (".md", to_markdown),
    "latex": (".tex", to_latex),
    "parquet": (".parquet", to_parquet),
}


class Column(NamedTuple):
    """A column of a table for people."""

    heading: str
    is_number: bool
    fields: list[str]


def _sections(rows: Sequence[Row]) -> Iterator[tuple[str, list[int], list[Column], str]]:
    """Each section: its title, the numbers of its rows, the columns that vary, the others as a phrase."""
    for level, title in SECTIONS.items():
        numbers = [number for number, row in enumerate(rows, start=1) if row["level"] == level]
        if not numbers:
            continue
        varied, same = [], []
        for name in rows[0]:
            if name in NOT_FOR_PEOPLE or (name == "name" and level == "all"):
                continue
            values = [rows[number - 1][name] for number in numbers]
            is_number = all(value is None or isinstance(value, int | float) for value in values)
            heading = level if name == "name" else HEADINGS.get(name, name)
            column = Column(heading, is_number, [_field(name, value) for value in values])
            if len(set(column.fields)) > 1 or name == "name":
                varied.append(column)
            elif name in ("missing", "average") and column.fields[0] in ("-", "none"):
                continue
            else:
                same.append(f"{heading} {column.fields[0]}")
        yield title, numbers, varied, ", ".join(same)


def _origin(row: Row) -> str:
    return f"records {row['record_hash'] or '-'} of jobs {' '.join(row['job_ids'])}"


def _field(name: str, value: Any) -> str:
    """Three decimals for what is measured, an axis as it is, a dash for what is missing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if name in METRIC_NAMES else f"{value:g}"
    return str(value)


def _missing_text(study: Study) -> str:
    return f"{len(study.missing)} of {len(study.shards)} shards are missing."


def _pipe_safe(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _latex_safe(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\n": " ",
        "[": "{[}",  # after a row's end these two would be arguments of it
        "*": "{*}",
        **{sign: "\\" + sign for sign in "&%$#_{}"},
    }
    return "".join(special.get(sign, sign) for sign in text)


__all__ = ["FORMATS", "print_summary", "table_rows", "write_tables"]
