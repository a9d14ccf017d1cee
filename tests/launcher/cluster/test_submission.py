"""Batch scripts, dependencies and arrays as sbatch gets them; it is a fake here."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest

from launcher.cluster import ledger, sbatch, scheduler
from launcher.cluster.advance import Submitted, next_step, submit_step
from launcher.cluster.scheduler import ask_queue
from launcher.planning.sites import OWN_SBATCH, SlurmSite
from study.errors import UserError
from study.files import locked, read_json, write_json
from study.jobs.plan import Plan
from study.paths import StudyPaths
from tests.grids import plan_of
from tests.launcher.fake_slurm import FakeSlurm, install, queue_of
from tests.launcher.submitting import GRID, PROFILE, flags, site_of

CODE = Path("/study's/code/abc")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scheduler, "BACKOFF_S", (0.01, 0.01, 0.01))
    fake = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return fake


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "outputs" / "s")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(tmp_path, GRID)


def send(plan: Plan, paths: StudyPaths, site: SlurmSite, *, automatic: bool = False) -> Submitted:
    step = next_step(plan, paths, site, ask_queue(), automatic=automatic)
    with ledger.held(paths) as lock:
        return submit_step(step, plan, paths, site, CODE, lock=lock)


def test_the_script_of_a_training_array(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    send(plan, paths, site_of(tmp_path))
    call = fake.calls("sbatch")[1]
    logs = f"{paths.submissions}/0002/%A_%a_0_log"
    found = flags(call)
    assert re.fullmatch(r"calsweep:[0-9a-f]{16}", found.pop("comment"))
    assert found == {
        "account": "mine",
        "array": "0-2%2",
        "cpus-per-task": "8",
        "dependency": "afterok:101_0",
        "error": f"{logs}.err",
        "exclusive": "",
        "gpus-per-node": "4",
        "job-name": "s-train",
        "kill-on-invalid-dep": "yes",
        "mail-type": "FAIL",
        "mem": "1536M",
        "nodes": "2",
        "ntasks-per-node": "4",
        "open-mode": "append",
        "output": f"{logs}.out",
        "partition": "gpu",
        "requeue": "",
        "signal": "USR2@120",
        "time": "30",
        "wckey": "submitit",
    }
    text = str(call["script"])
    body = text.split("# setup\n")[1].split("\n\n# command")[0].splitlines()
    assert body[:5] == [
        "module load cuda",
        "export HF_HUB_OFFLINE=1",
        """export WORDS='it'"'"'s two'""",
        """cd '/study'"'"'s/code/abc'""",
        """export PYTHONPATH='/study'"'"'s/code/abc'${PYTHONPATH:+:$PYTHONPATH}""",
    ]
    command = text.split("# command\n")[1]
    assert command.startswith("export SUBMITIT_EXECUTOR=slurm\nsrun --unbuffered ")
    assert (
        " --kill-on-bad-exit=1 --open-mode=append apptainer exec image.sif python -u -m submitit." in command
    )
    assert f"python -m launcher.aftermath {paths.root} 2 $code\nexit $code" in command


def test_no_option_that_the_launcher_gives_may_be_given_by_a_profile(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    """Those of real batch scripts and calls: a profile could only break what they say."""
    send(plan, paths, site_of(tmp_path))
    given = {key for call in fake.calls("sbatch") for key in flags(call)}
    assert {"array", "dependency", "signal", "time"} <= given
    of_the_profile = {"mail-type", "exclusive"}
    for key in given - of_the_profile - {"wckey"}:  # set by submitit, and without effect
        assert key in OWN_SBATCH, key


def test_everything_a_task_reads_lies_there_before_sbatch_is_called(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    """A launcher that is killed at that moment leaves an array that runs."""
    fake.answer(sbatch={"code": 1, "error": "sbatch: error: Invalid account"})
    with pytest.raises(UserError):
        send(plan, paths, site_of(tmp_path))
    folder = paths.submission(1)
    prepare = plan.jobs[0].job_id
    assert read_json(folder / "packs.json") == [[prepare]]
    delayed = pickle.loads((folder / "submitted.pkl").read_bytes())
    assert (delayed.function.__name__, delayed.args) == ("run_task", (str(paths.root), 1))
    assert paths.job(prepare).spec.is_file()
    assert paths.job(prepare).execution.is_file()
    (entry,) = ledger.read(paths.ledger)
    assert (entry.packs, entry.array) == ([[prepare]], None)


def test_a_short_time_limit_is_not_all_warning(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    send(plan, paths, site_of(tmp_path, PROFILE.replace("time_min: 30", "time_min: 1")))
    assert flags(fake.calls("sbatch")[1])["signal"] == "USR2@20"


def test_a_first_array_has_no_dependency_and_small_memory_is_never_all_of_it(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    site = site_of(tmp_path, PROFILE + "  prepare: {mem_gib: 0.0001}\n")
    send(plan, paths, site)
    found = flags(fake.calls("sbatch")[0])
    assert "dependency" not in found
    assert "kill-on-invalid-dep" not in found
    assert "gpus-per-node" not in found
    assert found["mem"] == "1M"  # 0M would request all memory of a node


def shown(fake: FakeSlurm, start: int = 0) -> list[tuple[str, str | None, str | None]]:
    calls = [flags(call) for call in fake.calls("sbatch")[start:]]
    return [(f["job-name"], f.get("dependency"), f.get("array")) for f in calls]


def test_dependencies(fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths) -> None:
    """One array a model: its evaluations wait for its own task; the analysis for the end of all arrays."""
    submitted = send(plan, paths, site_of(tmp_path))
    assert shown(fake) == [
        ("s-prepare", None, "0-0%1"),
        ("s-train", "afterok:101_0", "0-2%2"),
        ("s-evaluate", "afterok:101_0", "0-1%2"),
        ("s-evaluate", "afterok:102_0", "0-1%2"),
        ("s-evaluate", "afterok:102_1", "0-1%2"),
        ("s-evaluate", "afterok:102_2", "0-1%2"),
        ("s-analyse", "afterany:101:102:103:104:105:106", "0-0%1"),
    ]
    ids = [job.job_id for job in plan.jobs]
    expected = ["101_0", "102_0", "102_1", "102_2"]
    expected += [f"{array}_{i}" for array in (103, 104, 105, 106) for i in (0, 1)] + ["107_0"]
    assert submitted.jobs == dict(zip(ids, expected, strict=True))
    assert submitted.continues
    assert ledger.task_of(ledger.read(paths.ledger)) == submitted.jobs


def test_evaluations_that_wait_for_nothing_are_one_array(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    for job in plan.jobs[:4]:
        write_json(paths.job(job.job_id).done, {})
    send(plan, paths, site_of(tmp_path))
    assert shown(fake) == [("s-evaluate", None, "0-7%2"), ("s-analyse", "afterany:101", "0-0%1")]


def test_long_arrays_are_cut(fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths) -> None:
    send(plan, paths, site_of(tmp_path, PROFILE + "max_array_size: 2\n"))
    assert [entry[1:] for entry in shown(fake) if entry[0] == "s-train"] == [
        ("afterok:101_0", "0-1%2"), ("afterok:101_0", "0-0%1"),
    ]  # fmt: skip
    assert [entry[1] for entry in shown(fake) if entry[0] == "s-evaluate"] == [
        "afterok:101_0", "afterok:102_0", "afterok:102_1", "afterok:103_0",
    ]  # fmt: skip


def test_several_languages_a_task(fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths) -> None:
    grid = GRID.replace("evaluate: {bench", "evaluate: {languages_per_task: 2, bench")
    placed = send(plan, paths, site_of(tmp_path, grid=grid)).jobs
    shards = [job.job_id for job in plan.of_kind("evaluate")]
    assert [placed[job_id] for job_id in shards] == [
        f"{array}_0" for array in (103, 103, 104, 104, 105, 105, 106, 106)
    ]


def test_no_more_than_the_site_lets_a_user_submit(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    """Jobs of another study count too, and one place is kept for the job that continues."""
    fake.answer(squeue=queue_of("7 RUNNING", "8_0 PENDING", "9 COMPLETED"))
    submitted = send(plan, paths, site_of(tmp_path, PROFILE + "max_submitted: 8\n"))
    assert submitted.deferred == 7  # 3 trainings and 8 shards less 4 places
    assert shown(fake) == [
        ("s-prepare", None, "0-0%1"),
        ("s-train", "afterok:101_0", "0-2%2"),
        ("s-evaluate", "afterok:101_0", "0-0%1"),
        ("s-analyse", "afterany:101:102", "0-0%1"),  # while tasks wait, it runs when half have ended
    ]


def test_where_others_fill_the_queue_it_looks_again_later(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    fake.answer(squeue=queue_of("7 RUNNING", "8_0 PENDING"))
    submitted = send(plan, paths, site_of(tmp_path, PROFILE + "max_submitted: 2\n"))
    assert submitted.deferred == 12
    assert shown(fake) == [("s-analyse", None, "0-0%1")]
    assert flags(fake.calls("sbatch")[0])["begin"] == "now+300"


def test_what_is_queued_is_not_submitted_again_but_waited_for(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    site = site_of(tmp_path)
    send(plan, paths, site)
    before = len(fake.calls("sbatch"))
    fake.answer(
        squeue=queue_of(
            "102_0 RUNNING",
            "102_1 PENDING",
            "102_2 FAILED",
            "101_0 COMPLETED",
            "999 RUNNING",
            "107_0 SIGNALING",
        )
    )
    write_json(paths.job(plan.jobs[0].job_id).done, {})
    send(plan, paths, site)
    assert shown(fake, before) == [
        ("s-train", None, "0-0%1"),
        ("s-evaluate", None, "0-1%2"),
        ("s-evaluate", "afterok:102_0", "0-1%2"),
        ("s-evaluate", "afterok:102_1", "0-1%2"),
        ("s-evaluate", "afterok:108_0", "0-1%2"),
        ("s-analyse", "afterany:102:108:109:110:111:112", "0-0%1"),
    ]
    # the analysis in the queue waited for less
    assert [call["arguments"] for call in fake.calls("scancel")] == [["107_0"]]


def test_an_array_whose_launcher_was_killed_is_found_by_its_comment(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    site = site_of(tmp_path)
    send(plan, paths, site)
    lines = paths.ledger.read_text().splitlines()
    paths.ledger.write_text("\n".join(lines[:3]) + "\n")  # killed before it could write the second id
    first, second = ledger.read(paths.ledger)
    assert (first.array, second.array) == ("101", None)
    queue = queue_of("101_0 PENDING", *(f"555_{i} PENDING calsweep:{second.token}" for i in range(3)))
    fake.answer(squeue=queue)
    before = len(fake.calls("sbatch"))
    send(plan, paths, site)
    assert [name for name, *_ in shown(fake, before)] == ["s-evaluate"] * 4 + ["s-analyse"]
    assert [waits for _, waits, _ in shown(fake, before)][1:4] == [f"afterok:555_{i}" for i in range(3)]


def test_a_job_that_never_begins_is_not_submitted_for_ever(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    """A set-up line of the profile may end a task before anything of ours runs in it."""
    site = site_of(tmp_path)
    for _ in range(5):
        assert send(plan, paths, site, automatic=True).jobs[plan.jobs[0].job_id]
    step = next_step(plan, paths, site, ask_queue(), automatic=True)
    assert step.refused[plan.jobs[0].job_id] == "it was submitted 5 times and never began"
    assert not step.arrays  # nor the jobs that need it
    assert send(plan, paths, site).jobs[plan.jobs[0].job_id]  # a user may


def test_an_analysis_that_is_done_is_made_again_behind_new_work(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    (analysis,) = plan.of_kind("analyse")
    write_json(paths.job(analysis.job_id).done, {})
    send(plan, paths, site_of(tmp_path))
    assert not paths.job(analysis.job_id).done.exists()


def test_a_squeue_that_does_not_answer_is_not_an_empty_queue(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    problem = "slurm_load_jobs error: Unable to contact slurm controller"
    fake.answer(squeue={"code": 1, "error": problem})
    with pytest.raises(scheduler.SchedulerBusyError) as caught:
        send(plan, paths, site_of(tmp_path))
    assert str(caught.value) == f"cluster: squeue failed ({problem}); try again when SLURM answers"
    assert len(fake.calls("squeue")) == 4  # it was asked again, with pauses
    fake.answer(squeue={"code": 1, "error": "squeue: error: Invalid user"})
    with pytest.raises(UserError, match="Invalid user"):
        send(plan, paths, site_of(tmp_path))
    assert len(fake.calls("squeue")) == 5  # the answer would be the same


def test_an_sbatch_that_timed_out_may_have_arrived(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path)
    fake.answer(sbatch={"code": 1, "error": "sbatch: error: Socket timed out on send/recv operation"})
    seen: list[scheduler.Queue] = []

    def queue_with_it() -> scheduler.Queue:
        """By now the controller has the job."""
        token = ledger.read(paths.ledger)[-1].token
        fake.answer()
        seen.append(scheduler.Queue({"777_0": scheduler.QueueEntry("PENDING", "None", f"calsweep:{token}")}))
        return seen[-1]

    step = next_step(plan, paths, site, scheduler.Queue())
    monkeypatch.setattr(scheduler, "ask_queue", queue_with_it)
    with ledger.held(paths) as lock:
        submitted = submit_step(step, plan, paths, site, CODE, lock=lock)
    assert submitted.jobs[plan.jobs[0].job_id] == "777_0"
    assert len(seen) == 1
    assert len([name for name, *_ in shown(fake) if name == "s-prepare"]) == 1


def test_a_refusal_keeps_what_was_submitted(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    fake.answer(sbatch={"limit": 102, "refusal": "sbatch: error: invalid partition specified: gpu"})
    with pytest.raises(UserError) as caught:
        send(plan, paths, site_of(tmp_path))
    assert str(caught.value) == (
        "evaluate jobs: sbatch refused (sbatch: error: invalid partition specified: gpu); "
        "correct the cluster profile"
    )
    placed = ledger.task_of(ledger.read(paths.ledger)).values()
    assert set(placed) == {"101_0", "102_0", "102_1", "102_2"}
    assert ledger.read(paths.ledger)[-1].tasks == {}  # the intent of the one that was refused


def test_a_full_queue_is_not_a_refusal(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    """Without max_submitted in the profile, or if another study was faster."""
    fake.answer(sbatch={"limit": 102, "refusal": "sbatch: error: QOSMaxSubmitJobPerUserLimit"})
    submitted = send(plan, paths, site_of(tmp_path))
    assert (submitted.deferred, submitted.continues) == (8, False)
    assert len(submitted.jobs) == 4


def test_without_sbatch(
    tmp_path: Path, plan: Plan, paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path)
    step = next_step(plan, paths, site, scheduler.Queue())
    monkeypatch.setenv("PATH", str(tmp_path))
    with ledger.held(paths) as lock, pytest.raises(UserError) as caught:
        submit_step(step, plan, paths, site, CODE, lock=lock)
    assert str(caught.value) == (
        "cluster: sbatch cannot be run (No such file or directory); "
        "run this on a login node, or use cluster=local"
    )


def test_sbatch_holds_the_studys_lock_until_it_is_through(
    fake: FakeSlurm, tmp_path: Path, plan: Plan, paths: StudyPaths
) -> None:
    """Otherwise the launcher after a killed one could query the queue before the last array is in it."""
    fake.answer(sbatch={"locks": str(paths.lock)})
    step = next_step(plan, paths, site_of(tmp_path), scheduler.Queue())
    with locked(paths.lock) as lock:
        assert lock is not None
        submit_step(step, plan, paths, site_of(tmp_path), CODE, lock=lock)
    assert all(call["locked"] for call in fake.calls("sbatch"))


def test_cancel(fake: FakeSlurm) -> None:
    scheduler.cancel([])
    scheduler.cancel(["8_1", "7", "7"])
    assert [call["arguments"] for call in fake.calls("scancel")] == [["7", "8_1"]]
    fake.answer(scancel={"code": 1, "error": "scancel: error: Invalid job id"})
    with pytest.raises(UserError, match=r"^cluster: scancel failed \(.*Invalid job id\); fix the cause"):
        scheduler.cancel(["7"])


def test_an_enclosing_job_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    sbatch.clean_environment()
    assert [name in os.environ for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_CONF")] == [
        False, False, True,
    ]  # fmt: skip
