"""`pull` with the real SDK: from a loopback server and from offline run folders, bit by bit or not at all."""

from __future__ import annotations

import contextlib
import shutil
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import study.tracking.runs
from analysis.exchange.pull import Outcome, print_outcome, pull
from analysis.exchange.wandb_runs import PATIENCE
from analysis.reading.loading import load_study
from study import records
from study.errors import Stopped, UserError
from study.files import locked, read_json, write_json
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.plan import Plan, read_plan, write_plan
from study.jobs.specs import Benchmark, EvalSpec, Hyperparameters, Source, TrainSpec
from study.paths import JobPaths, StudyPaths
from study.tracking.runs import track
from tests.waiting import HANG_S
from tests.wandb_protocol import ENTITY
from tests.wandb_reader import read_finished_run, run_files
from tests.wandb_server import API_KEY, WandbServer, forget_wandb, serving

PLACE = f"{ENTITY}/tests"
# the smallest normal and subnormal float32, one below 1, -0.0, and a third, which no decimal of 7 digits is
SCORES = [-1.1754943508222875e-38, -1.401298464324817e-45, -0.99999994, -0.0, -1 / 3]
QUIET = Console(file=StringIO())


def evaluation(language: str, smoothing: float | None = None) -> Job:
    name = "a" * 16 if smoothing is None else f"{smoothing:.16f}".replace(".", "")[:16]
    source = Source("job", name, name) if smoothing is not None else Source("hub", "org/base", "b" * 16)
    spec = EvalSpec(source, Benchmark("cldr", Source("embedded", "cldr", "c" * 16), "global_mmlu"), language)
    cell = {"model": "org/base"} | ({} if smoothing is None else {"label_smoothing": smoothing, "seed": 1})
    return Job("evaluate", spec, (name,) if smoothing is not None else (), cell)


TRAIN = Job(
    "train",
    TrainSpec(
        Source("hub", "org/base", "b" * 16),
        Source("hub", "data", "d" * 16),
        Hyperparameters(learning_rate=1.0, logit_softcap=30.0, exclude_sources=("a",)),
    ),
    (),
    {"model": "org/base", "label_smoothing": 0.0},
)
JOBS = [evaluation("sw", 0.1), evaluation("en"), evaluation("en", 0.0)]


def info(job: Job) -> records.ShardInfo:
    assert isinstance(job.spec, EvalSpec)
    return records.ShardInfo(job.job_id, "m@b", "cldr", job.spec.language, "test", "letter")


def rows(number: int) -> list[records.Prediction]:
    scores = SCORES[number:] + SCORES[:number]
    return [
        records.Prediction(f"q{number}-{row}", "s", row, scores, 0.5 + row / 3, None, 0, 9)
        for row in range(2)
    ]


def attempt(
    job: Job, folder: JobPaths, mode: str = "offline", *, parts: range = range(3), stop: bool = False
) -> None:
    """An evaluation as `evaluation.shard` runs it: its parts are saved as they are written."""
    config = TrackingConfig(mode=mode, project="tests", entity=ENTITY)
    with contextlib.suppress(Stopped), track(config, job, folder) as run:
        for number in parts:
            path = folder.predictions / records.part_name(2 * number, 2 * number + 2)
            if not path.exists():
                records.write_part(folder.predictions, 2 * number, rows(number), info(job))
            run.save(path, folder.root)
            run.log({"num_items": 2 * number + 2})
        if stop:
            raise Stopped("text to")
        run.summarise({"num_items": 2 * len(parts), "num_skipped": 1})
    if mode == "offline":
        read_finished_run(run_files(folder.root)[-1])
    if not stop:
        write_json(folder.done, {"job_id": job.job_id})


@pytest.fixture(autouse=True)
def _no_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(study.tracking.runs, "_given_up", [])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with serving() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        yield running


def made(root: Path, mode: str, jobs: list[Job] = JOBS) -> StudyPaths:
    paths = StudyPaths(root)
    for job in jobs:
        attempt(job, paths.job(job.job_id), mode)
    return paths


