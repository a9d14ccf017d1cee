"""`python -m analysis diagnose`: baselines and diagnostics of a study as tables, and a manifest of them.

Everything comes from the records (and, for choosing a learning rate, the logs of trainings): no model, no
network. Records are read a cell at a time. The rows of slices, by far the most, are kept as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.diagnoses.answers import answering_rows
from analysis.diagnoses.correlations import correlation_rows
from analysis.diagnoses.decomposition import COLUMNS as DECOMPOSED
from analysis.diagnoses.decomposition import decomposition_rows
from analysis.diagnoses.manifest import MANIFEST_NAME, manifest
from analysis.diagnoses.metrics import COLUMNS as MEASURED
from analysis.diagnoses.metrics import metric_rows
from analysis.diagnoses.rows import Row, with_hashes, with_seeds
from analysis.diagnoses.selection import MACRO, Selection, select_learning_rates
from analysis.diagnoses.slices import slices_rows
from analysis.diagnoses.temperature import COLUMNS as SCALED
from analysis.diagnoses.temperature import temperature_rows, to_markdown
from analysis.reading.cell_records import Reader, reported, validation_of
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.results.settings import axis_names
from analysis.tables.files import to_csv
from study.files import write_atomic, write_json
from study.paths import StudyPaths

METRICS, TEMPERATURE, DECOMPOSITION, ANSWERING, SLICES, CORRELATIONS = (
    "metrics",
    "temperature",
    "decomposition",
    "diagnostics",
    "slices",
    "correlations",
)
FILES = (
    *(f"{name}.csv" for name in (METRICS, TEMPERATURE, DECOMPOSITION, ANSWERING, CORRELATIONS)),
    *(f"{TEMPERATURE}.md", f"{SLICES}.csv"),
)
"""The tables that are written, beside the manifest."""
SHOWN_SLICE = "cultural_sensitivity"


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    study: Study
    rows: Mapping[str, list[Row]]
    """By table. Of slices just those by cultural sensitivity, over several languages."""
    selections: tuple[Selection, ...]
    contents: Mapping[str, str]
    """The tables as text, by file name; empty where the study has no row for one."""
    written: tuple[Path, ...] = ()


def diagnose(
    study_dir: Path,
    *,
    study: Study | None = None,
    select_by: str = MACRO,
    tell: Callable[[str], object] = lambda text: None,
) -> Diagnosis:
    """Write the tables and the manifest of a study folder.

    study: the study as loaded already. select_by: as for `select_learning_rates`. tell: called with the name
    of each cell as it is read. A table without rows (no cell is trained, say) is not there afterwards.
    Raises UserError where the folder is not a study, RecordError where records change meanwhile.
    """
    found = diagnosed(study_dir, study or load_study(study_dir), select_by=select_by, tell=tell)
    return replace(found, written=_write(study_dir, found))


def diagnosed(
    study_dir: Path,
    study: Study,
    *,
    select_by: str = MACRO,
    tell: Callable[[str], object] = lambda text: None,
) -> Diagnosis:
    """The same, and nothing is written."""
    hashes = {shard.job_id: shard.record_hash for shard in study.shards if shard.record_hash is not None}
    axes, reader = axis_names(study), Reader(study_dir, study)
    rows: dict[str, list[Row]] = {
        name: [] for name in (METRICS, TEMPERATURE, DECOMPOSITION, ANSWERING, SLICES, CORRELATIONS)
    }
    slices: list[str] = []
    for test in reported(study):
        validation = validation_of(study, test)
        measured: list[Row] = []
        scaled: list[Row] = []
        decomposed: list[Row] = []
        for here, before in reader.walk(test):
            tell(" · ".join([*test[:2], *(f"{axis}={value}" for axis, value in here.cell.axes)]))
            fitted_on = None if validation is None else reader.read(validation, here.cell)
            measured += metric_rows(here, axes)
            scaled += temperature_rows(here, fitted_on, axes)
            decomposed += decomposition_rows(here, before, axes)
            rows[ANSWERING] += answering_rows(here, axes)
            sliced = with_hashes(slices_rows(reader, here, axes), hashes)
            slices.append(_without_header(to_csv(sliced)) if slices else to_csv(sliced))
            rows[SLICES] += [r for r in sliced if r["sliced_by"] == SHOWN_SLICE and r["level"] != "language"]
        keys = ("benchmark", "split", "protocol", *axes, "level", "name")
        rows[METRICS] += with_seeds(measured, MEASURED, [*keys, "confidence"])
        rows[TEMPERATURE] += with_seeds(scaled, SCALED, [*keys, "scheme"])
        rows[DECOMPOSITION] += with_seeds(
            decomposed, DECOMPOSED, [*keys, "compared_with", "metric", "confidence"]
        )
        rows[CORRELATIONS] += correlation_rows(study, test, axes)
    for name in (METRICS, TEMPERATURE, DECOMPOSITION, ANSWERING, CORRELATIONS):
        rows[name] = with_hashes(rows[name], hashes)
    contents = {
        f"{name}.csv": to_csv(rows[name]) if rows[name] else ""
        for name in (METRICS, TEMPERATURE, DECOMPOSITION, ANSWERING, CORRELATIONS)
    }
    contents[f"{TEMPERATURE}.md"] = to_markdown(study, rows[TEMPERATURE]) if rows[TEMPERATURE] else ""
    contents[f"{SLICES}.csv"] = "".join(slices)
    selections = select_learning_rates(study_dir, study, select_by)
    return Diagnosis(study, rows, tuple(selections), contents)


def _write(study_dir: Path, found: Diagnosis) -> tuple[Path, ...]:
    folder = StudyPaths(Path(study_dir)).tables
    for name, content in found.contents.items():
        if content:
            write_atomic(folder / name, content)
        else:  # of an earlier plan
            (folder / name).unlink(missing_ok=True)
    there = {name: content.encode() for name, content in found.contents.items() if content}
    write_json(folder / MANIFEST_NAME, manifest(study_dir, found.study, found.selections, there))
    return tuple(folder / name for name in [*there, MANIFEST_NAME])


def _without_header(csv: str) -> str:
    return csv.partition("\n")[2]
