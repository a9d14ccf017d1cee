"""A job: one spec, the jobs it needs, and the cell of the grid it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from study.files import digest
from study.specs import (
    AnalyseSpec,
    EvalSpec,
    Spec,
    TrainSpec,
    eval_spec_from,
    identity,
    to_dict,
    train_spec_from,
)

Kind = Literal["prepare", "train", "evaluate", "analyse"]
KINDS: tuple[Kind, ...] = ("prepare", "train", "evaluate", "analyse")


@dataclass(frozen=True)
class Job:
    """kind, spec: what to compute; together they are the identity.

    needs: ids of jobs that must be complete first (for `analyse`: ended in any way).
    cell: the axes of the grid this job stands for, for people and tables. A base model's evaluation has
        `model` alone; a prepare job has the name the grid gave it.
    """

    kind: Kind
    spec: Spec
    needs: tuple[str, ...]
    cell: Mapping[str, Any]

    @cached_property
    def job_id(self) -> str:
        # a prepare job is a train job that starts from nothing: its spec says so already
        return digest({"kind": self.kind, "spec": identity(self.spec)})

    @property
    def cell_name(self) -> str:
        """What people call its cell: `cldr-tiny/cldr-instruct lr=0.001 eps=0.1 seed=0`."""
        short = {"learning_rate": "lr", "label_smoothing": "eps"}
        places = [str(self.cell[axis]) for axis in ("model", "dataset") if axis in self.cell]
        head = "/".join(place.rstrip("/").split("/")[-1] for place in places)
        axes = [
            f"{short.get(axis, axis)}={value:g}"
            if isinstance(value, float)
            else f"{short.get(axis, axis)}={value}"
            for axis, value in self.cell.items()
            if axis not in ("model", "dataset")
        ]
        return " ".join([head, *axes]).strip() or self.kind

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


__all__ = ["KINDS", "AnalyseSpec", "EvalSpec", "Job", "Kind", "TrainSpec", "job_from"]
