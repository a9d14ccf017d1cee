"""Reports and workspaces. To a W&B server both are views: a type, a name, and a spec that it does not read.

Covers what wandb-workspaces uses. A request that has the id of a view changes that view; a request without an
id adds a view, even if there is already one with the same name and title.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.wandb_protocol import Answer, Store, paged, place, project_of

REPORT, WORKSPACE = "runs", "project-view"


def _upsert(store: Store, variables: Mapping[str, Any]) -> Answer:
    entity, project = place(variables)
    view_id = variables.get("id")
    assert view_id is None or view_id in store.views, f"there is no view {view_id}"
    known = view_id is not None
    view = store.views.setdefault(view_id or f"Vmlldzo{len(store.views)}", {"entity": entity})
    names = ("type", "name", "displayName", "description", "spec")
    view |= {name: variables[name] for name in names if variables.get(name) is not None}
    view |= {"id": next(key for key, value in store.views.items() if value is view)}
    view |= {"projectName": project, "project": {"id": "1", "name": project, "entityName": entity}}
    return {"upsertView": {"view": _view(view), "inserted": not known}}


def _view(view: Mapping[str, Any]) -> Answer:
    when = "2026-01-01T00:00:00Z"
    return {"description": "", "user": None, "createdAt": when, "updatedAt": when, **view}


def _project_views(store: Store, variables: Mapping[str, Any]) -> Answer:
    entity, project = place({**variables, "project": variables.get("project") or variables.get("name")})
    kind, name = variables.get("viewType") or REPORT, variables.get("viewName")
    views = [
        _view(view)
        for view in store.views.values()
        if (view["entity"], view["projectName"], view["type"]) == (entity, project, kind)
        and name in (None, view["name"])
    ]
    first, size = int(variables.get("reportCursor") or 0), int(variables.get("reportLimit") or 0)
    return {"project": project_of(entity, project, allViews=paged(views, first, size))}


def _projects(store: Store, variables: Mapping[str, Any]) -> Answer:
    entity, _ = place(variables)
    names = dict.fromkeys(key[1] for key in store.runs if key[0] == entity)
    return {"models": paged([project_of(entity, name) for name in names])}


VIEW_OPERATIONS: dict[str, Callable[[Store, Mapping[str, Any]], Answer]] = {
    "upsertView": _upsert,
    "UpsertView2": _upsert,
    "ProjectViews": _project_views,
    "View": _project_views,
    "GetProjects": _projects,
}