def assert_same(made: StudyPaths, pulled: StudyPaths, jobs: list[Job] = JOBS) -> None:
    for job in jobs:
        here, there = pulled.job(job.job_id), made.job(job.job_id)
        names = sorted(path.name for path in there.predictions.iterdir())
        assert sorted(path.name for path in here.predictions.iterdir()) == names
        for name in names:
            assert (here.predictions / name).read_bytes() == (there.predictions / name).read_bytes()
        assert read_json(here.spec) == job.to_dict()
        done = read_json(here.done)
        assert (done["num_items"], done["num_skipped"], sorted(done["parts"])) == (6, 1, names)


def test_a_project_becomes_a_study_that_is_read_as_the_one_that_ran(
    server: WandbServer, tmp_path: Path
) -> None:
    there, here = made(tmp_path / "there", "online"), StudyPaths(tmp_path / "here")
    with track(TrackingConfig("online", "tests", ENTITY), TRAIN, there.job(TRAIN.job_id)) as run:
        run.log({"loss": 1.0})
    outcome = pull(PLACE, here.root, QUIET)
    assert sorted(outcome.pulled) == sorted(job.job_id for job in JOBS)
    assert not outcome.problems | outcome.unreadable
    assert_same(there, here)
    # the bits, by hand: what was written is what W&B's copy says
    table, _ = records.read_predictions(here.job(JOBS[0].job_id).predictions)
    assert struct.pack("<5f", *table["scores"][0].as_py()) == struct.pack("<5f", *SCORES)
    plan = read_plan(here)
    assert plan.jobs == (TRAIN, JOBS[1], JOBS[2], JOBS[0])  # the base model first, then by smoothing
    # in the grid's order, and 0.0 is not 0
    assert repr(plan.jobs[2].cell) == "{'model': 'org/base', 'label_smoothing': 0.0, 'seed': 1}"
    study = load_study(here.root)
    assert not study.missing
    assert [shard.job_id for shard in study.shards] == [job.job_id for job in plan.of_kind("evaluate")]

    asked, stamp = len(server.requests), here.plan.stat().st_mtime_ns
    again = pull(PLACE, here.root, QUIET)
    assert sorted(again.before) == sorted(outcome.pulled)
    assert not again.pulled
    assert here.plan.stat().st_mtime_ns == stamp
    assert not [text for text in server.requests[asked:] if "runfile" in text], "parts were pulled again"


def test_records_made_here_are_compared_and_a_difference_is_named_and_refused(
    server: WandbServer, tmp_path: Path
) -> None:
    paths = made(tmp_path / "s", "online", JOBS[:2])
    write_plan(Plan("s", None, tuple(JOBS[:2])), "study: s\n", paths)
    assert pull(PLACE, paths.root, QUIET).agree == [job.job_id for job in JOBS[:2]]
    changed = rows(2)
    changed[1] = replace(changed[1], scores=[*changed[1].scores[:2], -0.33333337, *changed[1].scores[3:]])
    folder = paths.job(JOBS[0].job_id)
    path = records.write_part(folder.predictions, 4, changed, info(JOBS[0]))
    before = path.read_bytes()
    outcome = pull(PLACE, paths.root, QUIET)
    assert outcome.agree == [JOBS[1].job_id]
    assert outcome.exit_code == 1
    text = outcome.problems[JOBS[0].job_id]
    assert "example 'q2-1', scores: [" in text
    assert "-0.3333333730697632" in text  # the next float32 after that of -1/3
    assert path.read_bytes() == before
    printed = StringIO()
    print_outcome(outcome, Console(file=printed, width=200))
    assert printed.getvalue().splitlines()[-1] == (
        "pulled 0 evaluations; 1 are here already, the same; 1 refused"
    )


