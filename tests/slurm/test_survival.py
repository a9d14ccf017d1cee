"""After any accident, the curve and the records of a job are those of an undisturbed one.

Two studies run at once, each job with a node of its own, and nearly each meets an accident of its own. The
truth is the same grids, run on this machine and left alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import ledger
from launcher.cluster.scheduler import ask_queue
from study.jobs.specs import EvalSpec
from study.paths import StudyPaths
from study.records import part_range, read_predictions
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.slurm import drills
from tests.slurm.conftest import SlurmCluster, own_cluster
from tests.slurm.drills import resumed_at, tries
from tests.slurm.test_sweep import wait_for_empty_queue
from tests.sweeping import run, sweep_command
from tests.waiting import HANG_S, eventually
from training.engine.checkpoint import MARKER

pytestmark = pytest.mark.timeout(1200)  # the first test does all the work

NUM_STEPS = 240
ENOUGH_STEPS = 25  # so that a training that started from the beginning would show
NUM_ITEMS = 1000  # four parts: there is a middle
CURVE = ("step", "loss", "grad_norm", "learning_rate")
GRID = """
study: {study}
grid:
  model: [model]
  dataset: [rows.jsonl]
  label_smoothing: [{smoothing}]
train:
  {{num_steps: {steps}, global_batch_size: 8, learning_rate: 1.0e-3, max_length_tokens: 64, template: plain,
    dtype: fp32, seed: 3}}
evaluate:
  include_base: {base}
  benchmarks:
    - {{name: items, path: items, schema: global_mmlu, languages: [{languages}]}}
  dtype: fp32
cluster: site.yaml
resources:
  train: {{nodes: {nodes}, micro_batch_size: 4, zero_stage: 2, checkpoint_every_min: 0.01}}
  evaluate: {{batch_tokens: 1024}}
tracking: {{mode: disabled}}
"""
PROFILE = """
partition: main
warn_before_s: 30
sbatch: {exclusive: true}
env: {GLOO_SOCKET_IFNAME: lo, OMP_NUM_THREADS: "1"}
resources:
  train: {mem_gib: 3, time_min: 15}
  evaluate: {mem_gib: 3, time_min: 15}
  analyse: {mem_gib: 2, time_min: 15}
