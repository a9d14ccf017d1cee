"""Filters of runs in MongoDB's syntax, as `wandb.Api().runs(filters=...)` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.wandb_protocol import StoredRun


def matches(run: StoredRun, wanted: Mapping[str, Any]) -> bool:
    """Whether a run passes a filter made of values, `$and`, `$or`, `$in`, `$eq` and `$ne`."""
    for key, test in wanted.items():
        if key in ("$and", "$or"):
            if not (all if key == "$and" else any)(matches(run, part) for part in test):
                return False
            continue
        value = _field(run, key)
        tests = test if isinstance(test, dict) else {"$eq": test}
        for operator, operand in tests.items():
            values = value if isinstance(value, list) else [value]
            passed = {
                "$eq": lambda v=values, o=operand: o in v,
                "$ne": lambda v=values, o=operand: o not in v,
                "$in": lambda v=values, o=operand: any(element in o for element in v),
            }[operator]()
            if not passed:
                return False
    return True


def _field(run: StoredRun, key: str) -> Any:
    head, *rest = key.split(".")
    if head == "config":
        value: Any = run.config
        for part in (part for part in rest if part != "value"):
            value = value.get(part) if isinstance(value, dict) else None
        return value
    if head in ("summary_metrics", "summaryMetrics"):
        return run.summary.get(".".join(rest))
    names = {"displayName": "display_name", "jobType": "job_type"}
    return getattr(run, names.get(head, head))
