"""`calsweep analyse diagnose`: further tables of a study, and a manifest of them.

Everything is computed from the records (and, to choose a learning rate, the logs of trainings): no model, no
network. The rows of a cell are computed in the pass over the records that also measures its shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from analysis.diagnoses import answers, correlations, decomposition, metrics, multiverse, slices, temperature
from analysis.diagnoses.manifest import MANIFEST_NAME, manifest
from analysis.diagnoses.rows import Row, Table, hashes_of, with_hashes
from analysis.diagnoses.selection import selection_rows
from analysis.reading.cell_records import CellRecords, reported
from analysis.reading.loading import Visited, visit_study
from analysis.reading.shards import Study
from analysis.results.selection import (
    MACRO,
    METRICS,
    Selection,
    select_learning_rates,
)
from analysis.results.settings import axis_names
from analysis.tables.files import to_csv
from study.errors import RecordError
from study.files import write_atomic, write_json
from study.paths import StudyPaths

TABLES: tuple[Table, ...] = (
    metrics.TABLE,
    temperature.TABLE,
    decomposition.TABLE,
    answers.TABLE,
    correlations.TABLE,
    slices.TABLE,
)
"""A table that is added here is written, averaged over seeds, hashed and verified."""
FILES = (
    *(f"{table.name}.csv" for table in TABLES if not table.is_shown),
    *(f"{table.name}.md" for table in TABLES if table.to_markdown),
    *("multiverse.csv", "multiverse.md"),
    *(f"{table.name}.csv" for table in TABLES if table.is_shown),
)
"""The tables that are written, beside the manifest and, where there is a choice, selection.csv."""


@dataclass(frozen=True)
class CellTable:
    """What one cell adds to a table: rows, and of a long table just those that are shown."""

    rows: Sequence[Row]
    text: str
    """All rows as CSV, with a header, if the table is long."""


@dataclass(frozen=True)
class StudyPass:
    """What one pass over the records of a study gave."""

    study: Study
    cells: Visited[Mapping[str, CellTable] | RecordError]
    """By table, or what is wrong with the items table of a cell."""


@dataclass(frozen=True)
class Diagnosis:
    """The tables of a study, and the choice of learning rates."""

    study: Study
    rows: Mapping[str, list[Row]]
    """By table; of a long table just the rows that are shown."""
    selections: tuple[Selection, ...]
    """By the NLL."""
    other_selections: tuple[Selection, ...]
    """By the other metrics, where there is a validation split."""
    contents: Mapping[str, str]
    """The tables as text, by file name; empty where the study has no row for one."""
    notes: Mapping[str, str]
    """What the Markdown files say below their titles, by file name."""
    written: tuple[Path, ...] = ()


def read_study(study_dir: Path) -> StudyPass:
    """Read a study folder once, for its metrics and for `diagnosed`. Raises as `load_study` does."""
    return StudyPass(*visit_study(study_dir, lambda study: partial(_cell_tables, axis_names(study))))


def diagnose(study_dir: Path, *, read: StudyPass | None = None, select_by: str = MACRO) -> Diagnosis:
    """Write the tables and the manifest of a study folder.

    read: from `read_study`, if the records were read already. select_by: as for `select_learning_rates`. The
    file of a table without rows (if no cell is trained, say) is removed.
    Raises UserError where the folder is not a study, RecordError where an items table does not fit.
    """
    diagnosis = diagnosed(study_dir, read or read_study(study_dir), select_by=select_by)
    folder = StudyPaths(Path(study_dir)).tables
    filled = {name: content for name, content in diagnosis.contents.items() if content}
    for name, content in filled.items():
        write_atomic(folder / name, content)
    for name in diagnosis.contents.keys() - filled:  # from an earlier plan
        (folder / name).unlink(missing_ok=True)
    encoded = {name: content.encode() for name, content in filled.items()}
    write_json(folder / MANIFEST_NAME, manifest(study_dir, diagnosis.study, diagnosis.selections, encoded))
    return replace(diagnosis, written=tuple(folder / name for name in [*filled, MANIFEST_NAME]))


def diagnosed(study_dir: Path, read: StudyPass, *, select_by: str = MACRO) -> Diagnosis:
    """The same as `diagnose`, but nothing is written."""
    study = read.study
    axes, hashes = axis_names(study), hashes_of(study.shards)
    rows: dict[str, list[Row]] = {table.name: [] for table in TABLES}
    long: dict[str, list[str]] = {table.name: [] for table in TABLES}
    for test in reported(study):
        cells = [tables for (visited, _), tables in read.cells.items() if visited == test]
        for table in TABLES:
            named: list[Row] = []
            if table.test_rows is not None:
                named += [table.named(test, cell, axes, row) for cell, row in table.test_rows(study, test)]
            for tables in cells if table.cell_rows is not None else ():
                if isinstance(tables, RecordError):
                    raise tables
                named += tables[table.name].rows
                long[table.name].append(tables[table.name].text)
            if table.over_seeds:
                named = table.with_seed_means(named, axes)
            rows[table.name] += named if table.is_shown else with_hashes(named, hashes)
    contents = {f"{table.name}.csv": _csv(rows[table.name]) for table in TABLES if not table.is_shown}
    for table in TABLES:
        if table.to_markdown is not None:
            lines = rows[table.name]
            contents[f"{table.name}.md"] = table.to_markdown(study, lines) if lines else ""
    of_multiverse = multiverse.multiverse_rows(study, rows[metrics.TABLE.name])
    contents["multiverse.csv"] = _csv(with_hashes(of_multiverse, hashes))
    contents["multiverse.md"] = multiverse.to_markdown(study, of_multiverse) if of_multiverse else ""
    contents |= {f"{table.name}.csv": _joined(long[table.name]) for table in TABLES if table.is_shown}
    contents["selection.csv"] = _csv(with_hashes(selection_rows(study_dir, study), hashes))
    notes = {f"{table.name}.md": table.note for table in TABLES}
    first, *others = (tuple(select_learning_rates(study_dir, study, select_by, by)) for by in METRICS)
    return Diagnosis(study, rows, first, sum(others, ()), contents, notes)


def _cell_tables(axes: Sequence[str], records: CellRecords) -> Mapping[str, CellTable] | RecordError:
    """What a cell adds to each table. An error does not end the pass: other tables do not need it."""
    tables = {}
    for table in TABLES:
        if table.cell_rows is None:
            continue
        try:
            rows = [table.named(records.test, records.cell, axes, row) for row in table.cell_rows(records)]
        except RecordError as error:
            return error
        text = ""
        if table.is_shown is not None:
            cells = (records, *records.before.values(), *([records.validation] if records.validation else []))
            rows = with_hashes(rows, hashes_of(shard for cell in cells for shard in cell.shards.values()))
            text = _csv(rows)
            rows = [row for row in rows if table.is_shown(row)]
        tables[table.name] = CellTable(rows, text)
    return tables


def _csv(rows: Sequence[Row]) -> str:
    return to_csv(rows) if rows else ""


def _joined(texts: Sequence[str]) -> str:
    """CSV texts under the header of the first."""
    return "".join(text if place == 0 else text.partition("\n")[2] for place, text in enumerate(texts))
