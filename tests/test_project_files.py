"""The Makefile, CI, pre-commit, README, pyproject.toml and CITATION.cff agree on commands and version."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml

from tests.conftest import MARKERS
from tests.sweeping import ROOT


def recipes() -> dict[str, list[str]]:
    """Target -> the commands of its recipe in the Makefile."""
    rules = re.findall(
        r"^([\w-]+):.*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    return {target: [line.strip() for line in recipe.splitlines()] for target, recipe in rules}


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_pre_commit_runs_what_make_check_runs() -> None:
    (repository,) = loaded(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == recipes()["check"]


def test_ci_calls_the_script_that_checks_and_tests_everything() -> None:
    workflow = loaded(".github/workflows/ci.yml")
    assert workflow[True] == ["push", "pull_request"]  # YAML 1.1 reads `on` as true
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {"make check", "make test"} <= {
        line.removeprefix("CALSWEEP_REQUIRE_SLURM=1 ") for line in script.splitlines()
    }


def test_every_target_is_phony_and_named_at_the_top_of_the_makefile() -> None:
    first, *lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (phony,) = [set(line.split()[1:]) for line in lines if line.startswith(".PHONY:")]
    assert phony == set(recipes())
    assert set(re.findall(r"[a-z-]+", first.partition(".")[0])) == phony - {"setup", "clean"} | {"make"}


def test_readme_names_the_targets_of_a_developer() -> None:
    developing = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Developing")[2]
    assert set(re.findall(r"^    make ([a-z-]+)", developing, re.MULTILINE)) == set(recipes()) - {
        "setup",
        "demo",
        "clean",
    }


def test_the_citation_is_of_this_version() -> None:
    citation = loaded("CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["title"] == project["name"]
    assert citation["abstract"] == project["description"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    titles = [paper["title"] for paper in citation["references"]]
    assert titles[0].startswith("Investigating the Multilingual Calibration Effects")


def test_markers_are_given_to_files_and_folders_that_exist() -> None:
    assert not [place for places in MARKERS.values() for place in places if not (ROOT / place).exists()]
