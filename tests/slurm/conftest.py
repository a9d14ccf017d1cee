"""A separate SLURM cluster for tests, on this machine: the fixture `slurm_cluster`."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sweeping import ROOT
from tests.waiting import HANG_S

SCRIPT = ROOT / "slurm" / "testbed" / "cluster.sh"
NO_SLURM = "no SLURM here; to have these tests: sudo slurm/testbed/install.sh"
_numbers = itertools.count()
NUM_PORTS = 40  # more than cluster.sh takes from BASEPORT on


@dataclass(frozen=True)
class SlurmCluster:
    """A running testbed. SLURM_CONF points to it, so sbatch and submitit need nothing more.

    conf: its slurm.conf. nodes: the nodes' names. accounting: whether sacct answers.
    """

    root: Path
    conf: Path
    nodes: tuple[str, ...]
    accounting: bool

    def run(self, *command: str, timeout_s: float = 120) -> str:
        """Run a command, return its output; raises CalledProcessError when it fails."""
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=timeout_s)
        return done.stdout.strip()

    def testbed(self, *arguments: str) -> str:
        """Run cluster.sh on this cluster, e.g. `testbed("stop-node", "2", "KILL")`."""
        return self.run("env", f"SLURM_TESTBED_ROOT={self.root}", str(SCRIPT), *arguments)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Every test below this folder needs SLURM: skip it, or fail it where SLURM is promised."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if all(shutil.which(program, path=places) for program in ("sbatch", "slurmctld", "slurmd", "munged")):
        return
    if os.environ.get("CALSWEEP_REQUIRE_SLURM") == "1":
        pytest.fail(NO_SLURM, pytrace=False)
    pytest.skip(NO_SLURM)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Two nodes, with accounting where slurmdbd and MariaDB are installed (or as ACCT says)."""
    with own_cluster() as cluster:
        yield cluster


@contextlib.contextmanager
def own_cluster(**knobs: str) -> Iterator[SlurmCluster]:
    """A separate cluster, with options of cluster.sh; in the block, SLURM's commands query this one."""
    _clear_dead_sessions()
    root = Path(f"/tmp/calsweep-slurm-test-{os.getuid()}-{os.getpid()}-{next(_numbers)}")  # holds sockets
    defaults = {"NNODES": "2", "CPUS": "16", "MEM": "32000", "GPUS": "4", "BASEPORT": str(_free_ports())}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            patch.delenv(name)  # a user's own cluster, or an enclosing job
        try:
            environment = {**os.environ, **defaults, **knobs, "SLURM_TESTBED_ROOT": str(root)}
            started = subprocess.run(
                [SCRIPT, "up"], env=environment, capture_output=True, text=True, timeout=HANG_S
            )
            if started.returncode != 0:
                pytest.fail(f"the testbed did not come up:\n{started.stdout}{started.stderr}", pytrace=False)
            conf = root / "etc" / "slurm.conf"
            patch.setenv("SLURM_CONF", str(conf))
            yield SlurmCluster(
                root=root,
                conf=conf,
                nodes=tuple(f"127.0.0.{i + 1}" for i in range(int({**defaults, **knobs}["NNODES"]))),
                accounting="accounting_storage/slurmdbd" in conf.read_text(),
            )
        finally:
            _wipe(root)


def _wipe(root: Path) -> None:
    environment = {**os.environ, "SLURM_TESTBED_ROOT": str(root)}
    subprocess.run([SCRIPT, "wipe"], env=environment, stdout=subprocess.DEVNULL, check=True, timeout=HANG_S)


def _clear_dead_sessions() -> None:
    """Stop clusters that a killed test session left running."""
    for root in Path("/tmp").glob(f"calsweep-slurm-test-{os.getuid()}-*"):
        if not Path("/proc", root.name.split("-")[4]).exists():
            _wipe(root)


def _free_ports() -> int:
    """The first of NUM_PORTS free ports, below those that the kernel assigns."""
    for _ in range(100):
        first = random.randrange(20000, 32000, NUM_PORTS)
        if all(_is_free(port) for port in range(first, first + NUM_PORTS)):
            return first
    raise RuntimeError("no free ports between 20000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