"""
ONE = {"study": "one", "smoothing": "0.0, 0.1, 0.2", "base": "true", "languages": "en, sw", "nodes": 1}
TWO = {"study": "two", "smoothing": "0.0, 0.1", "base": "false", "languages": "en", "nodes": 2}


@dataclass(frozen=True)
class Drills:
    """disturbed, alone: folders of the two studies by name. struck: accident -> (study, job). calls: how
    SLURM's commands ended for the launcher that met a controller gone.
    """

    disturbed: dict[str, StudyPaths]
    alone: dict[str, StudyPaths]
    struck: dict[str, tuple[str, str]]
    calls: list[str]


@dataclass(frozen=True)
class Accident:
    """What happens to the attempt number `attempt` of a job: training by label smoothing, evaluation of the
    base model by language.
    """

    name: str
    study: str
    cell: str
    happen: Callable[[SlurmCluster, str], None]
    attempt: int = 1


FIRST = (
    Accident("requeued evaluation", "one", "en", drills.requeue),
    Accident("killed evaluation", "one", "sw", partial(drills.kill_rank, 0)),
    Accident("requeue", "one", "0.0", drills.requeue),
    Accident("less time", "one", "0.2", drills.shorten),
    Accident("a rank", "two", "0.1", partial(drills.kill_rank, 1)),
    Accident("node", "two", "0.0", drills.crash_node),
    Accident("preemption", "one", "0.1", drills.preempt),  # last: it takes some seconds
)
SECOND = (
    Accident("time limit", "one", "0.2", drills.time_is_up),
    Accident("the first rank", "two", "0.1", partial(drills.kill_rank, 0), attempt=2),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with own_cluster(NNODES="10") as cluster:
        yield cluster


def write_inputs(folder: Path) -> None:
    model = make_llama()
    model.config.attention_dropout = 0.2  # so that random state matters
    save(model, make_tokenizer(), folder / "model")
    rows = [{"instruction": f"{i} {'?' * (i * 7 % 11)}", "output": f"{i * i}"} for i in range(200)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "items").mkdir()
    for language in ("en", "sw"):
        items = [
            {"sample_id": f"{language}/{i}", "subject": "sums", "question": f"{language} {i} + {i % 7}?",
             "answer": "ABCD"[i % 4], **{f"option_{name}": f"{i + j}" for j, name in enumerate("abcd")}}
            for i in range(NUM_ITEMS)
        ]  # fmt: skip
        (folder / "items" / f"{language}.jsonl").write_text(
            "".join(json.dumps(item) + "\n" for item in items)
        )
    (folder / "site.yaml").write_text(PROFILE)
    for study in (ONE, TWO):
        (folder / f"{study['study']}.yaml").write_text(GRID.format(steps=NUM_STEPS, **study))


@pytest.fixture(scope="module")
def drilled(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Drills:
    """Both studies, all accidents, and the truth."""
    folder = tmp_path_factory.mktemp("survival")
    write_inputs(folder)
    disturbed = {name: StudyPaths(folder / "cluster" / name) for name in ("one", "two")}
    alone = {name: StudyPaths(folder / "alone" / name) for name in ("one", "two")}
    outputs = [folder / "cluster", folder / "alone"]
    for output in outputs:
        output.mkdir()
    try:
        calls = submit_without_a_controller(cluster, folder, outputs[0])
        done = run(sweep_command(outputs[0], grid=folder / "one.yaml"), cwd=folder)
        assert done.returncode == 0, done.stderr
        struck = strike(cluster, disturbed, FIRST)
        cluster.testbed("restart-ctld")  # while jobs run, wait to be requeued, and are lost
        with ThreadPoolExecutor(2) as meanwhile:
            left_alone = [meanwhile.submit(run_alone, folder, outputs[1], name) for name in alone]
            struck |= strike(cluster, disturbed, SECOND)
            for each in left_alone:
                each.result()
        wait_for_empty_queue(cluster)
    finally:
        drills.mend(cluster)
    return Drills(disturbed, alone, struck, calls)


def run_alone(folder: Path, outputs: Path, name: str) -> None:
    local = ("cluster=local", "evaluate.languages_per_task=2")
    done = run(sweep_command(outputs, *local, grid=folder / f"{name}.yaml"), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def submit_without_a_controller(cluster: SlurmCluster, folder: Path, outputs: Path) -> list[str]:
    """Submit the study of two ranks; slurmctld ends before the first sbatch arrives, and comes back later."""
    programs, log = folder / "bin", folder / "calls"
    programs.mkdir()
    own = shutil.which("sbatch")
    pid = (cluster.root / "run" / "slurmctld.pid").read_text().strip()
    stop = f"kill {pid}; while [ -d /proc/{pid} ]; do sleep 0.05; done"
    (programs / "sbatch").write_text(
        f'#!/bin/sh\nif mkdir {folder}/first 2>/dev/null; then {stop}; fi\n{own} "$@"\ncode=$?\n'
        f"echo $code >> {log}\nexit $code\n"
    )
    (programs / "sbatch").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    command = sweep_command(outputs, grid=folder / "two.yaml")
    launcher = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    eventually(log.is_file, "sbatch has met no controller")
    cluster.testbed("restart-ctld")
    output, _ = launcher.communicate(timeout=HANG_S)
    assert launcher.returncode == 0, output
    return log.read_text().split()


def strike(
    cluster: SlurmCluster, studies: dict[str, StudyPaths], accidents: Sequence[Accident]
) -> dict[str, tuple[str, str]]:
    """Make each accident happen as soon as there is work to lose; returns the job that it happened to."""
    struck: dict[str, tuple[str, str]] = {}

    def strike_some() -> bool:
        for accident in accidents:
            paths = studies[accident.study]
            job_id = job_of(paths, accident.cell)
            begun = tries(paths, job_id)
            if accident.name in struck or len(begun) != accident.attempt:
                continue
            if begun[-1].ended is None and is_in_the_middle(paths, job_id):
                accident.happen(cluster, begun[-1].task)
                struck[accident.name] = (accident.study, job_id)
        return len(struck) == len(accidents)

    names = [accident.name for accident in accidents]
    eventually(strike_some, f"all of {names} happen", limit_s=300, every_s=0.05)
    return struck


def job_of(paths: StudyPaths, cell: str) -> str:
    """The training with a label smoothing, or the evaluation of the base model in a language."""
    (found,) = (
        job.job_id
        for job in drills.planned(paths)
        if (job.kind == "train" and str(drills.hyper_of(job).label_smoothing) == cell)
        or (isinstance(job.spec, EvalSpec) and not job.needs and job.spec.language == cell)
    )
    return found


def is_in_the_middle(paths: StudyPaths, job_id: str) -> bool:
    """Whether the running attempt has saved something, but not everything."""
    folder = paths.job(job_id)
    if folder.done.exists():
        return False
    parts = [part_range(part)[1] for part in folder.predictions.glob("part-*.parquet")]
    whole = folder.checkpoints.glob(f"step-*/{MARKER}")
    steps = [int(marker.parent.name.removeprefix("step-")) for marker in whole]
    before = tries(paths, job_id)[-1].progress
    return max(parts, default=0) > before or max(steps, default=0) > before + ENOUGH_STEPS


def curve(paths: StudyPaths, job_id: str) -> list[tuple[str, ...]]:
    """The training curve, digit by digit: parsed as text, since two texts may be one float."""
    lines = paths.job(job_id).metrics.read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
    return [tuple(row[name] for name in CURVE) for row in rows]


def jobs(paths: StudyPaths, kind: str) -> list[str]:
    return [job.job_id for job in drills.planned(paths, kind)]


def outcomes(drilled: Drills, accident: str) -> list[tuple[str | None, str | None]]:
    """How the attempts of the job that it happened to ended, and why; all in the same place in the queue."""
    study, job_id = drilled.struck[accident]
    found = tries(drilled.disturbed[study], job_id)
    assert [entry.name for entry in found] == [f"{found[0].task}.{count}" for count in range(len(found))]
    return [(entry.outcome, entry.cause) for entry in found]


def test_each_accident_happened_and_was_survived(drilled: Drills) -> None:
    done = ("done", None)
    assert outcomes(drilled, "requeue") == [("terminated", None), done]
    assert outcomes(drilled, "preemption") == [("stopped", None), done]
    assert outcomes(drilled, "node") == [(None, None), done], "it could not say a word"
    assert outcomes(drilled, "the first rank") == [("failed", "killed"), ("failed", "killed"), done]
    assert outcomes(drilled, "requeued evaluation") == [("terminated", None), done]
    assert outcomes(drilled, "killed evaluation") == [("failed", "killed"), done]
    assert outcomes(drilled, "time limit") == [("stopped", None), done]


def test_trainings_went_on_from_their_checkpoints(drilled: Drills) -> None:
    for study, job_id in drilled.struck.values():
        paths = drilled.disturbed[study]
        if job_id in jobs(paths, "train"):
            steps = resumed_at(paths, job_id)
            assert len(steps) == len(tries(paths, job_id)) - 1, (job_id, steps)
            assert all(ENOUGH_STEPS <= step < NUM_STEPS for step in steps)
            assert steps == sorted(steps)


@pytest.mark.parametrize("study", ["one", "two"])
def test_curves_are_those_of_trainings_left_alone(drilled: Drills, study: str) -> None:
    trainings = jobs(drilled.alone[study], "train")
    assert trainings == jobs(drilled.disturbed[study], "train")
    for job_id in trainings:
        want = curve(drilled.alone[study], job_id)
        assert [row[0] for row in want] == ["1", *(str(step) for step in range(10, NUM_STEPS + 1, 10))]
        assert curve(drilled.disturbed[study], job_id) == want
        weights = [paths[study].job(job_id).model / "model.safetensors"
                   for paths in (drilled.alone, drilled.disturbed)]  # fmt: skip
        assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("study", ["one", "two"])
def test_records_are_neither_lost_nor_doubled(drilled: Drills, study: str) -> None:
    evaluations = jobs(drilled.alone[study], "evaluate")
    assert len(evaluations) == {"one": 8, "two": 2}[study]
    for job_id in evaluations:
        mine, want = (read_predictions(paths[study].job(job_id).predictions)[0]
                      for paths in (drilled.disturbed, drilled.alone))  # fmt: skip
        assert len(set(want["example_id"].to_pylist())) == NUM_ITEMS == want.num_rows
        assert mine.equals(want)  # the ids, and the scores bit for bit


def test_nothing_was_submitted_twice(drilled: Drills) -> None:
    comments = {entry.comment for entry in ask_queue().entries.values()}
    for paths in drilled.disturbed.values():
        planned = drills.planned(paths)
        assert drills.times_submitted(paths) == {job.job_id: 1 for job in planned}
        assert all(paths.job(job.job_id).done.is_file() for job in planned)
        # in SLURM's accounting too
        entries = ledger.read(paths.ledger)
        assert {f"calsweep:{entry.token}" for entry in entries} <= comments
    assert len(comments - {"(null)"}) == sum(
        len(ledger.read(paths.ledger)) for paths in drilled.disturbed.values()
    )


def test_the_launcher_rode_out_the_restart(drilled: Drills) -> None:
    num_arrays = len(ledger.read(drilled.disturbed["two"].ledger))
    assert [code != "0" for code in drilled.calls] == [True, *[False] * num_arrays]
