"""Jobs import from the study's snapshot first, and then from the paths of the user or the site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from launcher.cluster import local, sbatch
from launcher.cluster.sbatch import TaskArray
from launcher.commands.preparation import prefetch
from launcher.planning.tasks import Task
from study.errors import CalsweepError
from study.paths import StudyPaths
from tests.grids import plan_of
from tests.launcher.submitting import GRID, PROFILE, site_of
from tests.sweeping import ROOT
from tests.waiting import HANG_S

WHERE = "import json, launcher, os, sys; print(json.dumps([launcher.__file__, os.environ['PYTHONPATH']]))"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A snapshot; and `other`, another checkout on the user's path, with a module that it alone has."""
    for folder in ("co'de", "other"):
        (tmp_path / folder / "launcher").mkdir(parents=True)
        (tmp_path / folder / "launcher" / "__init__.py").write_text("")
    (tmp_path / "other" / "site_tools.py").write_text("")
    return tmp_path / "co'de"


def imported(command: list[str], **variables: str) -> list[str]:
    """Where a job imports the launcher from, and its path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, env={**env, **variables}, capture_output=True, text=True, timeout=HANG_S, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_a_batch_script_puts_the_snapshot_before_the_profiles_path(tmp_path: Path, code: Path) -> None:
    other = tmp_path / "other"

    def job(profile: str, **variables: str) -> list[str]:
        site, plan = site_of(tmp_path, profile), plan_of(tmp_path, GRID)
        task = Task("train", (plan.of_kind("train")[0],), frozenset())
        array = TaskArray("train", [task], site.resources["train"], frozenset())
        text = sbatch.script(array, 1, StudyPaths(tmp_path / "s"), site.profile, code, study="s")
        lines = text.split("# setup\n")[1].split("\n\n# command")[0].splitlines()
        lines = [line for line in lines if line.startswith(("export ", "cd "))]
        return imported(
            ["bash", "-euc", "\n".join([*lines, f'"{sys.executable}" -c "{WHERE}"'])], **variables
        )

    module = str(code / "launcher" / "__init__.py")
    given = PROFILE.replace("env: {", f"env: {{PYTHONPATH: {other}, ")
    assert job(given) == [module, f"{code}:{other}"]
    assert job(PROFILE, PYTHONPATH=str(other)) == [module, f"{code}:{other}"]
    assert job(PROFILE) == [module, str(code)]  # an empty name at the end would be the working directory


@pytest.mark.parametrize("given", [True, False])
def test_on_this_machine_too(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    other = str(tmp_path / "other")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if given:
        monkeypatch.setenv("PYTHONPATH", other)
    before = os.environ.get("PYTHONPATH")
    with local.children_import_from(code):
        done = subprocess.run(
            [sys.executable, "-c", WHERE + ("; import site_tools" if given else "")],
            capture_output=True, text=True, timeout=HANG_S, check=True,
        )  # fmt: skip
    assert json.loads(done.stdout) == [
        str(code / "launcher" / "__init__.py"), f"{code}:{other}" if given else str(code),
    ]  # fmt: skip
    assert os.environ.get("PYTHONPATH") == before


def test_a_download_has_the_profiles_path_and_one_that_cannot_begin_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH" > "{tmp_path}/path"\nexit 7\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    site = site_of(tmp_path, PROFILE.replace("env: {", "env: {PYTHONPATH: /site/tools, "))
    items = [
        prefetch.Wanted("model", f"org/{n:050}", "a" * 40) for n in range(2000)
    ]  # more than fits into a pipe
    with pytest.raises(CalsweepError, match=r"^the download of .* ended with code 7, see above$"):
        list(prefetch._fetched(items, site, Console()))
    assert (tmp_path / "path").read_text() == f"{ROOT}:/site/tools\n"
