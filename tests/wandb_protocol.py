"""The runs that a W&B server stores, and its answers to the GraphQL operations that the SDK sends.

Covers what the installed SDK uses for online runs, resumed runs, `wandb sync` and `wandb.Api()`. Operations
are recognised by name alone; an answer may hold more fields than the query names. tests/wandb_server.py
serves them.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.wandb_filters import matches

ENTITY = "tester"
Answer = dict[str, Any]


@dataclass
class StoredRun:
    """One run. history: one row for each line, as the server keeps them.

    overwritten: rows that were replaced by a line with the same number and other content, which a correct
    client never sends. config: as `Api().runs()` shows it, without W&B's own entries. state: running |
    finished | failed | preempting.
    """

    entity: str
    project: str
    name: str
    display_name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    state: str = "running"
    exit_code: int | None = None
    raw_config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    overwritten: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    created: str = field(default_factory=lambda: _now())

    @property
    def config(self) -> dict[str, Any]:
        return {key: entry["value"] for key, entry in self.raw_config.items() if key != "_wandb"}

    @property
    def node_id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}:{self.project}:{self.entity}".encode()).decode()

    def take_stream(self, sent: Mapping[str, Any]) -> None:
        """Handle one call of the file stream: lines of files, with their offsets, and the end of the run."""
        for name, chunk in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                self._take_rows(chunk.get("offset", 0), [json.loads(line) for line in chunk["content"]])
            elif name == "wandb-summary.json":
                self.summary.update(json.loads(chunk["content"][-1]))
        if sent.get("preempting"):
            self.state = "preempting"
        if sent.get("complete"):
            self.exit_code = sent.get("exitcode")
            self.state = "finished" if not self.exit_code else "failed"

    def _take_rows(self, offset: int, rows: Sequence[dict[str, Any]]) -> None:
        assert offset <= len(self.history), f"{self.name}: a gap before line {offset}"
        for place, row in enumerate(rows, start=offset):
            if place == len(self.history):
                self.history.append(row)
            elif self.history[place] != row:  # the same line comes again if our answer was lost
                self.overwritten.append(self.history[place])
                self.history[place] = row


class Store:
    """All runs, by (entity, project, run id), and all views, by id (tests/wandb_views.py).

    more: operations other than those of runs. unknown: names of operations that have no answer here.
    """

    def __init__(
        self,
        url: Callable[[], str],
        more: Mapping[str, Callable[[Store, Mapping[str, Any]], Answer]] | None = None,
    ) -> None:
        self.url = url
        self.known = {**OPERATIONS, **(more or {})}
        self.runs: dict[tuple[str, str, str], StoredRun] = {}
        self.views: dict[str, Answer] = {}
        self.operations: list[str] = []
        self.unknown: list[str] = []

    def run(self, name: str) -> StoredRun:
        """The only run with this id."""
        (run,) = [run for run in self.runs.values() if run.name == name]
        return run

    def answer(self, query: str, variables: Mapping[str, Any]) -> Answer:
        """The `data` of an operation's answer; raises KeyError for an unknown operation."""
        match = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = match.group(1) if match else query[:40]
        self.operations.append(operation)
        if operation not in self.known:
            self.unknown.append(operation)
            raise KeyError(f"{operation}: unknown to this server: {query}")
        return self.known[operation](self, variables)

    def asked_run(self, variables: Mapping[str, Any]) -> StoredRun | None:
        name = variables.get("name") or variables.get("run") or variables.get("runName")
        return self.runs.get((*place(variables), str(name)))


def place(variables: Mapping[str, Any]) -> tuple[str, str]:
    entity = variables.get("entity") or variables.get("entityName") or ENTITY
    project = variables.get("project") or variables.get("projectName") or "uncategorized"
    return entity, project


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def paged(nodes: Sequence[Answer], first: int = 0, size: int = 0) -> Answer:
    """A page of `nodes`; its cursor is the number of the next node."""
    last = min(len(nodes), first + size) if size else len(nodes)
    edges = [
        {"node": node, "cursor": str(number)} for number, node in enumerate(nodes[first:last], first + 1)
    ]
    info = {"endCursor": str(last), "hasNextPage": last < len(nodes), "__typename": "PageInfo"}
    return {"edges": edges, "pageInfo": info, "totalCount": len(nodes)}


