"""Do the tables of a study follow from its records? Each is computed again and compared, field by field.

The tables of `tables` and of `diagnose`, in every format that is there, and the manifest. What `diagnose`
wrote is computed again only where some of it is there: its records are read a second time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.diagnoses.diagnose import FILES, Diagnosis, diagnosed
from analysis.diagnoses.manifest import MANIFEST_NAME, manifest
from analysis.diagnoses.selection import CRITERIA, select_learning_rates
from analysis.diagnoses.temperature import NOTE
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.tables.files import FORMATS, Table, study_tables, table_path, to_csv
from analysis.tables.typesetting import latex_safe
from analysis.verification.table_diff import TOLERANCE, differences, num_rows
from study.errors import UserError
from study.paths import StudyPaths


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong."""

    files: tuple[Path, ...]
    num_rows: int
    """Of the tables that are there, as the records give them."""
    num_shards: int
    num_missing: int
    """Shards that are not done, or failed: their rows are marked, which is no difference."""
    num_refused: int
    """Shards that are done, with records that cannot be used."""
    differences: tuple[str, ...]
    """A sentence for each row of a file that the records do not give, naming its cell."""
    refused: tuple[str, ...]
    """A sentence for each shard refused, naming its file."""

    @property
    def is_right(self) -> bool:
        return not self.differences and not self.refused


def verify(
    study_dir: Path, *, study: Study | None = None, tell: Callable[[str], object] = lambda text: None
) -> Verification:
    """Compare the tables that were written, in every format, with the records.

    study: as loaded already. tell: called with the cell that is diagnosed again.
    Raises UserError where the folder is not a study or has no tables, RecordError where records change
    meanwhile.
    """
    study = study or load_study(study_dir)
    tables = study_tables(study)
    found: dict[Path, list[str]] = {}
    for table in tables:
        found |= _of_table(study_dir, table)
    total = sum(len(table.rows) for table in tables if any(p.stem == table.name for p in found))
    folder = StudyPaths(Path(study_dir)).tables
    if any((folder / name).is_file() for name in (*FILES, MANIFEST_NAME)):
        diagnosis = diagnosed(study_dir, study, tell=tell)
        found |= _of_diagnosis(study_dir, diagnosis)
        total += sum(
            num_rows(diagnosis.contents[path.name])
            for path in found
            if path.name in FILES and path.suffix == ".csv"
        )
    if not found:
        raise UserError(
            "has no tables to verify",
            where=str(study_dir),
            remedy=f"write them: calsweep analyse tables {study_dir}",
        )
    refused = [shard for shard in study.missing if shard.is_refused]
    return Verification(
        files=tuple(found),
        num_rows=total,
        num_shards=len(study.shards),
        num_missing=len(study.missing) - len(refused),
        num_refused=len(refused),
        differences=tuple(f"{path.name}: {said}" for path, several in found.items() for said in several),
        refused=tuple(str(shard.missing) for shard in refused),
    )


def _of_table(study_dir: Path, table: Table) -> dict[Path, list[str]]:
    """The differences of each of its files that are there."""
    found = {}
    for name, (suffix, render) in FORMATS.items():
        path = table_path(study_dir, table.name, name)
        if path.is_file():
            in_full = suffix in (".csv", ".parquet")
            expected = to_csv(table.study, table.rows, table.columns) if in_full else str(render(table))
            found[path] = differences(
                suffix,
                path.read_bytes(),
                expected,
                note=(table.note, latex_safe(table.note)),
                again=_again("tables", study_dir),
            )
    return found


def _of_diagnosis(study_dir: Path, diagnosis: Diagnosis) -> dict[Path, list[str]]:
    folder, again = StudyPaths(Path(study_dir)).tables, _again("diagnose", study_dir)
    found = {}
    for name, expected in diagnosis.contents.items():
        path = folder / name
        if path.is_file():
            found[path] = differences(path.suffix, path.read_bytes(), expected, note=(NOTE,), again=again)
    path = folder / MANIFEST_NAME
    if path.is_file():
        found[path] = list(_manifest_differences(study_dir, diagnosis, path))
    return found


def _again(command: str, study_dir: Path) -> str:
    return f"write them again: calsweep analyse {command} {study_dir}"


def _manifest_differences(study_dir: Path, diagnosis: Diagnosis, path: Path) -> Iterator[str]:
    """Of what follows from the records and the tables; the versions are those of another day and machine."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        yield f"is not a manifest ({error})"
        return
    if not isinstance(found, dict):
        yield "is not a manifest"
        return
    study = diagnosis.study
    choices = [
        _as_json(manifest(study_dir, study, select_learning_rates(study_dir, study, by), {}))
        for by in CRITERIA
    ]
    expected = choices[0]
    for name in ("study", "description", "bins", "temperature", "records", "missing"):
        if not _alike(found.get(name), expected[name]):
            yield f"{name} is not what the records give; {_again('diagnose', study_dir)}"
    if not any(_alike(found.get("learning_rates"), choice["learning_rates"]) for choice in choices):
        yield f"learning_rates is not what the records give; {_again('diagnose', study_dir)}"
    tables = found.get("tables")
    written = {name for name, content in diagnosis.contents.items() if content}
    if not isinstance(tables, dict) or tables.keys() != written:
        yield f"tables does not name what diagnose writes; {_again('diagnose', study_dir)}"
        return
    for name, sha256 in tables.items():
        file = path.with_name(name)
        if not file.is_file():
            yield f"{name} is not there any more; {_again('diagnose', study_dir)}"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            yield f"{name} has not the SHA-256 that it had"


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are, but for the last places of numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)
