"""A launcher that is killed while it submits loses no job and submits none twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cluster import ledger
from launcher.cluster.scheduler import ask_queue
from study.paths import StudyPaths
from tests.slurm.payload import calsweep, payload_checkout, run_calsweep
from tests.slurm.test_sweep import wait_for_empty_queue

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

KILLS = 20
# 4 trainings x 14 languages and the trainings themselves; arrays of one, so that there is much to submit
GRID = """
study: sixty
prepare: {}
grid:
  model: [m]
  dataset: [cldr-instruct]
  label_smoothing: [0.0, 0.1, 0.2, 0.3]
evaluate:
  include_base: false
  benchmarks:
    - {name: cldr_lite, languages: [am, ar, de, en, es, fr, hi, ig, ru, sw, te, yo, zh, it]}
cluster: site.yaml
tracking: {mode: disabled}
"""
PROFILE = """
partition: main
max_array_size: 1
resources:
  train: {mem_gib: 0.2, time_min: 15}
  evaluate: {mem_gib: 0.2, time_min: 15}
  analyse: {mem_gib: 0.2, time_min: 15}
"""


def num_lines(ledger: Path) -> int:
    return len(ledger.read_text().splitlines()) if ledger.is_file() else 0


def test_a_launcher_killed_at_twenty_random_moments(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    from tests.grids import write_model

    checkout = payload_checkout(tmp_path / "checkout")
    write_model(tmp_path / "m")
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "site.yaml").write_text(PROFILE)
    paths = StudyPaths(tmp_path / "outputs" / "sixty")
    chance = random.Random(20261125)
    killed_while_submitting = 0
    for _ in range(KILLS):
        before = num_lines(paths.ledger)
        command = calsweep(checkout, "sweep", "grid.yaml", "--yes")
        launcher = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # a line is written before each sbatch and one after it: this is somewhere between
        while num_lines(paths.ledger) == before and launcher.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        launcher.send_signal(signal.SIGKILL)
        killed_while_submitting += launcher.wait() == -signal.SIGKILL
        assert launcher.stderr is not None
        launcher.stderr.close()
    assert killed_while_submitting >= KILLS * 3 // 4  # the last ones may find everything submitted

    done = run_calsweep(checkout, "sweep", "grid.yaml", "--yes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wait_for_empty_queue(slurm_cluster)
    jobs = json.loads(paths.plan.read_text())["jobs"]
    assert Counter(job["kind"] for job in jobs) == {"train": 4, "evaluate": 56, "analyse": 1}
    assert all(paths.job(job["job_id"]).done.is_file() for job in jobs)
    runs = Counter(len((paths.job(job["job_id"]).root / "runs").read_text().split())
                   for job in jobs if job["kind"] != "analyse")  # fmt: skip
    assert runs == {1: 60}, "every job ran exactly once"
    # and SLURM knows of none that was submitted twice: ended jobs stay in squeue for some minutes
    entries = ledger.read(paths.ledger)
    arrays = {entry.comment.rpartition(":")[2] for entry in ask_queue().entries.values()}
    submitted = Counter(
        job_id
        for entry in entries
        if entry.token in arrays and entry.kind != "analyse"
        for pack in entry.packs
        for job_id in pack
    )
    assert len(submitted) == 60
    assert set(submitted.values()) == {1}
    assert sum(entry.array is None for entry in entries) == sum(e.token not in arrays for e in entries)
    again = run_calsweep(checkout, "sweep", "grid.yaml", "--yes", cwd=tmp_path)
    assert "nothing to submit" in again.stdout
