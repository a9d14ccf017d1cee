"""What several test folders share."""

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from tests.sweeping import sweep

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # a shell that starts this in the background has it ignored, by every process that a test interrupts, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


# a machine that others use, too, is slow now and then
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


class Pieces(LoadFileScheduling):  # type: ignore[misc]
    """Two workers share out files, not tests, as fixtures are made for; all that needs SLURM is one piece."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/slurm" if nodeid.startswith("tests/slurm/") else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Pieces:
    return Pieces(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SLURM goes first: it takes longest, and mostly waits."""
    items.sort(key=lambda item: item.path.parent.name != "slurm")


@pytest.fixture(scope="session")
def smoke_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs folder of examples/smoke.yaml, swept on this machine. Read it, do not change it."""
    outputs = tmp_path_factory.mktemp("smoke")
    done = sweep(outputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SFT smoothing=0.1" in done.stdout
    return outputs
