"""The command line: exit codes, one sentence for each mistake, the same from everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import cli
from launcher.cli import main
from launcher.cluster import ledger
from launcher.commands import sweep as sweeping
from study.files import locked, write_json
from study.paths import StudyPaths
from tests.grids import plan_of, write_grid, write_model
from tests.launcher.fake_slurm import install, queue_of
from tests.sweeping import ROOT
from tests.waiting import HANG_S

GRID = """
study: s
grid: {model: [m], dataset: [cldr-instruct]}
evaluate: {benchmarks: [{name: cldr_lite, languages: [en, sw]}]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_model(tmp_path / "m")
    write_grid(tmp_path, GRID)
    return tmp_path


def code_of(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_dry_run_shows_everything_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(folder)
    assert code_of("sweep", "grid.yaml", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "s: 6 jobs (1 train, 4 evaluate, 1 analyse)" in out
    assert "complete 0, queued or running 0, to do 6 in 6 tasks" in out
    assert "m · cldr_lite in 2 languages" in out
    assert tree(folder) == before


def test_the_dry_run_of_a_pilot_does_not_advise_a_pilot(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    advice = "--pilot measures one cell"
    assert code_of("sweep", "grid.yaml", "--dry-run") == 0
    assert advice in capsys.readouterr().out
    assert code_of("sweep", "grid.yaml", "--dry-run", "--pilot") == 0
    out = capsys.readouterr().out
    assert "not known: " in out
    assert advice not in out


@pytest.mark.parametrize("output", ["--json", "--yes"])  # plain printing, and rich's
def test_a_reader_that_has_seen_enough_makes_no_traceback(folder: Path, output: str) -> None:
    """As for programs that SIGPIPE ends, the exit code is 128 + 13."""
    reading, writing = os.pipe()
    os.close(reading)
    grid = str(folder / "grid.yaml")
    command = [sys.executable, "-m", "launcher.cli", "sweep", grid, "--dry-run", output]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=HANG_S
        )
    finally:
        os.close(writing)
    assert done.returncode == 141, done.stderr
    assert "Error" not in done.stderr


def test_a_closed_output_is_not_a_mistake(folder: Path) -> None:
    command = f"{sys.executable} -m launcher.cli sweep {folder / 'grid.yaml'} --dry-run --json >&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_dry_run_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("sweep", "grid.yaml", "--dry-run", "--json", "evaluate.languages_per_task=2") == 0
    printed = json.loads(capsys.readouterr().out)
    jobs = [job.job_id for job in plan_of(folder, GRID).jobs]
    assert [job_id for task in printed["tasks"] for job_id in task["jobs"]] == jobs
    assert [(task["kind"], len(task["jobs"])) for task in printed["tasks"]] == [
        ("train", 1), ("evaluate", 2), ("evaluate", 2), ("analyse", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["grid.yaml", "study=x", "outputs=y", "--dry-run"],
        ["--dry-run", "grid.yaml", "study=x", "outputs=y"],
        ["grid.yaml", "--dry-run", "study=x", "outputs=y"],
        ["grid.yaml", "study=x", "--dry-run", "outputs=y"],
    ],
)
def test_options_stand_anywhere(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert code_of("sweep", *arguments) == 0
    assert "x: 6 jobs" in capsys.readouterr().out


def test_dry_run_of_a_cluster_shows_its_scripts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(folder)
    assert code_of("sweep", "grid.yaml", "cluster=slurm/profiles/testbed.yaml", "--dry-run") == 0
    out = capsys.readouterr().out
    for line in ("#SBATCH --job-name=s-train", "#SBATCH --nodes=2", "#SBATCH --partition=main"):
        assert line in out
    assert "sbatch --comment=calsweep:<token> --dependency=afterok:<array of 0001>_0 " in out
    assert "#SBATCH --array=0-" in out
    assert tree(folder) == before


def test_complete_is_counted_from_markers_and_not_by_subtraction(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that the queue still holds may have finished some of its jobs, or belong to another grid."""
    fake = install(folder / "bin")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    jobs = [job.job_id for job in plan_of(folder, GRID).jobs]
    paths = StudyPaths(folder / "outputs" / "s")
    write_json(paths.job(jobs[1]).done, {})
    packs = [[jobs[0]], jobs[1:2], ["of-another-grid"]]
    entry = ledger.write_intent(paths.ledger, "evaluate", "slurm", packs)
    ledger.write_array(paths.ledger, entry, "7")
    fake.answer(squeue=queue_of("7_0 PENDING", "7_1 PENDING", "7_2 RUNNING"))
    assert code_of("sweep", "grid.yaml", "--dry-run", "cluster=slurm/profiles/testbed.yaml") == 0
    assert "complete 1, queued or running 1, to do 4 in 4 tasks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sweep", "none.yaml"], "none.yaml: no such file; give the path of a grid, e.g. examples/demo.yaml"),
        (["sweep", "grid.yaml", "lr=1"], "command line: lr: unknown key; did you mean "),
        (["sweep", "grid.yaml", "cluster=none.yaml"], "command line: cluster: no such profile "),
        (["sweep", "grid.yaml", "outputs=grid.yaml"], "grid.yaml"),
        (["status", "."], "is not a study (no plan.json); give <outputs>/<study>"),
        (["logs", "grid.yaml", "x"], "is not a study (no plan.json); give <outputs>/<study>"),
        (["status", "none"], "none: no such study; "),
        (["doctor", "lung", "grid.yaml"], "doctor lung grid.yaml: is unknown; write: doctor loss GRID"),
        (["doctor", "grids.yaml"], "calsweep: grids.yaml: no such file"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert code_of(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("calsweep: ")
    assert sentence in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["swep"],
        ["sweep"],
        ["sweep", "grid.yaml", "--fast"],
        ["status"],
        ["status", ".", "x"],
        ["logs", "."],
    ],
    ids=str,
)
def test_a_wrong_usage_is_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert code_of(*arguments) == 2
    assert "usage: calsweep" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--help") == 0
    out = capsys.readouterr().out
    assert {*cli.COMMANDS, "analyse"} == {line.split()[0] for line in out.split("COMMAND\n")[1].splitlines()
                                          if line.startswith("    ") and line[4] != " "}  # fmt: skip


@pytest.mark.parametrize("name", [*cli.COMMANDS, "analyse"])
def test_every_command_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(name, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: calsweep {name} ")
    assert cli.COMMANDS.get(name, "") in " ".join(out.split())


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("sweep", "--dry-run") == 2
    assert capsys.readouterr().err.endswith("error: the following arguments are required: GRID.yaml\n")


def test_interrupted_is_130(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "build_plan", interrupt)
    assert code_of("sweep", "grid.yaml") == 130
    assert capsys.readouterr().err == "calsweep: interrupted; run the same command to continue\n"


def test_a_bug_of_ours_keeps_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(sweeping, "build_plan", defect)
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["sweep", "grid.yaml"])


def test_a_second_launcher_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = StudyPaths(folder / "outputs" / "s")
    with locked(paths.lock):
        assert code_of("sweep", "grid.yaml") == 2
    assert capsys.readouterr().err == (
        f"calsweep: {paths.root}: another launcher is working on this study; wait until it has finished\n"
    )
    assert not paths.plan.exists()


def test_submit_then_status_logs_cancel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = install(folder / "bin")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    arguments = ["sweep", "grid.yaml", "cluster=slurm/profiles/testbed.yaml", "--json", "--yes"]
    assert code_of(*arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    jobs = [job.job_id for job in plan_of(folder, GRID).jobs]
    assert set(printed["submitted"]) == set(jobs)
    assert sorted(printed["submitted"].values()) == ["101_0", "102_0", "102_1", "103_0", "103_1", "104_0"]
    count = len(fake.calls("sbatch"))
    queue = queue_of(*(f"{task} PENDING" for task in printed["submitted"].values()))
    fake.answer(squeue={**queue, "after_scancel": ""})
    assert code_of(*arguments) == 0  # nothing is submitted twice
    assert json.loads(capsys.readouterr().out)["submitted"] == {}
    assert len(fake.calls("sbatch")) == count

    study = str(folder / "outputs" / "s")
    for name in (study, "grid.yaml"):
        assert code_of("status", name, "--json") == 0
        assert json.loads(capsys.readouterr().out)["counts"]["queued"] == 6
    assert code_of("logs", study, jobs[0]) == 2
    assert "has no logs yet; see calsweep status for its state" in capsys.readouterr().err
    assert code_of("logs", study, "") == 2
    assert "matches 6 job ids; see calsweep status --json" in capsys.readouterr().err
    assert code_of("cancel", study, "--json") == 0
    cancelled = json.loads(capsys.readouterr().out)["cancelled"]
    assert cancelled == sorted(set(printed["submitted"].values()))
    # in one call, whole arrays, and the continuing job first
    assert [call["arguments"] for call in fake.calls("scancel")][-1] == ["101", "102", "103", "104"]

    folder_of_job = StudyPaths(Path(study)).job(jobs[0])
    fake.answer()
    write_json(folder_of_job.failed, {"cause": "user error", "message": "no memory", "logs": []})
    folder_of_job.logs.mkdir()
    (folder_of_job.logs / "0001.err").write_text("\n".join(f"line {i}" for i in range(50)))
    assert code_of("status", study) == 1
    assert "no memory" in capsys.readouterr().out
    assert code_of("logs", study, jobs[0][:8]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"==> {folder_of_job.logs / '0001.err'}"
    assert out[1:] == [f"line {i}" for i in range(20, 50)]


def test_the_script_and_the_command_are_the_same_from_anywhere(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    # what the script's own folder would shadow if it stayed first on the path
    program = "import sys; from launcher.cli import main; sys.exit(main())"
    arguments = [str(folder / "grid.yaml"), "--dry-run", "--json"]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=elsewhere, env=env, capture_output=True, text=True, timeout=HANG_S
        )

    script = run(str(ROOT / "launcher" / "sweep.py"), *arguments)
    command = run("-c", program, "sweep", *arguments)
    assert script.returncode == command.returncode == 0, script.stderr + command.stderr
    assert script.stdout == command.stdout
    assert json.loads(script.stdout)["study"] == "s"
    wrong = run(str(ROOT / "launcher" / "sweep.py"), "none.yaml")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("calsweep: none.yaml: no such file; ")
    assert not list(elsewhere.iterdir())


def test_the_installed_command_is_this_one() -> None:
    (entry,) = [
        line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("calsweep =")
    ]
    assert entry == 'calsweep = "launcher.cli:main"'
