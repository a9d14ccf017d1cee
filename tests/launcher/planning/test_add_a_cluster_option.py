"""A key of cluster profiles is added by the steps of CONTRIBUTING.md, nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.grids import write_grid, write_model
from tests.recipes import copy_project, follow
from tests.waiting import HANG_S

PROFILE = "{executor: slurm, partition: p, exclude: node7}\n"
GRID = "study: s\ngrid: {model: [m]}\nevaluate: {benchmarks: [{name: cldr_lite, languages: [sw]}]}\n"


def dry_run(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    write_model(folder / "m")
    (folder / "site.yaml").write_text(PROFILE)
    grid = str(write_grid(folder, GRID + "cluster: site.yaml\n"))
    command = [sys.executable, "-m", "launcher.cli", "sweep", grid, "--dry-run", "--json"]
    return subprocess.run(
        [*command, f"outputs={folder}"], cwd=project, capture_output=True, text=True, timeout=HANG_S
    )


def test_the_option_is_in_every_batch_script(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "calsweep")
    refused = dry_run(project, tmp_path)
    assert refused.returncode == 2
    assert "exclude: unknown key" in refused.stderr
    follow("Add a cluster option", project)
    done = dry_run(project, tmp_path)
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)["sbatch"]
    assert len(calls) == 2
    assert all("#SBATCH --exclude=node7\n" in call["text"] for call in calls)
