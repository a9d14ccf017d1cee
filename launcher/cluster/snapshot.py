"""The snapshot: a copy of the code at submission. Jobs run from it, so that later edits never reach them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.errors import UserError
from study.files import HASH_LENGTH, write_json
from study.paths import ROOT, StudyPaths

PACKAGES = ("study", "modeling", "training", "evaluation", "analysis", "launcher")
MAX_BYTES = 50 * 2**20
MARKER = "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """Files by relative path, read once, so that the hash is that of the copy even if a file is edited."""

    contents: Mapping[Path, bytes]
    folder: Path

    def write(self) -> Path:
        """Copy the files to `folder`, unless it is complete; returns it."""
        if not (self.folder / MARKER).is_file():
            for name, content in self.contents.items():
                copy = self.folder / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            # written last, it marks the copy as complete
            write_json(self.folder / MARKER, {"code": self.folder.name, **_git_state()})
        return self.folder


def take_snapshot(code: Path) -> Snapshot:
    """The project's files as they are, to be copied to `code/<content hash>/`.

    In a git checkout those are the files that git tracks or would track, without ignored files and without
    the folders of studies; elsewhere, the files of the packages. Raises UserError above 50 MiB, which means
    that there is data among the code.
    """
    if (ROOT / MARKER).is_file():  # a job that submits jobs runs from a snapshot
        return Snapshot({}, ROOT)
    files = _listed_by_git() or [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    files = sorted(path for path in _outside_studies(files) if _is_code(path))
    sizes = {path: path.stat().st_size for path in files}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(files, key=sizes.__getitem__).relative_to(ROOT)
        raise UserError(
            f"{sum(sizes.values()) / 2**20:.0f} MiB of code, of which {largest} is the largest file",
            where=str(ROOT),
            remedy="move data out of the checkout, or name them in .gitignore",
        )
    contents = {path.relative_to(ROOT): path.read_bytes() for path in files}
    total = hashlib.sha256()
    for name, content in contents.items():
        total.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    return Snapshot(contents, code / total.hexdigest()[:HASH_LENGTH])


def _outside_studies(files: Sequence[Path]) -> list[Path]:
    """Files outside the folders of studies: what a study writes must not change the code that it runs."""
    plan = StudyPaths(ROOT).plan.name
    studies = {path.parent for path in files if path.name == plan}
    studies -= {ROOT, *(ROOT / package for package in PACKAGES)}
    return [path for path in files if studies.isdisjoint(path.parents)]


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def _listed_by_git() -> list[Path]:
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None or not (ROOT / ".git").exists():  # installed inside somebody else's checkout
        return []
    return [ROOT / name for name in listed.split("\0") if name]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_state() -> dict[str, Any]:
    status = _git("status", "--porcelain")
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
    }