def project_of(entity: str, name: str, **more: Any) -> Answer:
    return {
        "__typename": "Project",
        "id": f"project-{name}",
        "internalId": "1",
        "name": name,
        "entityName": entity,
        "entity": {"__typename": "Entity", "id": entity, "name": entity},
        "createdAt": _now(),
        "isBenchmark": False,
        "readOnly": False,
        "user": None,
        **more,
    }


def _run(run: StoredRun) -> Answer:
    last = run.history[-1] if run.history else {}
    return {
        "__typename": "Run",
        "id": run.node_id,
        "name": run.name,
        "displayName": run.display_name or run.name,
        "group": run.group,
        "jobType": run.job_type,
        "tags": run.tags,
        "notes": run.notes,
        "description": "",
        "state": run.state,
        "stopped": False,
        "sweepName": None,
        "commit": None,
        "readOnly": False,
        "createdAt": run.created,
        "heartbeatAt": _now(),
        "config": json.dumps(run.raw_config),
        "wandbConfig": json.dumps({"t": run.raw_config.get("_wandb", {}).get("value", {}).get("t")}),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": "{}",
        "historyLineCount": len(run.history),
        "eventsLineCount": 0,
        "logLineCount": 0,
        "historyTail": json.dumps([json.dumps(last)] if last else []),
        "eventsTail": "[]",
        "historyKeys": {"keys": {key: {} for key in last}, "lastStep": last.get("_step", -1)},
        "user": {"id": "1", "name": ENTITY, "username": ENTITY},
        "projectId": 1,
        "project": project_of(run.entity, run.project),
        "fileCount": len(run.files),
    }


def _viewer(store: Store, variables: Mapping[str, Any]) -> Answer:
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    user = {"__typename": "User", "id": "1", "name": ENTITY, "username": ENTITY, "entity": ENTITY}
    more = {"email": "", "admin": False, "flags": "{}", "deletedAt": None, "apiKeys": {"edges": []}}
    return {"viewer": {**user, **more, "teams": teams}}


def _features(store: Store, variables: Mapping[str, Any]) -> Answer:
    return {"serverInfo": {"features": [{"name": "LARGE_FILENAMES", "isEnabled": True}]}}


