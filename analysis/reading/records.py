"""The records of an evaluate job, as its DONE file lists them: those very files, or a RecordError."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from study.errors import RecordError
from study.files import digest, read_json
from study.paths import JobPaths

if TYPE_CHECKING:
    import pyarrow as pa


def read_records(folder: JobPaths, job_id: str, spec: Mapping[str, Any]) -> tuple[pa.Table, str]:
    """A complete job's records in the order of its items, and their hash: 16 hex over the parts' SHA-256.

    spec: of the job, as in plan.json.
    Raises RecordError, naming the file, for a part that is missing, changed, added or of another shard than
    planned, for records that the schema refuses, and for a DONE that is of another job or lists no parts.
    """
    from study.records import read_predictions

    # before anything is parsed: what a corrupted file holds is anybody's guess
    listed = _require_listed(folder, job_id)
    table, info = read_predictions(folder.predictions)
    benchmark = spec["benchmark"]
    found = (info.job_id, info.benchmark, info.split, info.protocol, info.language)
    planned = (job_id, benchmark["name"], benchmark.get("split", "test"), spec["protocol"], spec["language"])
    if found != planned:
        raise RecordError(f"{folder.predictions}: records of job {', '.join(found)}")
    order = "cyclic" if table["rotation"].to_numpy().any() else "original"
    if order != (spec.get("prompting") or {}).get("option_order", order):
        raise RecordError(
            f"{folder.predictions}: records with the options in {order} order, planned otherwise"
        )
    return table, digest(listed)


def _require_listed(folder: JobPaths, job_id: str) -> dict[str, str]:
    """The SHA-256 of each part by its name, from DONE, when the files are those."""
    try:
        done = read_json(folder.done)
        owner, listed = done["job_id"], dict(done["parts"])
    except (ValueError, KeyError, TypeError):
        raise RecordError(f"{folder.done}: does not say which parts the job wrote") from None
    if owner != job_id:
        raise RecordError(f"{folder.done}: of job {owner}")
    there = {path.name for path in folder.predictions.glob("*.parquet")}
    for names, problem in ((listed.keys() - there, "is gone"), (there - listed.keys(), "is not in DONE")):
        if names:
            raise RecordError(f"{folder.predictions / min(names)}: {problem}")
    for name, sha256 in sorted(listed.items()):
        path = folder.predictions / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise RecordError(f"{path}: corrupted or foreign, its SHA-256 is not the one in DONE")
    return listed
