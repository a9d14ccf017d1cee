"""Tables of a study as files: `calibration`, and `differences` between its cells, in every format.

CSV and Parquet hold rows in full precision; Markdown and LaTeX have sections and rounded numbers, for people.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reading.headline import METRICS
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.tables import calibration, differences
from analysis.tables.calibration import Fields, number_columns
from analysis.tables.typesetting import Document, latex, markdown
from study.files import write_atomic
from study.paths import StudyPaths

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = {
    *(name for metric in METRICS for name in number_columns(metric)),
    *("value", "low", "high", "p_value", "holm", "false_discovery", "equivalence"),
    *("standard_error", "degrees_of_freedom", "seed_share", "language_sd"),
}
"""Columns that are float64 in Parquet even where every number is missing."""


@dataclass(frozen=True)
class Table:
    """One table of a study, to be written in any format."""

    study: Study
    name: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Fields]
    for_people: Callable[[Study, Sequence[Fields]], Document]


def study_tables(study: Study) -> list[Table]:
    """The tables of a study, in the order in which they are written."""
    rows = calibration.table_rows(study)
    columns = list(rows[0])
    of_cells = Table(study, "calibration", calibration.NOTE, columns, rows, calibration.for_people)
    rows, columns = differences.table_rows(study), differences.table_columns(study)
    of_contrasts = Table(
        study, "differences", differences.note_of(study, rows), columns, rows, differences.for_people
    )
    return [of_cells, of_contrasts]


def write_tables(
    study_dir: Path, *, formats: Sequence[str] | None = None, study: Study | None = None
) -> dict[str, Path]:
    """Write the tables of a study folder, in all four formats by default.

    Returns the paths by file name. study: where it is loaded already. Raises UserError where the folder is
    not a study.
    """
    written: dict[str, Path] = {}
    for table in study_tables(study or load_study(study_dir)):
        for name in formats or FORMATS:
            path = table_path(study_dir, table.name, name)
            write_atomic(path, FORMATS[name][1](table))
            written[path.name] = path
    return written


def table_path(study_dir: Path, table_name: str, format_name: str) -> Path:
    """The file of a table in a format."""
    return StudyPaths(Path(study_dir)).tables / f"{table_name}{FORMATS[format_name][0]}"


def to_csv(rows: Sequence[Fields], columns: Sequence[str] = ()) -> str:
    """CSV in full precision; a missing value is an empty field, and spaces separate job ids.

    columns: by default those of the first row.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: " ".join(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in rows
    )
    return stream.getvalue()


def _csv(table: Table) -> str:
    return to_csv(table.rows, table.columns)


def to_parquet(table: Table) -> bytes:
    """The rows of the CSV with job ids in lists; the schema's metadata has study, description and note."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: _column([row[name] for row in table.rows], name) for name in table.columns}
    about = {"study": table.study.name, "description": table.study.description, "note": table.note}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays).replace_schema_metadata(about), sink)
    return bytes(sink.getvalue().to_pybytes())


def _column(values: list[Any], name: str) -> pa.Array[Any]:
    """A typed column; an axis with mixed types or without any value becomes text."""
    import pyarrow as pa

    if name in NUMBERS:
        return pa.array(values, pa.float64())
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        column = pa.array([None if value is None else str(value) for value in values])
    return (
        column.cast(pa.int64() if name in ("n", "num_bins") else pa.string())
        if pa.types.is_null(column.type)
        else column
    )


def to_markdown(table: Table) -> str:
    """A pipe table per section, for people."""
    return markdown(table.for_people(table.study, table.rows))


def to_latex(table: Table) -> str:
    """A longtable per section, for people."""
    return latex(table.for_people(table.study, table.rows))


FORMATS: dict[str, tuple[str, Callable[[Table], str | bytes]]] = {
    "csv": (".csv", _csv),
    "markdown": (".md", to_markdown),
    "latex": (".tex", to_latex),
    "parquet": (".parquet", to_parquet),
}
