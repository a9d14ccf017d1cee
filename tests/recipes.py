"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.sweeping import ROOT


def copy_project(folder: Path) -> Path:
    """A copy of the project that may be changed."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "outputs", "shared")
    return Path(shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True))


def follow(title: str, project: Path) -> None:
    """Make the edits of a recipe: its diffs, and the files that it says to write."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(rf"^### {re.escape(title)}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    new_files = re.findall(r"Write `([\w./]+)`.*?```yaml\n(.*?)```", recipe, re.DOTALL)
    diffs = re.findall(r"```diff\n(.*?)```", recipe, re.DOTALL)
    assert new_files or diffs
    for name, content in new_files:
        assert not (project / name).exists()
        (project / name).write_text(content, encoding="utf-8")
    for diff in diffs:
        for name, hunks in re.findall(r"^--- (\S+)\n(.*?)(?=^--- |\Z)", diff, re.MULTILINE | re.DOTALL):
            for hunk in hunks.split("@@\n"):
                _edit(project / name, hunk.splitlines())


def _edit(file: Path, hunk: list[str]) -> None:
    before, after = ("".join(f"{line[1:]}\n" for line in hunk if line[0] in signs) for signs in (" -", " +"))
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{file.name} holds this {text.count(before)} times:\n{before}"
    file.write_text(text.replace(before, after), encoding="utf-8")
