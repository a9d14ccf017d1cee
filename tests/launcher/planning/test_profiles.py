"""Cluster profiles: what is read from them, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.cluster import sbatch
from launcher.planning.sites import SlurmSite, load_profile, load_site, read_site
from launcher.planning.tasks import Task
from study.errors import UserError
from study.grid.config import load_grid
from study.jobs.job import Kind
from study.paths import StudyPaths
from tests.grids import grid_of, write_grid
from tests.launcher.submitting import GRID, PROFILE, site_of


def test_resources_are_defaults_then_profile_then_grid(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    train, evaluate, prepare = (site.resources[kind] for kind in ("train", "evaluate", "prepare"))
    assert (train.nodes, train.tasks_per_node, train.mem_gib, train.num_tasks) == (2, 4, 1.5, 8)
    assert (evaluate.gpus_per_node, evaluate.time_min, evaluate.nodes) == (1, 20, 1)
    assert (prepare.nodes, prepare.time_min) == (1, 60)


def test_a_quoted_number_of_nodes_is_a_number(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path, GRID.replace("cluster: site.yaml", "cluster: local"), "resources.train.nodes='2'"
    )
    assert load_site(grid).resources["train"].num_tasks == 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("executor: pbs", "executor: 'pbs' is unknown; write slurm"),
        ("max_array_size: 0", "max_array_size: out of range; give 1 or more"),
        ("array_parallelism: 0", "array_parallelism: out of range; give 1 or more"),
        ("acount: x", "acount: unknown key; did you mean 'account'?"),
        ("setup: module load cuda", "setup: not a list; write [module load cuda]"),
        ("setup: [{export A=b: c}]", "setup[0]: {'export A=b': 'c'} is not text; put it in quotes"),
        (
            "sbatch: {array: 0-1}",
            "sbatch.array: is set by calsweep itself; use array_parallelism and max_array_size",
        ),
        ("sbatch: {signal: B:USR1@60}", "sbatch.signal: is set by calsweep itself; use warn_before_s"),
        (
            "sbatch: {mem-per-cpu: 4G}",
            "sbatch.mem-per-cpu: is set by calsweep itself; use resources.<kind>.mem_gib, or mem: 0",
        ),
        (
            "sbatch: {mem_per_cpu: 4G}",
            "sbatch.mem_per_cpu: is set by calsweep itself; use resources.<kind>.mem_gib, or mem: 0",
        ),
        ("sbatch: {account: me}", "sbatch.account: is set by calsweep itself; write account outside sbatch"),
        ("sbatch: {no-requeue: true}", "sbatch.no-requeue: is set by calsweep itself; remove it"),
        ("resources: {trian: {}}", "resources.trian: unknown kind of job; did you mean 'train'?"),
        ("resources: {train: {nodes: 0}}", "resources.train.nodes: out of range; give 1 or more"),
    ],
)
def test_wrong_profiles(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "site.yaml").write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        load_profile(tmp_path / "site.yaml")
    assert str(caught.value) == f"site.yaml, line 1: {sentence}"


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_site(load_grid(write_grid(tmp_path, GRID)))
    assert str(caught.value) == (
        "grid.yaml: cluster: no such profile ('site.yaml'); "
        "write local, or a path such as slurm/profiles/testbed.yaml"
    )


@pytest.mark.parametrize("name", ["testbed", "example"])
def test_the_profiles_that_ship_load_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    site = load_site(grid_of(tmp_path, GRID, f"cluster=slurm/profiles/{name}.yaml"))
    assert isinstance(site, SlurmSite)
    assert site.profile.srun_args == ["--kill-on-bad-exit=1"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"profile": {"colour": "red"}}'])
def test_a_damaged_site_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "site.json").write_text(content)
    with pytest.raises(UserError, match=r"site\.json: is not a site file .*; run calsweep sweep on"):
        read_site(tmp_path / "site.json")


def test_what_sites_need_is_theirs_to_say(tmp_path: Path) -> None:
    """One of several kinds of GPU; whole nodes."""
    site = site_of(tmp_path, PROFILE.replace("sbatch: {", "gpu_type: a100\nsbatch: {mem: 0, "))
    scripts = []
    kinds: tuple[Kind, ...] = ("train", "analyse")
    for kind in kinds:
        array = sbatch.TaskArray(kind, [Task(kind, (), frozenset())], site.resources[kind], frozenset())
        paths = StudyPaths(tmp_path)
        scripts.append(sbatch.script(array, 1, paths, site.profile, tmp_path / "code", study="s"))
    assert "#SBATCH --gpus-per-node=a100:4\n" in scripts[0]
    assert "gpus" not in scripts[1]
    assert [re.findall("#SBATCH --mem=(.*)", text) for text in scripts] == [["0"], ["0"]]