def _resume_status(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    return {"model": project_of(*place(variables), bucket=_run(run) if run is not None else None)}


def _upsert(store: Store, variables: Mapping[str, Any]) -> Answer:
    """Create or change a run, which has a name when it starts and is known by its node id afterwards."""
    run = next((run for run in store.runs.values() if run.node_id == variables.get("id")), None)
    known = run is not None
    key = (*place(variables), str(variables.get("name") or variables.get("id")))
    if run is None:
        known = key in store.runs
        run = store.runs.setdefault(key, StoredRun(*key))
        run.state, run.exit_code = "running", None
    names = {"displayName": "display_name", "groupName": "group", "jobType": "job_type"}
    for theirs, ours in {**names, "tags": "tags", "notes": "notes"}.items():
        if variables.get(theirs):
            setattr(run, ours, variables[theirs])
    if variables.get("config"):
        run.raw_config = json.loads(variables["config"])
    if variables.get("summaryMetrics"):
        run.summary = json.loads(variables["summaryMetrics"])
    return {
        "upsertBucket": {"bucket": _run(run), "inserted": not known, "serverSettings": {"serverMessages": []}}
    }


def _create_files(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    assert run is not None
    files = [{"name": name, "uploadUrl": _file_url(store, run, name)} for name in variables["files"]]
    return {"createRunFiles": {"runID": run.node_id, "uploadHeaders": [], "files": files}}


def _file_url(store: Store, run: StoredRun, name: str) -> str:
    return f"{store.url()}/runfile/{run.entity}/{run.project}/{run.name}/{quote(name)}"


def _one_run(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    return {"project": project_of(*place(variables), run=_run(run) if run is not None else None)}


def _runs(store: Store, variables: Mapping[str, Any]) -> Answer:
    entity, project = place(variables)
    wanted = json.loads(variables.get("filters") or "{}")
    runs = [run for key, run in store.runs.items() if key[:2] == (entity, project) and matches(run, wanted)]
    if not any(key[:2] == (entity, project) for key in store.runs):
        return {"project": None}
    first, size = int(variables.get("cursor") or 0), int(variables.get("perPage") or 0)
    page = paged([_run(run) for run in runs], first, size)
    return {"project": project_of(entity, project, runCount=len(runs), runs=page)}


def _history_keys(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    assert run is not None
    counts = {key: {"typeCounts": [{"type": "number", "count": 1}]} for row in run.history for key in row}
    last = run.history[-1]["_step"] if run.history else -1
    keys: Answer = {"sets": [], "keys": counts, "lastStep": last}
    return {"project": project_of(*place(variables), run={"historyKeys": keys})}


def _files(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    assert run is not None
    named = variables.get("fileNames") or []
    nodes = [
        {
            "__typename": "File", "id": name, "name": name, "url": _file_url(store, run, name),
            "directUrl": _file_url(store, run, name), "uploadUrl": "", "sizeBytes": len(content),
            "mimetype": "", "md5": "", "updatedAt": _now(),
        }
        for name, content in run.files.items() if not named or name in named
    ]  # fmt: skip
    with_files = {**_run(run), "fileCount": len(nodes), "files": paged(nodes)}
    return {"project": project_of(*place(variables), run=with_files)}


def _history_page(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    assert run is not None
    lo, hi, size = variables["minStep"], variables["maxStep"], variables["pageSize"]
    rows = [json.dumps(row) for row in run.history if lo <= row["_step"] < hi]
    return {"project": project_of(*place(variables), run={"history": rows[:size]})}


def _sampled_history(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    assert run is not None
    spec = json.loads(variables["spec"] if "spec" in variables else variables["specs"][0])
    keys, lo, hi = spec["keys"], spec.get("minStep", 0), spec.get("maxStep", 1 << 60)
    rows = [{key: row[key] for key in keys} for row in run.history
            if all(key in row for key in keys) and lo <= row["_step"] < hi]  # fmt: skip
    return {
        "project": project_of(*place(variables), run={"sampledHistory": [rows[: spec.get("samples", 1000)]]})
    }


def _full_history(store: Store, variables: Mapping[str, Any]) -> Answer:
    run = store.asked_run(variables)
    assert run is not None
    rows = [json.dumps(row) for row in run.history][: variables.get("samples") or 500]
    return {"project": project_of(*place(variables), run={"history": rows, "events": []})}


def _parquet_history(store: Store, variables: Mapping[str, Any]) -> Answer:
    """All rows are live: this server exports no Parquet files."""
    run = store.asked_run(variables)
    assert run is not None
    live = {"parquetUrls": [], "liveData": [{"_step": row["_step"]} for row in run.history]}
    return {"project": project_of(*place(variables), run={"parquetHistory": live})}


OPERATIONS: dict[str, Callable[[Store, Mapping[str, Any]], Answer]] = {
    "Viewer": _viewer,
    "GetViewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerFeaturesQuery": _features,
    "RunResumeStatus": _resume_status,
    "UpsertBucket": _upsert,
    "CreateRunFiles": _create_files,
    "Run": _one_run,
    "RunState": _one_run,
    "QueryRunInfo": _one_run,
    "LightweightRun": _one_run,
    "FullRun": _one_run,
    "Runs": _runs,
    "RunFiles": _files,
    "RunHistoryKeys": _history_keys,
    "HistoryPage": _history_page,
    "SampledHistoryPage": _sampled_history,
    "RunSampledHistory": _sampled_history,
    "RunFullHistory": _full_history,
    "RunParquetHistory": _parquet_history,
    "ProjectInternalId": lambda store, variables: {"project": project_of(*place(variables))},
}
