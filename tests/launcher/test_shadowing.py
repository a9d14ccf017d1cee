"""`calsweep` in a directory that has packages with our names: it runs ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.grids import write_model
from tests.sweeping import ROOT
from tests.waiting import HANG_S

PACKAGES = [path.parent.name for path in sorted(ROOT.glob("*/__init__.py")) if path.parent.name != "tests"]
LOUD = 'raise SystemExit("imported from the working directory: " + __file__)\n'
GRID = """
study: s
prepare:
  tiny: {dataset: cldr-pretrain, num_steps: 1, num_examples: 64, global_batch_size: 8, template: plain,
    dtype: fp32, hidden_size: 32, num_layers: 1, num_heads: 2}
grid: {model: [tiny]}
evaluate: {dtype: fp32, benchmarks: [{name: cldr_lite, languages: [en, sw], num_items: 4}]}
tracking: {mode: disabled}
"""
HUB = f"""
study: hub
grid: {{model: [m], dataset: ['org/data@{"a" * 40}']}}
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A directory with a grid, and with packages that must not be imported."""
    assert {"study", "training", "evaluation", "analysis", "launcher"} <= {*PACKAGES}
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(LOUD)
    write_model(tmp_path / "m")
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "hub.yaml").write_text(HUB)
    return tmp_path


def calsweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("calsweep")), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10 * HANG_S)
    assert "from the working directory" not in done.stdout + done.stderr
    return done


def test_the_packages_are_in_the_way(crowded: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    done = subprocess.run([sys.executable, "-c", "import study"], cwd=crowded, capture_output=True, text=True)
    assert "from the working directory" in done.stderr


def test_a_sweep_on_this_machine_and_its_tables(crowded: Path) -> None:
    done = calsweep(crowded, "sweep", "grid.yaml")
    assert done.returncode == 0, done.stderr
    assert calsweep(crowded, "status", "outputs/s").returncode == 0
    done = calsweep(crowded, "analyse", "tables", "outputs/s")
    assert done.returncode == 0, done.stderr
    assert calsweep(crowded, "analyse", "verify", "outputs/s").returncode == 0


def test_a_download(crowded: Path) -> None:
    done = calsweep(crowded, "prefetch", "hub.yaml")
    # no hub has it, which the child reports: so it runs our code
    assert done.returncode == 2
    assert done.stderr.startswith("calsweep: dataset org/data at aaaaaaaaaaaa: ")


def test_the_doctors_ranks(crowded: Path) -> None:
    done = calsweep(crowded, "doctor", "loss", "grid.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert all(result["passed"] for result in json.loads(done.stdout))
