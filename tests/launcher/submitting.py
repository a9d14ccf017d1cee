"""A grid and a profile to submit, and what an sbatch call was given; shared by tests of submissions."""

from __future__ import annotations

import re
from pathlib import Path

from launcher.planning.sites import SlurmSite, load_site
from tests.grids import grid_of

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
python: apptainer exec image.sif python
sbatch: {mail-type: FAIL, exclusive: true}
srun_args: [--kill-on-bad-exit=1]
setup: [module load cuda]
env: {HF_HUB_OFFLINE: "1", WORDS: it's two}
resources:
  train: {nodes: 2, tasks_per_node: 4, gpus_per_node: 4, cpus_per_task: 8, mem_gib: 99, time_min: 30}
  evaluate: {gpus_per_node: 1, time_min: 10}
"""


def site_of(folder: Path, profile: str = PROFILE, grid: str = GRID) -> SlurmSite:
    (folder / "site.yaml").write_text(profile)
    site = load_site(grid_of(folder, grid))
    assert isinstance(site, SlurmSite)
    return site


def flags(call: dict[str, object]) -> dict[str, str]:
    """The options of an sbatch call: those of its script, then those of the command line, which win."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", str(call["script"]), re.MULTILINE)
    arguments = call["arguments"]
    assert isinstance(arguments, list)
    given = [argument[2:].partition("=") for argument in arguments[:-1]]
    return {**dict(found), **{key: value for key, _, value in given}}