def test_a_swept_folder_keeps_its_plan_and_gets_what_it_lacks(server: WandbServer, tmp_path: Path) -> None:
    there, here = made(tmp_path / "there", "online"), StudyPaths(tmp_path / "here")
    write_plan(Plan("s", "ours", tuple(JOBS[:2])), "study: s\n", here)
    before = here.plan.read_bytes()
    # what an attempt left here, unfinished: its parts stay, the others come
    records.write_part(here.job(JOBS[0].job_id).predictions, 0, rows(0), info(JOBS[0]))
    with locked(here.job(JOBS[1].job_id).lock):
        outcome = pull(PLACE, here.root, QUIET)
    assert (outcome.pulled, outcome.waiting) == ([JOBS[0].job_id], [JOBS[1].job_id])
    assert outcome.not_theirs == [JOBS[2].job_id]
    assert pull(PLACE, here.root, QUIET).pulled == [JOBS[1].job_id]
    assert here.plan.read_bytes() == before
    assert_same(there, here, JOBS[:2])


def test_offline_folders_of_another_machine(tmp_path: Path) -> None:
    """Copied without the study around them, and of a job that was requeued."""
    there = StudyPaths(tmp_path / "there")
    attempt(JOBS[0], there.job(JOBS[0].job_id), parts=range(1), stop=True)
    attempt(JOBS[2], there.job(JOBS[2].job_id), parts=range(1), stop=True)
    attempt(JOBS[1], there.job(JOBS[1].job_id))
    attempt(JOBS[0], there.job(JOBS[0].job_id))
    for number, folder in enumerate(sorted(there.root.glob("jobs/*/wandb"))):
        # as cp -RL and rsync -L do: links become files
        shutil.copytree(folder, tmp_path / "copied" / str(number) / "wandb", symlinks=False)
    here = StudyPaths(tmp_path / "here")
    outcome = pull(str(tmp_path / "copied"), here.root, QUIET)
    assert sorted(outcome.pulled) == sorted(job.job_id for job in JOBS[:2])
    assert outcome.waiting == [JOBS[2].job_id]
    assert_same(there, here, JOBS[:2])
    study = load_study(here.root)
    assert [shard.job_id for shard in study.missing] == [JOBS[2].job_id], "missing is marked, never zero"

    # a part that was lost on the way is named; what was pulled before stays
    other = StudyPaths(tmp_path / "other")
    (gone,) = (tmp_path / "copied").rglob(f"*{JOBS[1].job_id}/files/predictions/part-000002-000004.parquet")
    gone.unlink()
    outcome = pull(str(tmp_path / "copied"), other.root, QUIET)
    assert outcome.pulled == [JOBS[0].job_id]
    assert "part-000002-000004.parquet" in outcome.problems[JOBS[1].job_id]
    assert not other.job(JOBS[1].job_id).done.exists()


def test_two_evaluations_that_tables_could_not_tell_apart_are_left_out(tmp_path: Path) -> None:
    """A project keeps its runs when a benchmark moves on to another revision."""
    spec = JOBS[1].spec
    assert isinstance(spec, EvalSpec)
    moved = replace(spec, benchmark=replace(spec.benchmark, source=Source("embedded", "cldr", "e" * 16)))
    both = [JOBS[1], Job("evaluate", moved, (), JOBS[1].cell)]
    there, here = made(tmp_path / "there", "offline", [JOBS[0], *both]), StudyPaths(tmp_path / "here")
    outcome = pull(str(there.root), here.root, QUIET)
    assert (outcome.pulled, outcome.exit_code) == ([JOBS[0].job_id], 1)
    assert outcome.problems.keys() == {job.job_id for job in both}
    assert all("was evaluated in two ways" in problem for problem in outcome.problems.values())
    assert [shard.job_id for shard in load_study(here.root).shards] == [JOBS[0].job_id]
    with pytest.raises(UserError, match="was evaluated in two ways"):
        pull(str(made(tmp_path / "just", "offline", both).root), tmp_path / "other", QUIET)


def test_what_was_pulled_and_then_changed_is_refused(tmp_path: Path) -> None:
    there, here = made(tmp_path / "there", "offline", JOBS[:1]), StudyPaths(tmp_path / "here")
    pull(str(there.root), here.root, QUIET)
    path = here.job(JOBS[0].job_id).predictions / records.part_name(2, 4)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    text = pull(str(there.root), here.root, QUIET).problems[JOBS[0].job_id]
    assert text.startswith(f"{path}: was changed since it was pulled")


