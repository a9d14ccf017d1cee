"""2,556 shards under MaxArraySize 1001 and 500 submitted jobs, limits that this SLURM enforces."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.benchmarks.definition import definition_of
from study.paths import StudyPaths
from tests.slurm.conftest import SlurmCluster, own_cluster
from tests.slurm.payload import payload_checkout, run_calsweep, write_models

NUM_MODELS = 36
MAX_SUBMITTED = 500
GRID = """
study: big
grid: {{model: [{models}]}}
evaluate:
  benchmarks:
    - {{name: prox, path: prox, schema: mmlu_prox}}
    - {{name: global, path: global, schema: global_mmlu}}
cluster: site.yaml
tracking: {{mode: disabled}}
"""
# an evaluation is a line of shell here: it marks its job as done and counts its runs
PAYLOAD = r"""
case "$SLURM_JOB_NAME" in *-evaluate)
  folder=$(dirname "$(readlink /proc/$$/fd/1)")
  job=$(grep -o '"[0-9a-f]*"' "$folder/packs.json" | tr -d '"' | sed -n "$((SLURM_ARRAY_TASK_ID + 1))p")
  echo run >> "$folder/../../jobs/$job/runs"; echo '{}' > "$folder/../../jobs/$job/DONE"; exit 0
esac
"""
COUNTED = ("sbatch", "squeue", "sacct", "scontrol", "scancel")


@pytest.fixture(scope="module")
def limited_cluster() -> Iterator[SlurmCluster]:
    with own_cluster(ARRAYSIZE="1001", MAXSUBMIT=str(MAX_SUBMITTED)) as cluster:
        if not cluster.accounting:
            pytest.skip("limits on submitted jobs need slurmdbd")
        yield cluster


def count_calls(folder: Path, log: Path) -> None:
    """Programs with SLURM's names, to come first on the PATH: each records its call and exit code."""
    folder.mkdir()
    for name in COUNTED:
        program = folder / name
        program.write_text(
            f'#!/bin/sh\n{shutil.which(name)} "$@"\ncode=$?\necho "{name} $code" >> {log}\nexit $code\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.timeout(1200)
def test_a_big_study_drains(
    limited_cluster: SlurmCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkout = payload_checkout(tmp_path / "checkout")
    for name, schema in (("prox", "mmlu_prox"), ("global", "global_mmlu")):
        (tmp_path / name).mkdir()
        for code in definition_of(schema).languages:
            (tmp_path / name / f"{code}.jsonl").write_text("{}\n")
    models = write_models(tmp_path, NUM_MODELS)
    (tmp_path / "grid.yaml").write_text(GRID.format(models=", ".join(models)))
    profile = {
        "partition": "main",
        "max_array_size": 1000,
        "max_submitted": MAX_SUBMITTED,
        "setup": [PAYLOAD],
        "resources": {kind: {"mem_gib": 0.1, "time_min": 15} for kind in ("evaluate", "analyse")},
    }
    (tmp_path / "site.yaml").write_text(json.dumps(profile))
    log = tmp_path / "calls"
    own_squeue = shutil.which("squeue")
    assert own_squeue is not None
    count_calls(tmp_path / "bin", log)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    begin = time.monotonic()
    done = run_calsweep(checkout, "sweep", "grid.yaml", "--yes", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2057 tasks wait for room in the queue; the last job submits them" in done.stdout
    paths = StudyPaths(tmp_path / "outputs" / "big")
    jobs = json.loads(paths.plan.read_text())["jobs"]
    shards = [job["job_id"] for job in jobs if job["kind"] == "evaluate"]
    assert len(shards) == NUM_MODELS * 71 == 2556
    (analysis,) = [job["job_id"] for job in jobs if job["kind"] == "analyse"]
    end = time.monotonic() + 500
    while not paths.job(analysis).done.is_file():
        queue = limited_cluster.run(own_squeue, "--noheader", "--format=%i %j %T %r")
        assert queue, "the queue is empty, and the study is not done"
        assert time.monotonic() < end, queue
        time.sleep(2)
    took = time.monotonic() - begin

    assert Counter((paths.job(job_id).root / "runs").read_text() for job_id in shards) == {"run\n": 2556}
    calls = Counter(line for line in log.read_text().splitlines())
    counts = ", ".join(f"{count} {call.split()[0]}" for call, count in sorted(calls.items()))
    with capsys.disabled():
        print(f"\n2,556 shards drained in {took:.0f} s with {counts} calls")
    assert not [call for call in calls if not call.endswith(" 0")], calls  # nothing was ever rejected
    # only the room in the queue limits an array: some waves of one array and the continuing job
    assert calls["sbatch 0"] <= 60
