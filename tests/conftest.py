"""What several test folders share."""

from pathlib import Path

import pytest

from tests.sweeping import sweep


@pytest.fixture(scope="session")
def smoke_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs folder of examples/smoke.yaml, swept on this machine. Read it, do not change it."""
    outputs = tmp_path_factory.mktemp("smoke")
    done = sweep(outputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SFT ε=0.1" in done.stdout
    return outputs
