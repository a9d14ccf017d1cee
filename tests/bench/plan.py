"""Time and memory that a big plan takes: `python -m tests.bench.plan`.

10,000 training cells x 71 languages, on one core, in a separate process; and the wall-clock time of `--help`.
"""

from __future__ import annotations

import os
import resource as unix_resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from study.benchmarks.definition import definition_of
from tests.grids import write_model
from tests.sweeping import ROOT

GRID = """
study: big
grid:
  model: [m]
  dataset: [cldr-instruct]
  learning_rate: [{rates}]
  label_smoothing: [{smoothings}]
  seed: [{seeds}]
evaluate:
  include_base: false
  benchmarks:
    - {{name: prox, path: prox, schema: mmlu_prox}}
    - {{name: global, path: global, schema: global_mmlu}}
"""
HELP_RUNS = 11


def write_big_grid(folder: Path) -> Path:
    """10 rates x 10 smoothing factors x 100 seeds; 29 and 42 languages."""
    write_model(folder / "m")
    for name, schema in (("prox", "mmlu_prox"), ("global", "global_mmlu")):
        (folder / name).mkdir()
        for code in definition_of(schema).languages:
            (folder / name / f"{code}.jsonl").write_text("{}\n")
    grid = folder / "grid.yaml"
    grid.write_text(
        GRID.format(
            rates=", ".join(f"{i}e-6" for i in range(1, 11)),
            smoothings=", ".join(f"0.0{i}" for i in range(10)),
            seeds=", ".join(map(str, range(100))),
        )
    )
    return grid


def measure_plan(folder: Path) -> None:
    """Plan in this process and print the CPU-seconds of each step."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from launcher.planning.plan import build_plan, resolved
    from launcher.planning.tasks import missing_tasks
    from study.grid.config import load_grid
    from study.jobs.plan import read_plan, write_plan
    from study.paths import StudyPaths

    clock = [time.process_time()]

    def lap(what: str) -> None:
        clock.append(time.process_time())
        print(f"  {what:24} {clock[-1] - clock[-2]:6.2f} s")

    grid = load_grid(folder / "grid.yaml")
    lap("read the grid")
    plan = build_plan(grid)
    lap("plan")
    paths = StudyPaths(grid.study_dir)
    tasks = missing_tasks(plan, paths, 1)
    lap("find missing tasks")
    write_plan(plan, resolved(grid), paths)
    lap("write plan.json")
    peak = unix_resource.getrusage(unix_resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = paths.plan.stat().st_size / 2**20
    print(f"  {len(plan.jobs):,} jobs, {len(tasks):,} tasks, {size:.0f} MiB on disk")
    print(f"  together {clock[-1] - clock[0]:.2f} s, {peak:.2f} GiB at most, torch: {'torch' in sys.modules}")
    del plan, tasks
    clock[-1] = time.process_time()
    read_plan(paths)
    lap("read plan.json")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = write_big_grid(folder)
        print("10,000 cells x 71 languages, CPU seconds on one core:", flush=True)
        program = f"from tests.bench.plan import *; measure_plan(Path({name!r}))"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
        begin = time.monotonic()
        command = [sys.executable, str(ROOT / "launcher" / "sweep.py"), str(grid), "--dry-run"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        print(f"sweep.py --dry-run of it: {time.monotonic() - begin:.2f} s")
    seconds = []
    for _ in range(HELP_RUNS):
        begin = time.monotonic()
        subprocess.run(
            [sys.executable, str(ROOT / "launcher" / "sweep.py"), "--help"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds.append(time.monotonic() - begin)
    median = statistics.median(seconds)
    print(f"sweep.py --help: median {median:.3f} s of {HELP_RUNS} ({max(seconds):.3f} at most)")


if __name__ == "__main__":
    main()
