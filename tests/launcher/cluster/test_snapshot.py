"""Snapshots of the code: named by their content, and not affected by later edits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cluster import snapshot
from launcher.cluster.snapshot import PACKAGES, take_snapshot
from study.errors import UserError
from tests.waiting import HANG_S


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one file a package, outside git."""
    root = tmp_path / "project"
    for package in PACKAGES:
        (root / package / "__pycache__").mkdir(parents=True)
        (root / package / "__init__.py").write_text(f"NAME = '{package}'\n")
        (root / package / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"\0")
    (root / "study" / "table.csv").write_text("a,b\n")
    monkeypatch.setattr(snapshot, "ROOT", root)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_copy_named_by_its_content(project: Path, tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path / "code").write()
    assert copy.parent == tmp_path / "code"
    found = contents(copy)
    marker = json.loads(found.pop("snapshot.json"))
    assert marker == {"code": copy.name, "git_commit": None, "git_dirty": None}
    assert found == {name: data for name, data in contents(project).items() if "__pycache__" not in name}
    again = take_snapshot(tmp_path / "elsewhere").write()
    assert again.name == copy.name


def test_an_edit_makes_another_copy_and_leaves_the_first(project: Path, tmp_path: Path) -> None:
    first = take_snapshot(tmp_path / "code").write()
    before = contents(first)
    (project / "study" / "__init__.py").write_text("NAME = 'edited'\n")
    second = take_snapshot(tmp_path / "code").write()
    assert second != first
    assert contents(first) == before
    assert (second / "study" / "__init__.py").read_text() == "NAME = 'edited'\n"
    (project / "study" / "table.csv").rename(project / "study" / "other.csv")
    assert take_snapshot(tmp_path / "code").write() not in (first, second)


def test_an_edit_while_it_is_taken_is_not_mixed_in(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = take_snapshot(tmp_path / "first").write().name
    make_folder = Path.mkdir

    def edit(self: Path, *arguments: object, **options: object) -> None:
        (project / "training" / "__init__.py").write_text("NAME = 'edited'\n")
        make_folder(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", edit)
    copy = take_snapshot(tmp_path / "code").write()
    assert copy.name == name
    assert (copy / "training" / "__init__.py").read_text() == "NAME = 'training'\n"


def test_a_half_written_copy_is_written_again(project: Path, tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path / "code").write()
    (copy / "snapshot.json").unlink()  # written last: a launcher was killed before it
    (copy / "study" / "__init__.py").write_text("NAME = 'st")
    assert take_snapshot(tmp_path / "code").write() == copy
    assert (copy / "study" / "__init__.py").read_text() == "NAME = 'study'\n"
    assert (copy / "snapshot.json").is_file()


def test_data_among_the_code_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "MAX_BYTES", 2**20)
    (project / "analysis" / "weights").write_bytes(bytes(2**20 + 1))
    with pytest.raises(UserError, match=r"1 MiB of code, of which analysis/weights is the largest file; "):
        take_snapshot(tmp_path / "code").write()
    assert not (tmp_path / "code").exists()


def test_the_git_commit_is_recorded(project: Path, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(project), *who, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    marker = json.loads((take_snapshot(tmp_path / "a").write() / "snapshot.json").read_text())
    assert (marker["git_commit"], marker["git_dirty"]) == (git("rev-parse", "HEAD"), False)
    (project / "study" / "__init__.py").write_text("edited\n")
    marker = json.loads((take_snapshot(tmp_path / "b").write() / "snapshot.json").read_text())
    assert marker["git_dirty"] is True


def test_in_a_checkout_it_is_what_git_would_track(project: Path, tmp_path: Path) -> None:
    """Untracked files count, since jobs may need them; what .gitignore names does not."""
    subprocess.run(["git", "-C", str(project), "init", "--quiet"], check=True)
    (project / ".gitignore").write_text("outputs/\n__pycache__/\n")
    (project / "outputs").mkdir()
    (project / "outputs" / "weights").write_bytes(bytes(9))
    (project / "profile.yaml").write_text("partition: gpu\n")
    found = contents(take_snapshot(tmp_path / "code").write())
    assert "profile.yaml" in found
    assert "study/table.csv" in found
    assert not any("outputs" in name or "__pycache__" in name for name in found)


def test_studies_in_the_checkout_are_no_code(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy stays the same, byte for byte, whatever jobs write."""
    subprocess.run(["git", "-C", str(project), "init", "--quiet"], check=True)
    (project / ".gitignore").write_text("__pycache__/\n")
    before = take_snapshot(project / "results" / "s" / "code").folder.name
    monkeypatch.setattr(snapshot, "MAX_BYTES", 2**20)
    for study in ("results/s", "results/s/pilot", "results/other", "analysis/strange", "s"):
        folder = project / study
        (folder / "jobs" / "x" / "model").mkdir(parents=True)
        (folder / "plan.json").write_text("{}")
        (folder / "jobs" / "x" / "model" / "weights").write_bytes(bytes(2**20 + 1))
    copy = take_snapshot(project / "results" / "s" / "code").write()
    assert copy.name == before
    assert take_snapshot(project / "results" / "s" / "code").folder == copy  # nor is the copy itself
    assert "analysis/__init__.py" in contents(copy)


@pytest.mark.parametrize("place", ["", "analysis"])
def test_a_study_that_is_the_checkout_or_a_package_leaves_the_code_where_it_is(
    project: Path, tmp_path: Path, place: str
) -> None:
    subprocess.run(["git", "-C", str(project), "init", "--quiet"], check=True)
    (project / place / "plan.json").write_text("{}")
    assert "analysis/__init__.py" in contents(take_snapshot(tmp_path / "code").write())


def test_a_job_that_continues_a_study_uses_the_copy_it_runs_from(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = take_snapshot(tmp_path / "code").write()
    monkeypatch.setattr(snapshot, "ROOT", copy)
    assert take_snapshot(tmp_path / "code").write() == copy


def test_the_real_code_imports_from_its_copy_alone(tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path).write()
    program = "import launcher.job.work as a, study.cldr.facts as b; print(a.__file__, b.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert all(Path(file).is_relative_to(copy) for file in done.stdout.split())
