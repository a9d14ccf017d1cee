"""The code as it was at submission: a job runs from a copy, so that later edits never reach it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from study.errors import UserError
from study.files import HASH_LENGTH, write_json

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("study", "training", "evaluation", "analysis", "launcher")
MAX_BYTES = 50 * 2**20


def take_snapshot(code: Path) -> Path:
    """Copy the project's packages to `code/<content hash>/`, once for each content; returns that folder.

    Raises UserError when they hold more than 50 MiB, which means that data lies among the code.
    """
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*") if _is_code(path))
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        raise UserError(
            f"{size / 2**20:.0f} MiB of code", where=str(ROOT), remedy="move data out of the packages"
        )
    # read once: what is hashed is what is written, whatever an editor does meanwhile
    contents = {path.relative_to(ROOT): path.read_bytes() for path in files}
    total = hashlib.sha256()
    for name, content in contents.items():
        total.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    target = code / total.hexdigest()[:HASH_LENGTH]
    if not (target / "snapshot.json").is_file():
        for name, content in contents.items():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        write_json(
            target / "snapshot.json", {"code": target.name, **_git()}
        )  # last: it marks the copy complete
    return target


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def _git() -> dict[str, Any]:
    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = ask("status", "--porcelain")
    return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": None if status is None else bool(status)}
