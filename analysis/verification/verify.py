"""Do the tables of a study follow from its records? Each is computed again and compared, field by field.

This covers the tables of `tables` and of `diagnose`, in every format that was written, and the manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.diagnoses.diagnose import FILES, Diagnosis, diagnosed, read_study
from analysis.diagnoses.manifest import MANIFEST_NAME, manifest
from analysis.reading.loading import load_study
from analysis.results.selection import CRITERIA, select_learning_rates
from analysis.tables.files import FORMATS, Table, study_tables, table_path, to_csv
from analysis.tables.typesetting import latex_safe
from analysis.verification.table_diff import TOLERANCE, differences, num_rows
from study.errors import UserError
from study.paths import StudyPaths


@dataclass(frozen=True)
class Verification:
    """What was compared, and what is wrong."""

    files: tuple[Path, ...]
    num_rows: int
    """Rows of the tables that exist, as the records give them."""
    num_shards: int
    num_missing: int
    """Shards that are not done, or failed. Their rows are marked, which is not a difference."""
    num_refused: int
    """Shards that are done, with records that cannot be used."""
    differences: tuple[str, ...]
    """A sentence for each row of a file that the records do not give, naming its cell."""
    refused: tuple[str, ...]
    """A sentence for each shard refused, naming its file."""

    @property
    def is_right(self) -> bool:
        return not self.differences and not self.refused


def verify(study_dir: Path) -> Verification:
    """Compare the tables that were written, in every format, with the records.

    The tables of `diagnose` are computed again only if some of its files exist.
    Raises UserError where the folder is not a study or has no tables, RecordError where an items table does
    not fit.
    """
    folder = StudyPaths(Path(study_dir)).tables
    diagnosis = None
    if any((folder / name).is_file() for name in (*FILES, MANIFEST_NAME)):
        diagnosis = diagnosed(study_dir, read_study(study_dir))
    study = load_study(study_dir) if diagnosis is None else diagnosis.study
    tables = study_tables(study)
    by_file: dict[Path, list[str]] = {}
    for table in tables:
        by_file |= _table_differences(study_dir, table)
    total = sum(len(table.rows) for table in tables if any(p.stem == table.name for p in by_file))
    if diagnosis is not None:
        by_file |= _diagnosis_differences(study_dir, diagnosis)
        total += sum(
            num_rows(content)
            for name, content in diagnosis.contents.items()
            if folder / name in by_file and name.endswith(".csv")
        )
    if not by_file:
        raise UserError(
            "has no tables to verify",
            where=str(study_dir),
            remedy=f"write them: calsweep analyse tables {study_dir}",
        )
    refused = [shard for shard in study.missing if shard.is_refused]
    return Verification(
        files=tuple(by_file),
        num_rows=total,
        num_shards=len(study.shards),
        num_missing=len(study.missing) - len(refused),
        num_refused=len(refused),
        differences=tuple(f"{path.name}: {text}" for path, texts in by_file.items() for text in texts),
        refused=tuple(str(shard.missing) for shard in refused),
    )


def _table_differences(study_dir: Path, table: Table) -> dict[Path, list[str]]:
    """The differences of each file of a table that exists."""
    by_file = {}
    for name, (suffix, render) in FORMATS.items():
        path = table_path(study_dir, table.name, name)
        if path.is_file():
            in_full = suffix in (".csv", ".parquet")
            expected = to_csv(table.rows, table.columns) if in_full else str(render(table))
            by_file[path] = differences(
                suffix,
                path.read_bytes(),
                expected,
                note=(table.note, latex_safe(table.note)),
                again=_again("tables", study_dir),
            )
    return by_file


def _diagnosis_differences(study_dir: Path, diagnosis: Diagnosis) -> dict[Path, list[str]]:
    """The differences of each file of `diagnose` that exists."""
    folder, again = StudyPaths(Path(study_dir)).tables, _again("diagnose", study_dir)
    by_file = {}
    for name, expected in diagnosis.contents.items():
        path = folder / name
        if path.is_file():
            note = (diagnosis.notes.get(name, ""),)
            by_file[path] = differences(path.suffix, path.read_bytes(), expected, note=note, again=again)
    path = folder / MANIFEST_NAME
    if path.is_file():
        by_file[path] = list(_manifest_differences(study_dir, diagnosis, path))
    return by_file


def _again(command: str, study_dir: Path) -> str:
    return f"write them again: calsweep analyse {command} {study_dir}"


def _manifest_differences(study_dir: Path, diagnosis: Diagnosis, path: Path) -> Iterator[str]:
    """What differs in the parts that follow from records and tables; the versions are not compared."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        yield f"is not a manifest ({error})"
        return
    if not isinstance(written, dict):
        yield "is not a manifest"
        return
    study = diagnosis.study
    choices = [
        _as_json(manifest(study_dir, study, select_learning_rates(study_dir, study, by), {}))
        for by in CRITERIA
    ]
    expected = choices[0]
    for name in ("study", "description", "bins", "temperature", "records", "missing"):
        if not _alike(written.get(name), expected[name]):
            yield f"{name} is not what the records give; {_again('diagnose', study_dir)}"
    if not any(_alike(written.get("learning_rates"), choice["learning_rates"]) for choice in choices):
        yield f"learning_rates is not what the records give; {_again('diagnose', study_dir)}"
    tables = written.get("tables")
    filled = {name for name, content in diagnosis.contents.items() if content}
    if not isinstance(tables, dict) or tables.keys() != filled:
        yield f"tables does not name what diagnose writes; {_again('diagnose', study_dir)}"
        return
    for name, sha256 in tables.items():
        file = path.with_name(name)
        if not file.is_file():
            yield f"{name} no longer exists; {_again('diagnose', study_dir)}"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            yield f"{name} has changed: its SHA-256 is not the one in the manifest"


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _alike(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal but for the last places of numbers."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(a == b)
