"""A job runs the code as it was when it was submitted, and the script that the dry run has shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from study.paths import StudyPaths
from tests.grids import write_model
from tests.slurm.drills import tries
from tests.slurm.payload import payload_checkout, run_calsweep
from tests.slurm.test_failures import evaluation_of, nothing_starts, runs, trainings, write_inputs
from tests.slurm.test_sweep import wait_for_empty_queue
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

FROZEN = '''
"""Trains nothing: it records which code it is, and the first attempt waits to be requeued."""
import os
import time

from study.files import write_json


def train(job, folder, *, model_path, tokens, resources, tracking):
    with (folder.root / "runs").open("a") as runs:
        print("as submitted", file=runs)
    while os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        time.sleep(0.1)
    write_json(folder.done, {})
'''
FROZEN_SHARD = '''
"""Scores nothing, and records which code it is."""
from study.files import write_json


def evaluate(jobs, *, model_path, revision, items, batch_tokens, tracking, check=None, on_progress=None):
    for job, folder in jobs:
        with (folder.root / "runs").open("a") as runs:
            print("as submitted", file=runs)
        write_json(folder.done, {})
    return []
'''


def test_edits_do_not_reach_what_was_submitted(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    checkout = payload_checkout(tmp_path / "checkout", train=FROZEN, shard=FROZEN_SHARD)
    write_inputs(tmp_path, study="frozen", models="m", smoothing="0.0")
    write_model(tmp_path / "m")
    paths = StudyPaths(tmp_path / "outputs" / "frozen")
    dry = run_calsweep(checkout, "sweep", "grid.yaml", "--dry-run", "--json", cwd=tmp_path)
    assert not paths.root.exists()
    with nothing_starts(slurm_cluster):
        done = run_calsweep(checkout, "sweep", "grid.yaml", "--yes", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        submitted = [path.read_bytes() for path in sorted(paths.submissions.glob("*/submission.sh"))]
        assert [call["text"].encode() for call in json.loads(dry.stdout)["sbatch"]] == submitted
        assert len(submitted) == 3
        for name in ("training/train.py", "evaluation/shard.py"):
            text = (checkout / name).read_text()
            (checkout / name).write_text(text.replace("as submitted", "edited"))
    (training,) = trainings(paths).values()
    marked = paths.job(training).root / "runs"
    eventually(marked.is_file, "the training runs")
    slurm_cluster.run("scontrol", "requeue", tries(paths, training)[-1].task)
    wait_for_empty_queue(slurm_cluster)

    evaluation = evaluation_of(paths, training)
    assert runs(paths, training) == ["as submitted"] * 2  # queued, and requeued
    assert runs(paths, evaluation) == ["as submitted"]
    (code,) = paths.code.iterdir()
    codes = [
        json.loads(paths.job(job_id).env.read_text())["code"]["code"] for job_id in (training, evaluation)
    ]
    assert codes == [code.name] * 2
    # a job submitted now would run the new code: the hash is that of the content
    other = run_calsweep(checkout, "sweep", "grid.yaml", "grid.seed=[7]", "--dry-run", "--json", cwd=tmp_path)
    assert code.name not in json.loads(other.stdout)["sbatch"][0]["text"]
