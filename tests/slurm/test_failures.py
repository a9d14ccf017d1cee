"""Each kind of failure has its remedy; one without a remedy happens once, and stops nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher.job import causes
from study.paths import StudyPaths
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.grids import write_model
from tests.slurm import drills
from tests.slurm.drills import tries
from tests.slurm.payload import payload_checkout, run_calsweep
from tests.slurm.test_sweep import wait_for_empty_queue
from tests.sweeping import ROOT, run, sweep_command
from tests.waiting import HANG_S

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

GRID = """
study: {study}
grid:
  model: [{models}]
  dataset: [rows.jsonl]
  label_smoothing: [{smoothing}]
train:
  {{num_steps: 2, global_batch_size: 8, learning_rate: 1.0e-3, max_length_tokens: 64, template: plain,
    dtype: fp32}}
evaluate:
  include_base: false
  benchmarks:
    - {{name: items, path: items, schema: global_mmlu}}
  dtype: fp32
cluster: site.yaml
tracking: {{mode: disabled}}
"""
PROFILE = """
partition: main
max_mem_gib: {max_mem_gib}
env: {{GLOO_SOCKET_IFNAME: lo, OMP_NUM_THREADS: "1"}}
resources:
  train: {{mem_gib: 0.6, time_min: 15}}
  evaluate: {{mem_gib: 0.6, time_min: 15}}
  analyse: {{mem_gib: 0.6, time_min: 15}}
"""
# how a training fails follows from its label smoothing
FAILING = '''
"""Trains nothing, and fails in one of several ways."""
import os
import signal
import time

from study.files import write_json


def train(job, folder, *, model_path, tokens, resources, tracking):
    hyper = job.spec.hyper
    micro = resources.micro_batch_size
    with (folder.root / "runs").open("a") as runs:
        print(f"{os.environ['SLURM_MEM_PER_NODE']} {micro}", file=runs)
    if hyper.label_smoothing == 0.1:
        hold(0.8)
    elif hyper.label_smoothing == 0.2:
        hold(1.5)
    elif hyper.label_smoothing == 0.3 and micro > 16:
        import torch
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    elif hyper.label_smoothing == 0.4:
        os.kill(os.getpid(), signal.SIGKILL)
    elif hyper.label_smoothing == 0.5 and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        os._exit(143)
    write_json(folder.done, {})


def hold(gib):
    held = b"x" * int(gib * 2**30)
    time.sleep(5)
    assert held
'''
# the error of the other rank is gloo's
GREEDY_RANK = '''
"""Trains nothing; the second rank uses more memory than it may, and the first one loses it."""
import os
import time

import torch
import torch.distributed as dist

from study.files import write_json


def train(job, folder, *, model_path, tokens, resources, tracking):
    rank = int(os.environ["SLURM_PROCID"])
    store = f"file://{folder.root}/store-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    if rank == 0:
        with (folder.root / "runs").open("a") as runs:
            print(os.environ["SLURM_MEM_PER_NODE"], file=runs)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        held = b"x" * int(0.8 * 2**30)
        time.sleep(5)
    dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()
    if rank == 0:
        write_json(folder.done, {})
'''


def write_inputs(folder: Path, *, study: str, models: str, smoothing: str, max_mem_gib: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [{"instruction": f"{i}?", "output": f"{i * i}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "items").mkdir()
    item = {"sample_id": "1", "subject": "sums", "question": "1 + 1?", "answer": "B"}
    item |= {f"option_{name}": str(i + 1) for i, name in enumerate("abcd")}
    (folder / "items" / "en.jsonl").write_text(json.dumps(item) + "\n")
    (folder / "site.yaml").write_text(PROFILE.format(max_mem_gib=max_mem_gib))
    (folder / "grid.yaml").write_text(GRID.format(study=study, models=models, smoothing=smoothing))
    return folder


@contextmanager
def nothing_starts(cluster: SlurmCluster) -> Iterator[None]:
    """What is submitted in the block waits in the queue."""
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        yield
    finally:
        cluster.run("scontrol", "update", "partitionname=main", "state=up")


def trainings(paths: StudyPaths) -> dict[float, str]:
    """Label smoothing -> training."""
    return {drills.hyper_of(job).label_smoothing: job.job_id for job in drills.planned(paths, "train")}


def evaluation_of(paths: StudyPaths, training: str) -> str:
    (found,) = [job.job_id for job in drills.planned(paths, "evaluate") if job.needs == (training,)]
    return found


def runs(paths: StudyPaths, job_id: str) -> list[str]:
    """A line for each time that the job's own code ran."""
    return (paths.job(job_id).root / "runs").read_text().splitlines()


