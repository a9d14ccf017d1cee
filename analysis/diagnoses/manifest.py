"""tables/manifest.json: which records the diagnoses were computed from, with what, and which were missing.

It holds no time and no path: the same records give the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.metrics.temperature import COLDEST, HOTTEST, NUM_FOLDS
from analysis.reading.cell_records import reported, validation_of
from analysis.reading.shards import Shard, Study
from analysis.results.selection import Selection
from analysis.tables.calibration import BINS
from study.files import canonical, read_json
from study.jobs.plan import PLAN_VERSION
from study.paths import StudyPaths
from study.records import SCHEMA_VERSION

MANIFEST_NAME = "manifest.json"
READS_WITH = ("numpy", "pyarrow")


def manifest(
    study_dir: Path, study: Study, selections: Sequence[Selection], written: Mapping[str, bytes]
) -> dict[str, Any]:
    """The content of the file. written: the tables by file name."""
    return {
        "study": study.name,
        "description": study.description,
        "versions": {
            "plan": PLAN_VERSION,
            "records": SCHEMA_VERSION,
            "analysed_with": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in READS_WITH},
            },
            "evaluated_with": _evaluated_with(StudyPaths(Path(study_dir)), study),
        },
        "bins": BINS,
        "temperature": {
            "range": [COLDEST, HOTTEST],
            "fitted_on": [
                {
                    "test": list(test),
                    "validation": list(validation) if validation else None,
                    "folds": None if validation else NUM_FOLDS,
                }
                for test, validation in ((test, validation_of(study, test)) for test in reported(study))
            ],
        },
        "learning_rates": [_selection(selection) for selection in selections],
        "tables": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(written.items())},
        "records": [
            {**_described(shard), "record_hash": shard.record_hash}
            for shard in study.shards
            if not shard.missing
        ],
        "missing": [{**_described(shard), "reason": str(shard.missing)} for shard in study.missing],
    }


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "cell": dict(selection.cell.axes),
        "criterion": selection.criterion,
        "chosen": selection.chosen,
        "reason": selection.reason,
        "candidates": [asdict(candidate) for candidate in selection.candidates],
    }


def _described(shard: Shard) -> dict[str, Any]:
    return {
        "job_id": shard.job_id,
        "cell": dict(shard.cell.axes),
        "benchmark": shard.benchmark,
        "split": shard.split,
        "protocol": shard.protocol,
        "language": shard.language,
    }


def _environment(file: Path) -> dict[str, Any]:
    """The code and libraries in a job's env.json, or that it cannot be read: its records may be fine."""
    problem = {}
    try:
        env = read_json(file) if file.is_file() else {}
    except ValueError:  # cut off
        env = None
    if not isinstance(env, dict):
        env, problem = {}, {"problem": f"{file.name} cannot be read"}
    return {**{name: env.get(name) for name in ("code", "python", "versions")}, **problem}


def _evaluated_with(paths: StudyPaths, study: Study) -> list[dict[str, Any]]:
    """The code and libraries that the jobs ran with, and how many jobs each; null if a job does not say."""
    counts: dict[str, dict[str, Any]] = {}
    for shard in study.shards:
        if shard.missing:
            continue
        environment = _environment(paths.job(shard.job_id).env)
        counts.setdefault(canonical(environment), {**environment, "num_jobs": 0})["num_jobs"] += 1
    return [counts[key] for key in sorted(counts)]
