"""The documents name files, functions and commands that exist, and the picture is that of the code."""

from __future__ import annotations

import ast
import re

import pytest

from tests import architecture
from tests.sweeping import ROOT

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "slurm/README.md")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def defined_in(name: str) -> set[str]:
    """Functions, classes and constants at the top of a module."""
    names = set()
    for node in ast.parse((ROOT / name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#]+)\)", (folder / (ROOT / document).name).read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (folder / link).exists()]


@pytest.mark.parametrize(("path", "name"), re.findall(r"`([\w/]+\.py):(\w+)`", ARCHITECTURE))
def test_the_map_names_what_is_there(path: str, name: str) -> None:
    assert name in defined_in(path)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_the_text_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    places = re.findall(
        r"`((?:study|modeling|training|evaluation|analysis|launcher|tests|slurm|examples)/[\w./]+)`", text
    )
    missing = [place for place in places if not (ROOT / place).exists()]
    assert not [place for place in missing if "belebele" not in place and "my_site" not in place]


def test_the_picture_is_that_of_the_code() -> None:
    """Draw it again with `python -m tests.architecture`."""
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.svg()
