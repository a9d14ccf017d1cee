"""What several test folders share."""

from pathlib import Path

import pytest

from tests.sweeping import sweep


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two workers share out files, not tests, as fixtures are made for; all that needs SLURM is one piece.

    That one goes first: it takes longest, and mostly waits.
    """
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group("slurm" if folder == "slurm" else str(item.path)))
    items.sort(key=lambda item: item.path.parent.name != "slurm")


@pytest.fixture(scope="session")
def smoke_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs folder of examples/smoke.yaml, swept on this machine. Read it, do not change it."""
    outputs = tmp_path_factory.mktemp("smoke")
    done = sweep(outputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SFT ε=0.1" in done.stdout
    return outputs
