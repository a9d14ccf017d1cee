"""The records of a study, one cell at a time: a study's do not fit into memory together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.metrics.temperature import Sample
from analysis.reading.records import read_records
from analysis.reading.scored import PerExample, Scored, per_example, read_scored
from analysis.reading.shards import Cell, Shard, Study, Test, resource_order
from study.errors import RecordError
from study.files import digest, read_json
from study.jobs.specs import Benchmark, Source, identity
from study.paths import StudyPaths, items_file

if TYPE_CHECKING:
    import pyarrow as pa

BASE = "base"
UNSMOOTHED = "label_smoothing=0"
"""What a cell is compared with: the model before training, and the same training without smoothing."""

VALIDATION_SPLITS = ("validation", "dev", "val")


@dataclass(frozen=True, eq=False)
class Answers:
    """The records of one shard."""

    table: pa.Table
    """As they are, a row each time an item was asked."""
    scored: Scored
    examples: PerExample
    """Both with one row an item, means over the rotations of its options."""

    @property
    def sample(self) -> Sample:
        return Sample(self.scored.example_ids, self.scored.score, self.scored.label)


@dataclass(frozen=True, eq=False)
class CellRecords:
    """One cell on one test."""

    test: Test
    cell: Cell
    shards: Mapping[str, Shard]
    """By language, from rich to poor."""
    answers: Mapping[str, Answers]
    """Of the shards that are not missing."""

    @property
    def missing(self) -> list[str]:
        """Languages without records."""
        return [code for code in self.shards if code not in self.answers]


class Reader:
    """Reads the cells of a study folder."""

    def __init__(self, study_dir: Path, study: Study) -> None:
        self.paths = StudyPaths(Path(study_dir))
        self.study = study

    def read(self, test: Test, cell: Cell) -> CellRecords:
        """Every shard of a cell, checked against its DONE again.

        Raises RecordError for records that have changed since the study was loaded.
        """
        ordered = sorted(self.study.select(test, cell), key=lambda shard: resource_order(shard.language))
        shards = {shard.language: shard for shard in ordered}
        found = {code: self._answers(shard) for code, shard in shards.items() if not shard.missing}
        return CellRecords(test, cell, shards, found)

    def _answers(self, shard: Shard) -> Answers:
        folder = self.paths.job(shard.job_id)
        table, record_hash = read_records(folder, shard.job_id, self._specs[shard.job_id])
        if record_hash != shard.record_hash:
            raise RecordError(f"{folder.predictions}: the records have changed meanwhile; run this again")
        scored = read_scored(table, shard.protocol)
        return Answers(table, scored, per_example(scored))

    def items_file(self, shard: Shard) -> Path | None:
        """The table of a shard's items, where evaluation left one."""
        benchmark = self._specs[shard.job_id]["benchmark"]
        try:
            known = Benchmark(**{**benchmark, "source": Source(**benchmark["source"])})
        except (KeyError, TypeError):  # records that came from elsewhere
            return None
        file = items_file(self.paths.items, known.name, digest(identity(known)), shard.language)
        return file if file.is_file() else None

    @cached_property
    def _specs(self) -> dict[str, Any]:
        """What each job was asked, as the plan has it, without its model."""
        plan = read_json(self.paths.plan)
        jobs = (job for job in plan["jobs"] if job["kind"] == "evaluate")
        return {job["job_id"]: plan["shards"][job["shard"]] for job in jobs}

    def walk(self, test: Test) -> Iterator[tuple[CellRecords, dict[str, CellRecords]]]:
        """Each cell of a test, and the cells that it is compared with, by BASE and UNSMOOTHED.

        A base model comes before what was trained from it, a training without smoothing before those with
        it: three cells are in memory at most.
        """
        cells = [cell for cell in self.study.runs() if self.study.select(test, cell)]
        for model in dict.fromkeys(cell.get("model") for cell in cells):
            of_model = [cell for cell in cells if cell.get("model") == model]
            base = next((self.read(test, cell) for cell in of_model if cell.is_base), None)
            if base is not None:
                yield base, {}
            trained = [cell for cell in of_model if not cell.is_base]
            for key in dict.fromkeys(cell.without("label_smoothing") for cell in trained):
                before = {} if base is None else {BASE: base}
                group = [cell for cell in trained if cell.without("label_smoothing") == key]
                for cell in sorted(group, key=_smoothing):
                    here = self.read(test, cell)
                    yield here, before
                    if not _smoothing(cell):
                        before = {**before, UNSMOOTHED: here}


def validation_of(study: Study, test: Test) -> Test | None:
    """The validation split of the same benchmark under the same protocol, where the study evaluates one."""
    benchmark, split, protocol = test
    if split in VALIDATION_SPLITS:
        return None
    wanted = [(benchmark, name, protocol) for name in VALIDATION_SPLITS]
    return next((test for test in wanted if test in study.tests()), None)


def reported(study: Study) -> list[Test]:
    """The tests that results are about: all but validation splits, which serve to fit and to select."""
    return [test for test in study.tests() if test[1] not in VALIDATION_SPLITS]


def _smoothing(cell: Cell) -> float:
    return float(cell.get("label_smoothing") or 0.0)
