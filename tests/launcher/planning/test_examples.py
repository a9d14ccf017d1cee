"""The grids that are shipped: each can be looked at without a network, and says what its comments say."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from launcher.cli import main
from launcher.planning.plan import build_plan
from study.grid import sources
from study.grid.config import load_grid
from study.jobs.specs import Hyperparameters, TrainSpec
from tests.sweeping import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TRAININGS = {
    "demo": 6, "smoke": 1, "paper": 3 * 3 * 4 * 2, "released_code": 3 * 3 * 3 * 3,
    "ablation_temperature": 6 * 3 * 3 * 2 * 4, "ablation_softcap": 6 * 3 * 3 * 2 * 5,
}  # fmt: skip


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing listens on port 9, and nothing was fetched before."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sources, "_silent", [])


@pytest.mark.slow
@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("grid", EXAMPLES, ids=lambda path: str(path.stem))
def test_each_example_can_be_looked_at(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(grid), "--dry-run", "--json", f"outputs={tmp_path}", "cluster=local"]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    trainings = [task for task in printed["tasks"] if task["kind"] == "train"]
    assert len(trainings) == TRAININGS[grid.stem]
    open_names = "the hub does not answer" in captured.err
    assert open_names == (grid.stem not in ("demo", "smoke"))
    assert not list(tmp_path.iterdir())


def spec_of(name: str) -> dict[str, Any]:
    """Hyperparameters of an example's first training."""
    grid = load_grid(ROOT / "examples" / f"{name}.yaml")
    plan = build_plan(replace(grid, only_looked_at=True))
    spec = plan.of_kind("train")[0].spec
    assert isinstance(spec, TrainSpec)
    return asdict(spec.hyper)


@pytest.mark.usefixtures("no_hub")
def test_where_the_released_code_differs_from_the_paper() -> None:
    """As both files say in their comments, and nowhere else."""
    paper, released = spec_of("paper"), spec_of("released_code")
    assert {key for key in paper if paper[key] != released[key]} == {"warmup_ratio", "dropout"}
    assert (paper["warmup_ratio"], paper["dropout"]) == (0.02, 0.1)
    assert (released["warmup_ratio"], released["dropout"]) == (0.03, None)
    defaults = Hyperparameters()
    assert released == {**vars(defaults), "learning_rate": 5e-6}
    assert spec_of("ablation_temperature") == {**released, "logit_temperature": 0.05}
    assert spec_of("ablation_softcap") == {**released, "logit_softcap": 32.0}


@pytest.mark.usefixtures("no_hub")
def test_only_a_look_may_leave_a_revision_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("study: s\ngrid: {model: [org/x]}\nevaluate: {benchmarks: [cldr_lite]}\n")
    assert main(["sweep", str(grid), "--dry-run"]) == 0
    assert "the commits of org/x are unknown" in capsys.readouterr().err
    assert main(["sweep", str(grid)]) == 2
    assert "cannot find the commit of 'org/x'" in capsys.readouterr().err
