"""A job: a spec, the jobs that it needs, and its cell of the grid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from study.axes import NAMED_ALONE, axis_text, value_text
from study.files import HASH_LENGTH, canonical, digest
from study.jobs.specs import (
    AnalyseSpec,
    EvalSpec,
    Spec,
    eval_spec_from,
    identity,
    to_dict,
    train_spec_from,
)

Kind = Literal["prepare", "train", "evaluate", "analyse"]
KINDS: tuple[Kind, ...] = ("prepare", "train", "evaluate", "analyse")


@dataclass(frozen=True, slots=True)
class Job:
    """kind, spec: what to compute; together they are its identity, and `job_id` is their digest.

    needs: ids of jobs that must be complete first (for `analyse`: that must have ended).
    cell: axis -> value, for people and tables. A base model's evaluation has only `model`, and so has a
        prepare job, with its name in the grid.
    """

    kind: Kind
    spec: Spec
    needs: tuple[str, ...]
    cell: Mapping[str, Any]
    job_id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "job_id", digest({"kind": self.kind, "spec": identity(self.spec)}))

    @classmethod
    def with_id(
        cls, kind: Kind, spec: Spec, needs: tuple[str, ...], cell: Mapping[str, Any], job_id: str
    ) -> Job:
        """A job whose id is known from `evaluation_ids`: hashing is most of the work of making one."""
        job, put = cls.__new__(cls), object.__setattr__
        put(job, "kind", kind)
        put(job, "spec", spec)
        put(job, "needs", needs)
        put(job, "cell", cell)
        put(job, "job_id", job_id)
        return job

    @property
    def cell_name(self) -> str:
        """Its cell for people: `cldr-tiny/cldr-instruct lr=0.001 ε=0.1 seed=0`."""
        named = [value_text(self.cell[axis]) for axis in NAMED_ALONE if axis in self.cell]
        axes = [axis_text(axis, value) for axis, value in self.cell.items() if axis not in NAMED_ALONE]
        return " ".join(["/".join(named), *axes]).strip() or self.kind

    @property
    def name(self) -> str:
        """The cell's name, and for an evaluation its shard: `... · cldr sw`."""
        tail = (
            f" · {self.spec.benchmark.name} {self.spec.language}" if isinstance(self.spec, EvalSpec) else ""
        )
        return self.cell_name + tail

    def to_dict(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "kind": self.kind,
            "needs": list(self.needs),
            "cell": dict(self.cell),
            "spec": to_dict(self.spec),
        }


def evaluation_ids(shard: EvalSpec) -> Callable[[str], str]:
    """A function from a model's identity, as canonical JSON, to the id of its evaluate job on one shard.

    The ids are those of `Job`, but the shard is hashed only once.
    """
    mark = "\0model\0"  # occurs in no name: paths and hub ids cannot hold a NUL
    data = {"kind": "evaluate", "spec": {**identity(shard), "model": mark}}
    head, tail = canonical(data).split(json.dumps(mark))
    begun = hashlib.sha256(head.encode())

    def job_id(model: str) -> str:
        total = begun.copy()
        total.update((model + tail).encode())
        return total.hexdigest()[:HASH_LENGTH]

    return job_id


def job_from(data: dict[str, Any]) -> Job:
    """The inverse of `Job.to_dict`."""
    spec: Spec
    match data["kind"]:
        case "prepare" | "train":
            spec = train_spec_from(data["spec"])
        case "evaluate":
            spec = eval_spec_from(data["spec"])
        case _:
            spec = AnalyseSpec(evaluations=tuple(data["spec"]["evaluations"]))
    return Job(kind=data["kind"], spec=spec, needs=tuple(data["needs"]), cell=data["cell"])
