"""The records of an evaluate job: exactly the files that its DONE lists, each read and hashed once."""

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
    """The records of a complete job in the order of its items, and a hash of all parts, 16 hex.

    spec: the job's spec, as in plan.json.
    Raises RecordError, naming the file, for a part that is missing, changed, added, or from another shard
    than planned, for records that the schema refuses, and for a DONE of another job or without parts.
    """
    from study.records import read_predictions

    hashes = _listed_hashes(folder, job_id)
    contents = {}
    for name, sha256 in sorted(hashes.items()):
        path = folder.predictions / name
        contents[name] = path.read_bytes()
        # before anything is parsed: a corrupted file may hold anything
        if hashlib.sha256(contents[name]).hexdigest() != sha256:
            raise RecordError(f"{path}: corrupted or foreign, its SHA-256 is not the one in DONE")
    table, info = read_predictions(folder.predictions, contents)
    benchmark = spec["benchmark"]
    actual = (info.job_id, info.benchmark, info.split, info.protocol, info.language)
    planned = (job_id, benchmark["name"], benchmark.get("split", "test"), spec["protocol"], spec["language"])
    if actual != planned:
        raise RecordError(f"{folder.predictions}: records of job {', '.join(actual)}")
    order = "cyclic" if table["rotation"].to_numpy().any() else "original"
    if order != (spec.get("prompting") or {}).get("option_order", order):
        raise RecordError(
            f"{folder.predictions}: records with the options in {order} order, planned otherwise"
        )
    return table, digest(hashes)


def _listed_hashes(folder: JobPaths, job_id: str) -> dict[str, str]:
    """The SHA-256 of each part, by file name, as DONE lists them; the folder holds exactly these files."""
    try:
        done = read_json(folder.done)
        owner, hashes = done["job_id"], dict(done["parts"])
    except (ValueError, KeyError, TypeError):
        raise RecordError(f"{folder.done}: does not say which parts the job wrote") from None
    if owner != job_id:
        raise RecordError(f"{folder.done}: belongs to job {owner}")
    present = {path.name for path in folder.predictions.glob("*.parquet")}
    for names, problem in (
        (hashes.keys() - present, "is missing"),
        (present - hashes.keys(), "is not in DONE"),
    ):
        if names:
            raise RecordError(f"{folder.predictions / min(names)}: {problem}")
    return hashes
