"""`publish` with the real SDK and the real wandb-workspaces against a loopback server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.exchange.publish import publish
from analysis.tables.calibration import table_rows
from study.errors import UserError
from study.files import write_json
from tests.analysis.studies import StudyFolder, random_letters, sweep
from tests.wandb_protocol import ENTITY
from tests.wandb_server import API_KEY, WandbServer, forget_wandb, serving
from tests.wandb_views import REPORT, WORKSPACE

PROJECT = "tests"
SHOWN = ("reliability-buckets-raw", "reliability-buckets-renormalised", "response", "slopes")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    pytest.importorskip("wandb_workspaces", reason="pip install -e '.[publish]'")
    forget_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    with serving() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        yield running


def views(server: WandbServer, kind: str) -> list[dict[str, Any]]:
    return [view for view in server.store.views.values() if view["type"] == kind]


def texts(node: Any) -> str:
    """All text in a view's spec."""
    if isinstance(node, dict):
        return "\n".join(texts(value) for value in node.values())
    return "\n".join(map(texts, node)) if isinstance(node, list) else str(node)


def test_twice_gives_one_report_one_workspace_and_one_run(server: WandbServer, folder: StudyFolder) -> None:
    sweep(folder, seeds=1, skip=[(0.1, 0, "sw")])
    write_json(
        folder.root / "site.json", {"tracking": {"mode": "offline", "project": PROJECT, "entity": None}}
    )
    first = publish(folder.root)
    assert first.is_new_run
    again = publish(folder.root)
    assert not again.is_new_run
    assert (again.report, again.workspace, again.run_id) == (first.report, first.workspace, first.run_id)

    (run,) = server.runs
    assert (run.name, run.project, run.job_type, run.state) == (first.run_id, PROJECT, "analyse", "finished")
    for name in ("tables/calibration.csv", "tables/calibration.md", "dashboard.html"):
        assert run.files[name] == (folder.root / name).read_bytes()
    pictures = {content for name, content in run.files.items() if name.startswith("media/images/")}
    assert pictures == {(folder.root / "figures" / f"{name}.png").read_bytes() for name in SHOWN}

    (report,), (workspace,) = views(server, REPORT), views(server, WORKSPACE)
    assert report["displayName"] == workspace["displayName"] == "Calibration: tiny"
    said = texts(json.loads(report["spec"]))
    assert "A synthetic study, for tests." in said
    assert "1 of 15 shards missing" in said
    # every number of the report's table is one of the tables' rows; the hole is told, not filled
    from analysis.reading.loading import load_study

    rows = table_rows(load_study(folder.root))
    swahili = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| sw ")]
    found = [row for row in rows if row["name"] == "sw" and row["missing"] is None]
    assert [line[:2] for line in swahili] == [
        ["sw Swahili", f"{x}"] for x in ("base", "SFT ε=0", "SFT ε=0.1")
    ]
    for row, (_, _, n, *numbers) in zip(found, swahili[:2], strict=True):
        expected = []
        for metric in (
            "accuracy",
            "confidence_renormalised",
            "confidence_raw",
            "ece_l2_renormalised",
            "ece_l2_raw",
        ):
            expected.append(f"{row[metric]:.3f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]")
        assert (n, numbers) == (str(row["n"]), expected)
    assert "".join(swahili[2][2:]).strip(" |") == "failed"
    for kind in ("raw", "renormalised"):
        assert f"accuracy against confidence, {kind}" in said
        assert said.count(f"ECE, {kind}\n") == 1
    # run sets: one a cell, of just its jobs
    for cell in (job["cell"] for job in folder.jobs[:3]):
        ids = [job["job_id"] for job in folder.jobs if job["cell"] == cell]
        assert json.dumps(ids) in json.dumps(json.loads(report["spec"]))
    assert set(run.history[-1]) >= {*SHOWN}
    assert all(name in said for name in SHOWN)


def test_new_results_are_another_run_in_the_same_report(server: WandbServer, folder: StudyFolder) -> None:
    sweep(folder, seeds=1, languages=["en"])
    first = publish(folder.root, f"{ENTITY}/{PROJECT}")
    folder.add({"model": "cldr-tiny"}, "sw", random_letters("new", 20, 2.0, 0.5, 0.9))
    second = publish(folder.root, PROJECT)
    assert second.run_id != first.run_id
    assert (second.report, second.workspace) == (first.report, first.workspace)
    (report,) = views(server, REPORT)
    assert second.run_id in report["spec"]
    assert first.run_id not in report["spec"]
    assert "| sw Swahili |" in texts(json.loads(report["spec"]))

    # another study in the same project has a report of its own
    other = StudyFolder(folder.root.parent / "other")
    other.root.mkdir()
    sweep(other, seeds=1, languages=["en"])
    assert publish(other.root, PROJECT).report != first.report
    assert len(views(server, REPORT)) == len(views(server, WORKSPACE)) == 2


def test_trouble_is_one_sentence_and_the_next_publish_goes_on(
    server: WandbServer, folder: StudyFolder
) -> None:
    sweep(folder, seeds=1, languages=["en"])
    server.refuse = True
    with pytest.raises(UserError) as told:
        publish(folder.root, PROJECT)
    assert "\n" not in str(told.value)
    server.refuse, server.delay_s = False, 0.2
    assert publish(folder.root, PROJECT).is_new_run
    assert len(views(server, REPORT)) == 1


def test_a_run_without_its_files_is_made_again(server: WandbServer, folder: StudyFolder) -> None:
    sweep(folder, seeds=1, languages=["en"])
    server.broken = lambda told: told.startswith("PUT") and "calibration.csv" in told
    with pytest.raises(UserError, match=r"W&B did not take every file; publish again|cannot be used"):
        publish(folder.root, PROJECT)
    assert not views(server, REPORT)
    server.broken = None
    assert publish(folder.root, PROJECT).is_new_run
    assert "tables/calibration.csv" in server.runs[0].files
    assert len(server.runs) == len(views(server, REPORT)) == 1


def test_mistakes(server: WandbServer, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is not a study"):
        publish(folder.root, PROJECT)
    sweep(folder, seeds=1, languages=["en"])
    with pytest.raises(UserError, match="has no W&B project, since it was not swept here"):
        publish(folder.root)
    for wrong in ("a/b/c", "a/"):
        with pytest.raises(UserError, match="is not a project"):
            publish(folder.root, wrong)
    with monkeypatch.context() as patched:
        patched.setenv("WANDB_API_KEY", "")
        patched.setenv("HOME", str(folder.root.parent))
        with pytest.raises(UserError, match=r"nobody is logged in|cannot be used"):
            publish(folder.root, PROJECT)
    # all of that is known before anything is computed
    made = {path.name for path in folder.root.iterdir()}
    assert not made & {"tables", "figures", "dashboard.html"}
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"type pip install -e '\.\[publish\]' in the checkout"):
        publish(folder.root, PROJECT)
