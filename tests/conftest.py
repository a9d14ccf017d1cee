"""What several test folders share: markers by path, how workers divide the tests, the swept smoke study."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from tests.sweeping import ROOT, sweep

MARKERS = {
    "slurm": ["tests/slurm"],
    "browser": [
        "tests/analysis/dashboard/test_dashboard_browser.py",
        "tests/analysis/dashboard/test_dashboard_figures.py",
        "tests/analysis/dashboard/test_dashboard_look.py",
    ],
    "deepspeed": [
        "tests/training/engine",
        "tests/training/test_certificate.py",
        "tests/training/test_killed.py",
        "tests/training/test_train.py",
    ],
    "slow": [
        "tests/analysis/dashboard",
        "tests/analysis/diagnoses",
        "tests/analysis/exchange",
        "tests/analysis/figures",
        "tests/analysis/metrics/test_metrics_peers.py",
        "tests/analysis/reading",
        "tests/analysis/test_add_a_metric.py",
        "tests/analysis/test_analysis_cli.py",
        "tests/analysis/test_read_once.py",
        "tests/analysis/verification",
        "tests/evaluation/test_benchmarks.py",
        "tests/evaluation/test_lm_eval.py",
        "tests/evaluation/test_lm_eval_golden.py",
        "tests/evaluation/test_longrope.py",
        "tests/evaluation/test_prompting.py",
        "tests/evaluation/test_scoring.py",
        "tests/evaluation/test_shard.py",
        "tests/evaluation/test_shard_killed.py",
        "tests/evaluation/test_shard_models.py",
        "tests/evaluation/test_shots.py",
        "tests/launcher/cluster",
        "tests/launcher/commands",
        "tests/launcher/job/test_work.py",
        "tests/launcher/state",
        "tests/launcher/test_bad_data.py",
        "tests/launcher/test_changed_data.py",
        "tests/launcher/test_shadowing.py",
        "tests/launcher/test_smoke.py",
        "tests/modeling",
        "tests/real",
        "tests/study/jobs/test_growing_identity.py",
        "tests/study/models/test_context.py",
        "tests/study/tracking",
        "tests/test_one_file.py",
        "tests/training",
    ],
}
"""Marker -> the files and folders whose tests have it. A single slow test has `@pytest.mark.slow` instead.

`pytest --fast` leaves out every test with one of these markers, and does not import these files at all.
"""

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell that starts pytest in the background makes it ignore SIGINT; every process that a test
    # starts and interrupts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The machine may be busy with other work, so no example has a deadline.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Importing leaves nearly no garbage, and searching for it would take a quarter of the time of a collection.
gc.disable()


def markers_of(path: Path) -> list[str]:
    """The markers that MARKERS gives a file or folder."""
    return [name for name, places in MARKERS.items() if any(path.is_relative_to(ROOT / p) for p in places)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests of pure logic: none with a marker")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--fast") and markers_of(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if collector.config.getoption("--fast") and "torch" in sys.modules:
        raise pytest.UsageError(
            f"{collector.nodeid} imports torch, which no fast test may: import it in a function, "
            "or give the file a marker in tests/conftest.py"
        )
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the markers, before `-m` selects by them. SLURM goes first: it takes longest, and mostly waits."""
    for item in items:
        for name in markers_of(item.path):
            item.add_marker(name)
    if config.getoption("--fast"):
        config.hook.pytest_deselected(items=[item for item in items if _has_marker(item)])
        items[:] = [item for item in items if not _has_marker(item)]
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)


def _has_marker(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in MARKERS)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


class FilesAndSlurm(LoadFileScheduling):  # type: ignore[misc]
    """Workers take whole files, so that module fixtures are made once; all SLURM tests go to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/slurm" if nodeid.startswith("tests/slurm/") else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesAndSlurm:
    return FilesAndSlurm(config, log)


@pytest.fixture(scope="session")
def smoke_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs folder of examples/smoke.yaml, swept on this machine. Tests must not change it."""
    outputs = tmp_path_factory.mktemp("smoke")
    done = sweep(outputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SFT ε=0.1" in done.stdout
    return outputs