def test_a_run_that_lacks_records_or_holds_anothers_is_refused(server: WandbServer, tmp_path: Path) -> None:
    made(tmp_path / "there", "online")
    short, foreign, torn = (server.run(job.job_id) for job in JOBS)
    del short.files["predictions/part-000004-000006.parquet"]
    foreign.files = dict(torn.files)
    torn.files = {name: content[:-9] for name, content in torn.files.items()}
    here = StudyPaths(tmp_path / "here")
    outcome = pull(PLACE, here.root, QUIET)
    assert not outcome.pulled
    text = [outcome.problems[job.job_id] for job in JOBS]
    assert "4 of 6 records are in W&B" in text[0]
    assert f"its records belong to {JOBS[2].job_id}" in text[1]
    assert "not readable as Parquet" in text[2]
    assert not list(here.root.glob("jobs/*/DONE"))
    assert len(load_study(here.root).missing) == 3


def test_a_pull_that_is_cut_off_goes_on(server: WandbServer, tmp_path: Path) -> None:
    there, here = made(tmp_path / "there", "online"), StudyPaths(tmp_path / "here")
    last = server.runs[-1].name
    server.broken = lambda text: text.startswith("GET") and last in text and "part-000002" in text
    with pytest.raises(UserError, match="the W&B server cannot be used"):
        pull(PLACE, here.root, QUIET)
    assert len(list(here.root.glob("jobs/*/DONE"))) == 2
    server.broken, server.delay_s = None, 0.3
    outcome = pull(PLACE, here.root, QUIET)
    assert (outcome.pulled, len(outcome.before)) == ([last], 2)
    assert_same(there, here)


def test_a_server_that_never_answers_is_not_waited_for(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "there", "online", JOBS[:1])
    monkeypatch.setitem(PATIENCE, "WANDB_X_FILE_TRANSFER_TIMEOUT_SECONDS", "1")
    monkeypatch.setitem(PATIENCE, "WANDB_X_FILE_TRANSFER_RETRY_MAX", "1")
    over, waited_for = threading.Event(), []

    def hang(text: str) -> None:
        if text.startswith("GET") and not over.wait(HANG_S):
            waited_for.append(text)

    server.on_request = hang
    try:
        with pytest.raises(UserError, match="the W&B server cannot be used"):
            pull(PLACE, tmp_path / "here", QUIET)
    finally:
        over.set()
    assert not waited_for
    assert not list(tmp_path.glob("here/jobs/*/DONE"))


@pytest.mark.parametrize("trouble", ["down", "refuse"])
def test_a_server_that_cannot_be_used_is_one_sentence(
    trouble: str, server: WandbServer, tmp_path: Path
) -> None:
    if trouble == "down":
        server.down()
    else:
        server.refuse = True
    with pytest.raises(UserError) as text:
        pull(PLACE, tmp_path / "here", QUIET)
    assert "\n" not in str(text.value)
    assert not (tmp_path / "here").exists()


def test_mistakes(server: WandbServer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    made(tmp_path / "there", "online", JOBS[:1])
    for source, what in (
        (str(tmp_path / "empty"), "holds no runs of W&B"),
        ("project", "neither a folder nor a project"),
        (f"{ENTITY}/absent", "there is no such project"),
    ):
        with pytest.raises(UserError, match=what):
            pull(source, tmp_path / "here", QUIET)
    # a run whose spec is not that of its id
    run = server.runs[0]
    run.raw_config["spec"]["value"]["language"] = "de"
    with pytest.raises(UserError, match=r"1 runs, none of them an evaluation.*its spec is"):
        pull(PLACE, tmp_path / "here", QUIET)
    assert not (tmp_path / "here").exists()


def test_the_outcome_counts() -> None:
    assert Outcome().exit_code == 0
    assert Outcome(waiting=["a"], unreadable={"b": "c"}).exit_code == 0
