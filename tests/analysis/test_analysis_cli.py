"""`calsweep analyse`: what it prints, writes and returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.cli import FORMATS, main
from analysis.tables.files import FORMATS as TABLE_FORMATS
from tests.analysis.studies import StudyFolder, sweep
from tests.sweeping import ROOT


def test_tables_writes_one_format_and_prints_it(
    folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(folder, seeds=1)
    for name, suffix in (("csv", "csv"), ("markdown", "md"), ("latex", "tex"), ("parquet", "parquet")):
        assert main(["tables", str(folder.root), "--format", name]) == 0
        path = folder.root / "tables" / f"calibration.{suffix}"
        printed = capsys.readouterr()
        if name == "parquet":
            assert printed.out == f"{path}\n"
            assert path.stat().st_size > 0
        else:
            assert printed.out == path.read_text(encoding="utf-8")
            assert printed.err == f"{path}\n"


def test_tables_without_a_format_writes_all_and_prints_a_summary(
    folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(folder, seeds=1, skip=[(0.1, 0, "sw")])
    assert main(["tables", str(folder.root)]) == 0
    printed = capsys.readouterr()
    assert "Swahili" in printed.out
    assert len(list((folder.root / "tables").iterdir())) == 8
    assert printed.err == "analysis: 1 of 15 shards are missing\n"


def test_dashboard(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(folder, seeds=1)
    assert main(["dashboard", str(folder.root)]) == 0
    assert capsys.readouterr().out == f"{folder.root / 'dashboard.html'}\n"
    assert (folder.root / "dashboard.html").is_file()


@pytest.mark.parametrize("command", ["tables", "dashboard", "verify"])
def test_a_folder_that_is_no_study(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert main([command, str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "is not a study (no plan.json)" in error


@pytest.mark.parametrize("command", ["tables", "diagnose"])
def test_a_place_that_cannot_be_written_is_one_sentence(
    command: str, folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(folder, seeds=1, languages=["en"], count=20)
    (folder.root / "tables").write_text("a file where a folder belongs")
    assert main([command, str(folder.root)]) == 2
    error = capsys.readouterr().err
    place, remedy = folder.root / "tables", "fix that or choose another place, and try again"
    assert error == f"analysis: {place}: File exists; {remedy}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["tables"], ["table", "x"], ["tables", "x", "--format", "xlsx"], ["compare", "x"]]
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_formats_are_those_of_the_tables() -> None:
    assert list(FORMATS) == list(TABLE_FORMATS)


def test_help_is_light_and_nothing_imports_torch() -> None:
    heavy = "torch, numpy, pyarrow, plotly, rich, jinja2"
    code = f"import sys, analysis.cli; print([m for m in '{heavy}'.split(', ') if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"
    modules = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "analysis").rglob("*.py")]
    names = [".".join(module.parts) for module in modules if module.stem != "__main__"]
    assert len(names) > 40
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names}]"
    assert run("-c", f"{code}; print('torch' in sys.modules)").stdout.strip() == "False"


def test_as_a_module() -> None:
    done = run("-m", "analysis", "--help")
    assert done.returncode == 0
    assert "tables" in done.stdout


@pytest.mark.slow
def test_a_pipe_that_closes_early_is_no_traceback(folder: StudyFolder) -> None:
    sweep(folder, seeds=3)
    tables = f"{sys.executable} -m analysis tables {folder.root}"
    command = f"{tables} --format csv | head -1; {tables} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 141
    assert done.stdout.startswith("benchmark,split,")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)