# --------------------------------------------------------------------- each kind of failure
@pytest.fixture(scope="module")
def failures(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    """Six trainings, of which five fail in different ways; no other command is typed."""
    folder = tmp_path_factory.mktemp("failures")
    checkout = payload_checkout(folder / "checkout", train=FAILING)
    smoothing = "0.0, 0.1, 0.2, 0.3, 0.4, 0.5"
    write_inputs(folder, study="failures", models="m", smoothing=smoothing, max_mem_gib=1)
    write_model(folder / "m")
    done = run_calsweep(checkout, "sweep", "grid.yaml", "--yes", cwd=folder)
    assert done.returncode == 0, done.stderr
    wait_for_empty_queue(slurm_cluster)
    return StudyPaths(folder / "outputs" / "failures")


def outcome(paths: StudyPaths, job_id: str) -> tuple[bool, str | None]:
    """Whether a job is done; and the cause of its failure, if it failed."""
    folder = paths.job(job_id)
    cause = json.loads(folder.failed.read_text())["cause"] if folder.failed.exists() else None
    return folder.done.exists(), cause


def execution(paths: StudyPaths, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(paths.job(job_id).execution.read_text())
    return found


def test_a_job_that_needs_more_memory_gets_it(failures: StudyPaths) -> None:
    job_id = trainings(failures)[0.1]
    assert runs(failures, job_id) == ["615 64", "1024 64"]  # MiB that SLURM gave, micro-batch
    assert outcome(failures, job_id) == (True, None)
    assert execution(failures, job_id)["resources"]["mem_gib"] == 1
    assert execution(failures, job_id)["changes"] == ["out of host memory: mem_gib 0.6 -> 1"]


def test_the_same_lack_of_memory_is_not_run_into_twice(failures: StudyPaths) -> None:
    job_id = trainings(failures)[0.2]
    assert runs(failures, job_id) == ["615 64", "1024 64"]  # the limit: there is no remedy left
    assert outcome(failures, job_id) == (False, causes.HOST_MEMORY)


def test_half_the_micro_batch_where_the_gpu_is_too_small(failures: StudyPaths) -> None:
    job_id = trainings(failures)[0.3]
    found = [line.split() for line in runs(failures, job_id)]
    assert [int(micro) for _, micro in found] == [64, 32, 16]
    assert len({memory for memory, _ in found}) == 1
    assert outcome(failures, job_id) == (True, None)
    assert execution(failures, job_id)["changes"] == [
        "out of GPU memory: micro_batch_size 64 -> 32, micro_batch_tokens 8192 -> 4096",
        "out of GPU memory: micro_batch_size 32 -> 16, micro_batch_tokens 4096 -> 2048",
    ]


def test_a_killed_job_is_tried_again_unchanged(failures: StudyPaths) -> None:
    job_id = trainings(failures)[0.4]
    assert runs(failures, job_id) == ["615 64"] * 2
    assert [entry.outcome for entry in tries(failures, job_id)] == ["failed"] * 2
    assert outcome(failures, job_id) == (False, causes.KILLED)


def test_ranks_that_srun_ends_are_not_a_task_that_slurm_ends(failures: StudyPaths) -> None:
    """One rank is killed, and srun's TERM comes before another has exited: the step's code is then TERM's."""
    job_id = trainings(failures)[0.5]
    assert runs(failures, job_id) == ["615 64"] * 2
    assert [entry.outcome for entry in tries(failures, job_id)] == ["failed", "done"]
    assert outcome(failures, job_id) == (True, None)


def test_only_their_own_evaluations_are_blocked(failures: StudyPaths) -> None:
    evaluated = {
        smoothing: failures.job(evaluation_of(failures, job_id)).done.exists()
        for smoothing, job_id in trainings(failures).items()
    }
    assert evaluated == {0.0: True, 0.1: True, 0.2: False, 0.3: True, 0.4: False, 0.5: True}


def test_remedies_need_no_new_submission(failures: StudyPaths) -> None:
    jobs = [job.job_id for job in drills.planned(failures) if job.kind != "analyse"]
    times = drills.times_submitted(failures)
    assert {job_id: times[job_id] for job_id in jobs} == dict.fromkeys(jobs, 1)


def test_what_one_rank_lacks_all_are_given(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """The other rank knows of nothing but a closed connection, and SLURM logs that it cancelled the step."""
    checkout = payload_checkout(tmp_path / "checkout", train=GREEDY_RANK)
    write_inputs(tmp_path, study="ranks", models="m", smoothing="0.0")
    write_model(tmp_path / "m")
    more = ("resources.train.nodes=2", "resources.train.mem_gib=0.8")
    done = run_calsweep(checkout, "sweep", "grid.yaml", "--yes", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wait_for_empty_queue(slurm_cluster)
    paths = StudyPaths(tmp_path / "outputs" / "ranks")
    (training,) = trainings(paths).values()
    assert execution(paths, training)["changes"] == ["out of host memory: mem_gib 0.8 -> 2"]
    assert runs(paths, training) == ["820", "2048"]
    assert outcome(paths, training) == (True, None)


# ----------------------------------------------------------------- a failure that a user fixes
def calsweep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launcher.cli", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip


def test_retry_runs_what_failed_and_nothing_else(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = write_inputs(tmp_path / "study", study="fixed", models="here, away", smoothing="0.0")
    for seed, name in enumerate(("here", "away")):
        save(make_llama(seed), make_tokenizer(), folder / name)
    more = ("resources.train.mem_gib=2", "resources.evaluate.mem_gib=2")
    with nothing_starts(slurm_cluster):
        done = run(sweep_command(folder / "outputs", *more, grid=folder / "grid.yaml"), cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "away").rename(folder / "moved")
    wait_for_empty_queue(slurm_cluster)  # no job waits for one that can never be complete

    study = folder / "outputs" / "fixed"
    paths = StudyPaths(study)
    of_model = {job.cell["model"]: job.job_id for job in drills.planned(paths, "train")}
    evaluations = {model: evaluation_of(paths, job_id) for model, job_id in of_model.items()}
    found = calsweep("status", str(study), "--json", cwd=ROOT)
    assert found.returncode == 1, found.stderr
    states = {job["job_id"]: job["state"] for job in json.loads(found.stdout)["jobs"]}
    assert {model: states[job_id] for model, job_id in of_model.items()} == {"here": "done", "away": "failed"}
    assert {model: states[job_id] for model, job_id in evaluations.items()} == {
        "here": "done",
        "away": "blocked",
    }
    shown = calsweep("explain", str(study), of_model["away"], "--json", cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    explained = json.loads(shown.stdout)
    assert explained["cause"] == causes.USER_ERROR
    assert f"{folder / 'away'} does not exist" in explained["message"]
    assert "calsweep retry" in explained["next"]
    assert len(tries(paths, of_model["away"])) == 1, "a user's error is not retried"

    before = {path: path.stat().st_mtime_ns for path in study.glob("jobs/*/DONE")}
    assert len(before) == 2
    (folder / "moved").rename(folder / "away")
    again = calsweep("retry", str(study), cwd=ROOT)
    assert again.returncode == 0, again.stderr
    wait_for_empty_queue(slurm_cluster)
    times = drills.times_submitted(paths)
    assert {model: times[job_id] for model, job_id in of_model.items()} == {"here": 1, "away": 2}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert calsweep("status", str(study), cwd=ROOT).returncode == 0
    assert all(paths.job(job.job_id).done.exists() for job in drills.planned(paths))
