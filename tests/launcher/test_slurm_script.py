"""What is asked of SLURM: the batch scripts, their dependencies and their arrays. sbatch is a fake here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from launcher import ledger, slurm
from launcher.cli import main
from launcher.cluster import Site, load_profile, load_site
from launcher.plan import Plan, read_plan
from launcher.tasks import missing_tasks
from study.config import load_grid
from study.errors import UserError
from study.files import write_json
from study.paths import StudyPaths
from tests.grids import grid_of, plan_of, write_grid
from tests.launcher.fake_slurm import FakeSlurm, install

GRID = """
study: s
prepare: {tiny: {dataset: cldr-pretrain}}
grid: {model: [tiny], dataset: [cldr-instruct], label_smoothing: [0.0, 0.1, 0.2]}
evaluate: {benchmarks: [{name: cldr_lite, languages: [en, sw]}]}
cluster: site.yaml
resources: {train: {mem_gib: 1.5}, evaluate: {time_min: 20}}
"""
PROFILE = """
executor: slurm
partition: gpu
account: mine
array_parallelism: 2
sbatch: {mail-type: FAIL, exclusive: true}
srun_args: [--kill-on-bad-exit=1]
setup: [module load cuda]
env: {HF_HUB_OFFLINE: "1", WORDS: it's two}
resources:
  train: {nodes: 2, tasks_per_node: 4, gpus_per_node: 4, cpus_per_task: 8, mem_gib: 99, time_min: 30}
  evaluate: {gpus_per_node: 1, time_min: 10}
"""
CODE = Path("/study's/code/abc")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    fake = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return fake


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "outputs" / "s")


def site_of(folder: Path, profile: str = PROFILE) -> Site:
    (folder / "site.yaml").write_text(profile)
    return load_site(grid_of(folder, GRID))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(tmp_path, GRID)


def flags(script: str) -> dict[str, str]:
    return {
        match[1]: match[2] or ""
        for match in re.finditer(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE)
    }


def send(plan: Plan, paths: StudyPaths, site: Site, per_task: int = 1) -> dict[str, str]:
    tasks = missing_tasks(plan, paths, per_task, slurm.queued_tasks(paths))
    return slurm.submit(tasks, paths, site, CODE)


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


def test_the_script_of_a_training_array(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    send(plan, paths, site_of(tmp_path))
    script = fake.scripts()[1]
    logs = f"{paths.submissions}/0002/%A_%a/%A_%a_0_log"
    assert flags(script) == {
        "account": "mine",
        "array": "0-2%2",
        "comment": "calsweep:s:train",
        "cpus-per-task": "8",
        "dependency": "afterok:101",
        "error": f"{logs}.err",
        "exclusive": "",
        "gpus-per-node": "4",
        "job-name": "s-train",
        "kill-on-invalid-dep": "yes",
        "mail-type": "FAIL",
        "mem": "1536M",
        "nodes": "2",
        "ntasks-per-node": "4",
        "open-mode": "append",
        "output": f"{logs}.out",
        "partition": "gpu",
        "signal": "USR2@90",
        "time": "30",
        "wckey": "submitit",
    }
    body = script.split("# setup\n")[1].split("\n\n# command")[0].splitlines()
    assert body == [
        "module load cuda",
        "export HF_HUB_OFFLINE=1",
        """export WORDS='it'"'"'s two'""",
        """cd '/study'"'"'s/code/abc'""",
        """export PYTHONPATH='/study'"'"'s/code/abc'""",
    ]
    command = script.split("# command\n")[1]
    assert command.startswith("export SUBMITIT_EXECUTOR=slurm\nsrun --unbuffered ")
    assert " --kill-on-bad-exit=1 " in command
    assert "-m submitit.core._submit" in command


def test_a_first_array_has_no_dependency_and_small_memory_is_never_all_of_it(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    site = site_of(tmp_path, PROFILE + "  prepare: {mem_gib: 0.0001}\n")
    send(plan, paths, site)
    found = flags(fake.scripts()[0])
    assert "dependency" not in found
    assert "kill-on-invalid-dep" not in found
    assert "gpus-per-node" not in found
    assert found["mem"] == "1M"  # 0M is SLURM's word for a whole node's


def test_dependencies(fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths) -> None:
    """One array a model: its evaluations wait for its own task; the analysis for the end of all arrays."""
    placed = send(plan, paths, site_of(tmp_path))
    found = [
        (flags(s)["job-name"], flags(s).get("dependency"), flags(s).get("array")) for s in fake.scripts()
    ]
    assert found == [
        ("s-prepare", None, None),
        ("s-train", "afterok:101", "0-2%2"),
        ("s-evaluate", "afterok:101", "0-1%2"),
        ("s-evaluate", "afterok:102_0", "0-1%2"),
        ("s-evaluate", "afterok:102_1", "0-1%2"),
        ("s-evaluate", "afterok:102_2", "0-1%2"),
        ("s-analyse", "afterany:103:104:105:106", None),
    ]
    ids = [job.job_id for job in plan.jobs]
    expected = ["101", "102_0", "102_1", "102_2"]
    expected += [f"{array}_{i}" for array in (103, 104, 105, 106) for i in (0, 1)] + ["107"]
    assert placed == dict(zip(ids, expected, strict=True))
    assert ledger.task_of(ledger.read(paths.ledger)) == placed


def test_long_arrays_are_cut(fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths) -> None:
    send(plan, paths, site_of(tmp_path, PROFILE + "max_array_size: 2\n"))
    trains = [flags(s) for s in fake.scripts() if flags(s)["job-name"] == "s-train"]
    assert [train.get("array") for train in trains] == ["0-1%2", None]  # the third alone is a plain job
    assert {train["dependency"] for train in trains} == {"afterok:101"}
    evaluations = [flags(s)["dependency"] for s in fake.scripts() if flags(s)["job-name"] == "s-evaluate"]
    assert evaluations == ["afterok:101", "afterok:102_0", "afterok:102_1", "afterok:103"]


def test_several_languages_a_task(fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths) -> None:
    placed = send(plan, paths, site_of(tmp_path), per_task=2)
    shards = [job.job_id for job in plan.of_kind("evaluate")]
    assert [placed[job_id] for job_id in shards] == ["103", "103", "104", "104", "105", "105", "106", "106"]


def test_what_is_queued_is_not_submitted_again_but_waited_for(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    site = site_of(tmp_path)
    send(plan, paths, site)
    before = len(fake.scripts())
    lines = [
        "102_0 RUNNING",
        "102_1 PENDING",
        "102_2 FAILED",
        "101 COMPLETED",
        "999 RUNNING",
        "107 SIGNALING",
    ]
    fake.answer(squeue={"out": "\n".join(lines)})
    prepare, first, second = (job.job_id for job in plan.jobs[:3])
    assert slurm.queued_tasks(paths) == {first: "102_0", second: "102_1", plan.jobs[-1].job_id: "107"}
    paths.job(prepare).root.mkdir(parents=True)
    paths.job(prepare).done.write_text("{}")
    send(plan, paths, site)
    again = [(flags(s)["job-name"], flags(s).get("dependency")) for s in fake.scripts()[before:]]
    assert again == [
        ("s-train", None),
        ("s-evaluate", None),
        ("s-evaluate", "afterok:102_0"),
        ("s-evaluate", "afterok:102_1"),
        ("s-evaluate", "afterok:108"),
    ]


def test_a_squeue_that_does_not_answer_is_not_an_empty_queue(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    assert slurm.queued_tasks(paths) == {}  # nothing was submitted: nobody is asked
    send(plan, paths, site_of(tmp_path))
    assert not fake.calls("squeue")
    fake.answer(squeue={"code": 1, "error": "slurm_load_jobs error: Unable to contact slurm controller"})
    with pytest.raises(UserError) as caught:
        slurm.queued_tasks(paths)
    assert str(caught.value) == (
        "cluster: squeue failed (slurm_load_jobs error: Unable to contact slurm controller); "
        "try again when SLURM answers"
    )


def test_a_refusal_keeps_what_was_submitted(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    fake.answer(sbatch={"limit": 102})
    with pytest.raises(UserError) as caught:
        send(plan, paths, site_of(tmp_path))
    assert str(caught.value) == (
        "evaluate jobs: sbatch refused (sbatch: error: QOSMaxSubmitJobPerUserLimit); see the profile"
    )
    assert set(ledger.task_of(ledger.read(paths.ledger)).values()) == {"101", "102_0", "102_1", "102_2"}
    assert ledger.read(paths.ledger)[-1].tasks == {}  # the intent of the one that was refused


def test_without_sbatch(
    tmp_path: Path, plan: Plan, paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        send(plan, paths, site_of(tmp_path))
    assert str(caught.value) == (
        "cluster: sbatch is not on the PATH; run this on a login node, or cluster=local"
    )


def test_cancel(fake: FakeSlurm) -> None:
    slurm.cancel([])
    slurm.cancel(["8_1", "7", "7"])
    assert [call["arguments"] for call in fake.calls("scancel")] == [["7", "8_1"]]
    fake.answer(scancel={"code": 1})
    with pytest.raises(UserError, match=r"^cluster: scancel failed \(.*\); try again$"):
        slurm.cancel(["7"])


def test_an_enclosing_job_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    slurm.clean_environment()
    assert [name in os.environ for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_CONF")] == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("executor: pbs", "executor: 'pbs' is unknown; write slurm"),
        ("max_array_size: 0", "max_array_size: out of range; give 1 or more"),
        ("array_parallelism: 0", "array_parallelism: out of range; give 1 or more"),
        ("acount: x", "acount: unknown key; did you mean 'account'?"),
        ("setup: module load cuda", "setup: not a list; write [module load cuda]"),
        ("setup: [{export A=b: c}]", "setup[0]: {'export A=b': 'c'} is not a text; put it in quotes"),
        ("resources: {trian: {}}", "resources.trian: unknown kind of job; did you mean 'train'?"),
        ("resources: {train: {nodes: 0}}", "resources.train.nodes: out of range; give 1 or more"),
    ],
)
def test_wrong_profiles(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "site.yaml").write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        load_profile(tmp_path / "site.yaml")
    assert str(caught.value) == f"site.yaml: {sentence}"


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
    assert site.profile is not None
    assert site.profile.srun_args == ["--kill-on-bad-exit=1"]


def test_an_analysis_in_the_queue_gives_way_to_one_that_waits_for_everything(
    fake: FakeSlurm, tmp_path: Path, paths: StudyPaths
) -> None:
    """A language failed while others still run: the queued analysis would not wait for the second try."""
    (tmp_path / "site.yaml").write_text(PROFILE)
    grid = write_grid(tmp_path, GRID)
    assert main(["sweep", str(grid), "--yes"]) == 0
    submitted = ledger.task_of(ledger.read(paths.ledger))
    plan = read_plan(paths)
    lost, *alive, analysis = (job.job_id for job in plan.jobs if job.kind in ("evaluate", "analyse"))
    for job in plan.jobs:
        if job.job_id not in (lost, *alive, analysis):
            write_json(paths.job(job.job_id).done, {})
    queue = "\n".join(f"{submitted[job_id]} PENDING" for job_id in (*alive, analysis))
    fake.answer(squeue={"out": queue})
    before = len(fake.scripts())

    assert main(["sweep", str(grid), "--yes", "--dry-run"]) == 0
    assert fake.calls("scancel") == []
    assert main(["sweep", str(grid), "--yes"]) == 0
    assert [call["arguments"] for call in fake.calls("scancel")] == [[submitted[analysis]]]
    again, last = fake.scripts()[before:]
    assert "#SBATCH --job-name=s-evaluate" in again
    assert "#SBATCH --job-name=s-analyse" in last
    new = ledger.task_of(ledger.read(paths.ledger))[lost]
    waits = {submitted[job_id].split("_")[0] for job_id in alive} | {new.split("_")[0]}
    dependency = re.search(r"--dependency=afterany:([\d:]+)", last)
    assert dependency is not None
    assert set(dependency.group(1).split(":")) == waits
