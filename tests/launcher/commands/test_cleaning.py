"""What gc deletes: optimizer states that no job needs, torn files; never results or a running job's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.commands.cleaning import collect
from study.errors import UserError
from study.files import locked
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.grids import plan_of
from tests.launcher.plans import GRID

STATE = b"x" * 1000


@pytest.fixture
def plan(folder: Path) -> Plan:
    """One prepare, four trains that start from it, five models evaluated in two languages, one analysis."""
    return plan_of(folder, GRID)


@pytest.fixture
def paths(plan: Plan, folder: Path) -> StudyPaths:
    """The study with every job complete, as jobs leave it."""
    paths = StudyPaths(folder / "outputs" / "golden")
    for job in plan.jobs:
        complete(job, paths)
    return paths


def complete(job: Job, paths: StudyPaths) -> None:
    folder = paths.job(job.job_id)
    folder.root.mkdir(parents=True)
    folder.lock.touch()
    if job.kind in ("prepare", "train"):
        for step in ("step-00000010", "step-00000020"):
            (folder.checkpoints / step / "deepspeed").mkdir(parents=True)
            (folder.checkpoints / step / "deepspeed" / "state.pt").write_bytes(STATE)
        folder.model.mkdir()
        (folder.model / "model.safetensors").write_bytes(b"weights")
    if job.kind == "evaluate":
        folder.predictions.mkdir()
        (folder.predictions / "part-000000-000009.parquet").write_bytes(b"records")
    folder.done.write_text("{}")


def files(paths: StudyPaths) -> set[str]:
    return {path.relative_to(paths.root).as_posix() for path in paths.root.rglob("*") if path.is_file()}


def trains(plan: Plan) -> list[Job]:
    return [*plan.of_kind("prepare"), *plan.of_kind("train")]


def test_checkpoints_of_a_finished_study_go_and_nothing_else(plan: Plan, paths: StudyPaths) -> None:
    before = files(paths)
    freed = collect(plan, paths, delete=True)
    assert [(entry.job_id, entry.path) for entry in freed] == [
        (job.job_id, paths.job(job.job_id).checkpoints) for job in trains(plan)
    ]
    assert [entry.num_bytes for entry in freed] == [2 * len(STATE)] * 5
    assert before - files(paths) == {name for name in before if "/checkpoints/" in name}
    assert files(paths) <= before
    assert collect(plan, paths, delete=True) == []


def test_a_look_changes_nothing_and_says_the_same(plan: Plan, paths: StudyPaths) -> None:
    for job in plan.jobs:
        paths.job(job.job_id).lock.unlink()
    before = files(paths)
    seen = collect(plan, paths)
    assert files(paths) == before
    assert collect(plan, paths, delete=True) == seen


def test_one_evaluation_that_is_missing_keeps_its_own_training_run(plan: Plan, paths: StudyPaths) -> None:
    evaluation = plan.of_kind("evaluate")[-1]
    paths.job(evaluation.job_id).done.unlink()
    kept = evaluation.needs[0]
    assert [e.job_id for e in collect(plan, paths)] == [j.job_id for j in trains(plan) if j.job_id != kept]


def test_a_training_run_that_is_missing_keeps_the_one_it_starts_from(plan: Plan, paths: StudyPaths) -> None:
    prepare, first, *others = trains(plan)
    for job in plan.jobs:
        if job is first or first.job_id in job.needs:
            paths.job(job.job_id).done.unlink()
    assert first.needs == (prepare.job_id,)
    assert [entry.job_id for entry in collect(plan, paths)] == [job.job_id for job in others]


def test_an_unfinished_training_run_keeps_its_checkpoints_and_its_torn_files(
    plan: Plan, paths: StudyPaths
) -> None:
    """It may be about to rename them."""
    for job in trains(plan):
        paths.job(job.job_id).done.unlink()
        (paths.job(job.job_id).checkpoints / ".step-00000030.tmp").mkdir()
    assert collect(plan, paths, delete=True) == []


def test_the_analysis_keeps_nothing(plan: Plan, paths: StudyPaths) -> None:
    paths.job(plan.of_kind("analyse")[0].job_id).done.unlink()
    assert len(collect(plan, paths)) == 5


def test_torn_files_of_complete_jobs_go(plan: Plan, paths: StudyPaths) -> None:
    train, evaluation = plan.of_kind("train")[0], plan.of_kind("evaluate")[-1]
    unfinished = plan.of_kind("evaluate")[0]
    paths.job(unfinished.job_id).done.unlink()
    torn = [
        paths.job(train.job_id).root / ".model.tmp" / "model.safetensors",
        paths.job(evaluation.job_id).predictions / ".part-000000-000009.parquet.0123456789ab.tmp",
        paths.job(evaluation.job_id).root / "DONE.tmp",
    ]
    others = [
        paths.job(train.job_id).model / "of_the_model.tmp",
        paths.job(evaluation.job_id).root / "wandb" / "offline-run-1" / "of_wandb.tmp",
        paths.job(unfinished.job_id).predictions / ".part-000009-000018.parquet.0123456789ab.tmp",
        paths.root / "tables" / ".calibration.csv.0123456789ab.tmp",
    ]
    for file in (*torn, *others):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    freed = {entry.path: entry.num_bytes for entry in collect(plan, paths, delete=True)}
    gone = {torn[0].parent, *torn[1:]}
    assert dict.fromkeys(gone, 4) == {p: n for p, n in freed.items() if p.name != "checkpoints"}
    assert not any(path.exists() for path in (*gone, *torn))
    assert all(path.exists() for path in others)


def test_a_torn_checkpoint_is_counted_once(plan: Plan, paths: StudyPaths) -> None:
    torn = paths.job(plan.of_kind("train")[0].job_id).checkpoints / ".step-00000030.tmp"
    torn.mkdir()
    (torn / "state.pt").write_bytes(STATE)
    assert sum(entry.num_bytes for entry in collect(plan, paths)) == 11 * len(STATE)


def test_a_job_whose_lock_is_held_is_left_alone(plan: Plan, paths: StudyPaths) -> None:
    at_work = plan.of_kind("train")[1]
    with locked(paths.job(at_work.job_id).lock):
        freed = collect(plan, paths, delete=True)
        assert at_work.job_id not in {entry.job_id for entry in freed}
        assert len(freed) == 4
    assert [entry.job_id for entry in collect(plan, paths, delete=True)] == [at_work.job_id]


def test_links_are_not_followed(plan: Plan, paths: StudyPaths, tmp_path: Path) -> None:
    elsewhere = tmp_path / "scratch"
    moved, linked, holds, *_ = plan.of_kind("train")
    checkpoints = paths.job(moved.job_id).checkpoints
    checkpoints.rename(elsewhere)
    checkpoints.symlink_to(elsewhere)  # they may be kept on another file system
    paths.job(linked.job_id).root.rename(tmp_path / "job")
    paths.job(linked.job_id).root.symlink_to(tmp_path / "job")  # or shares a job with another study
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "precious.tmp").write_bytes(STATE)
    (paths.job(holds.job_id).checkpoints / "link").symlink_to(shared)
    (paths.job(holds.job_id).root / "logs").symlink_to(shared)
    freed = {entry.job_id: entry for entry in collect(plan, paths, delete=True)}
    assert moved.job_id not in freed
    assert linked.job_id not in freed
    assert freed[holds.job_id].num_bytes == 2 * len(STATE)
    assert (elsewhere / "step-00000010" / "deepspeed" / "state.pt").is_file()
    assert (tmp_path / "job" / "checkpoints" / "step-00000010").is_dir()
    assert (shared / "precious.tmp").is_file()
    assert not paths.job(holds.job_id).checkpoints.exists()


def test_a_jobs_folder_that_lies_elsewhere_is_left_alone(
    plan: Plan, paths: StudyPaths, tmp_path: Path
) -> None:
    (paths.root / "jobs").rename(tmp_path / "jobs")
    (paths.root / "jobs").symlink_to(tmp_path / "jobs")
    assert collect(plan, paths, delete=True) == []


def test_jobs_of_another_plan_are_left_alone(plan: Plan, paths: StudyPaths, folder: Path) -> None:
    narrower = plan_of(folder, GRID, "grid.seed=[0]")
    freed = {entry.job_id for entry in collect(narrower, paths, delete=True)}
    assert freed == {job.job_id for job in trains(narrower)}
    assert len(freed) == 3


def test_a_study_that_never_ran_has_nothing_to_give(plan: Plan, tmp_path: Path) -> None:
    assert collect(plan, StudyPaths(tmp_path / "nowhere"), delete=True) == []
    assert not (tmp_path / "nowhere").exists()


def test_what_may_not_be_deleted_is_one_sentence(
    plan: Plan, paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = paths.job(trains(plan)[0].job_id).checkpoints

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)  # tests may run as root, which may delete anything
    with pytest.raises(UserError, match=f"^{place}: cannot be deleted \\(Permission denied\\); check"):
        collect(plan, paths, delete=True)
