"""Complete shards on a tiny model: records, resume, refusal, and what is sent to W&B."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import shard
from evaluation.items.load import load_items
from study import records, stopping
from study.errors import JobError, RecordError, Stopped
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.specs import Benchmark, EvalSpec, Source
from study.paths import JobPaths
from tests.evaluation.shards import DISABLED, NUM_ITEMS, PART_SIZE, digests, make_job, run
from tests.wandb_reader import read_finished_run, run_files


@pytest.mark.parametrize("protocol", ["letter", "option_text"])
def test_a_shard_is_scored_whole_and_marked_last(
    protocol: str, benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    job, folder = make_job(benchmark, protocol=protocol), JobPaths(tmp_path)
    seen: list[tuple[int, int, bool]] = []
    run(job, folder, model_folder, on_progress=lambda _, n, of: seen.append((n, of, folder.done.exists())))
    assert seen == [(0, 11, False), (4, 11, False), (8, 11, False), (11, 11, False)]

    table, info = records.read_predictions(folder.predictions)
    assert info.model == f"org/tiny@{'b' * 16}"
    assert (info.job_id, info.language, info.protocol) == (job.job_id, "sw", protocol)
    items = load_items(benchmark, "sw")
    assert table["example_id"].to_pylist() == [item.example_id for item in items]
    assert table["label"].to_pylist() == [item.label for item in items]
    rows = table.to_pylist()
    assert {len(row["scores"]) for row in rows} == {4}
    assert all(score < 0 and math.isfinite(score) for row in rows for score in row["scores"])
    if protocol == "letter":
        masses = [np.exp(row["scores"]).sum() for row in rows]
        assert table["option_mass"].to_pylist() == pytest.approx(masses, rel=1e-5)
        assert table["option_num_tokens"].null_count == NUM_ITEMS
    else:
        # bytes, with the space before the option
        lengths = [[len(f" {option}") for option in item.options] for item in items]
        assert table["option_num_tokens"].to_pylist() == lengths
        assert table["option_mass"].null_count == NUM_ITEMS

    done = json.loads(folder.done.read_text())
    assert (done["job_id"], done["num_items"], done["num_skipped"]) == (job.job_id, NUM_ITEMS, 0)
    assert done["parts"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in records.parts(folder.predictions)
    }
    progress = json.loads(folder.progress.read_text())
    assert progress.pop("items_per_s") > 0
    assert progress == {"done": 11, "total": 11, "unit": "items"}


@pytest.mark.parametrize("protocol", ["letter", "option_text"])
def test_a_killed_shard_goes_on_and_ends_with_identical_records(
    protocol: str, benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    job = make_job(benchmark, protocol=protocol)
    whole, killed = JobPaths(tmp_path / "whole"), JobPaths(tmp_path / "killed")
    run(job, whole, model_folder)

    def die_after_the_first_part(_: Job, done: int, total: int) -> None:
        if done == PART_SIZE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, killed, model_folder, on_progress=die_after_the_first_part)
    assert not killed.done.exists()
    (first,) = records.parts(killed.predictions)
    untouched = first.stat().st_mtime_ns
    run(job, killed, model_folder)
    assert first.stat().st_mtime_ns == untouched
    assert digests(killed) == digests(whole)
    assert killed.done.read_bytes() == whole.done.read_bytes()


@pytest.fixture
def listening() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    stopping.listen()
    yield
    stopping.listen()  # forget what came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("listening")
def test_a_shard_that_is_told_to_stop_keeps_its_parts_and_goes_on(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    whole, stopped = JobPaths(tmp_path / "whole"), JobPaths(tmp_path / "stopped")
    job = make_job(benchmark)
    run(job, whole, model_folder)

    def tell_in_the_second_part(_: Job, done: int, total: int) -> None:
        if done == 2 * PART_SIZE:
            os.kill(os.getpid(), signal.SIGUSR2)

    with pytest.raises(Stopped, match="stopped at item 8 of 11 of"):
        run(job, stopped, model_folder, on_progress=tell_in_the_second_part)
    assert not stopped.done.exists()
    assert len(records.parts(stopped.predictions)) == 2
    assert json.loads(stopped.progress.read_text())["done"] == 8
    with pytest.raises(Stopped):  # requested before it began
        run(job, stopped, model_folder)
    assert len(records.parts(stopped.predictions)) == 2
    stopping.listen()
    run(job, stopped, model_folder)
    assert digests(stopped) == digests(whole)
    assert stopped.done.read_bytes() == whole.done.read_bytes()


@pytest.mark.usefixtures("listening")
def test_a_pack_stops_between_languages_and_finishes_the_one_that_has_all_its_parts(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    jobs = [(make_job(benchmark, code), JobPaths(tmp_path / code)) for code in ("xx", "sw", "en")]
    options: dict[str, Any] = {
        "model_path": str(model_folder), "revision": None, "items": tmp_path / "items", "batch_tokens": 500
    }  # fmt: skip

    def tell_at_the_last_item(job: Job, done: int, total: int) -> None:
        if done == total:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped at language 2 of 3"):
        shard.evaluate(jobs, tracking=DISABLED, on_progress=tell_at_the_last_item, **options)
    assert jobs[1][1].done.exists()
    assert not jobs[2][1].root.exists()
    stopping.listen()
    failures = shard.evaluate(jobs, tracking=DISABLED, on_progress=tell_at_the_last_item, **options)
    assert [job for job, _ in failures] == [
        jobs[0][0]
    ]  # requested at the end of the last one: nothing is left to stop
    assert jobs[2][1].done.exists()


def test_a_lost_last_part_is_scored_again(benchmark: Benchmark, model_folder: Path, tmp_path: Path) -> None:
    job, folder = make_job(benchmark), JobPaths(tmp_path)
    run(job, folder, model_folder)
    before = digests(folder)
    records.parts(folder.predictions)[-1].unlink()
    folder.done.unlink()
    run(job, folder, model_folder)
    assert digests(folder) == before


def test_parts_without_a_marker_are_checked_and_marked(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    job, folder = make_job(benchmark), JobPaths(tmp_path)
    run(job, folder, model_folder)
    marker = folder.done.read_bytes()
    folder.done.unlink()
    run(job, folder, model_folder)
    assert folder.done.read_bytes() == marker


def test_foreign_parts_are_refused(benchmark: Benchmark, model_folder: Path, tmp_path: Path) -> None:
    swahili, english = JobPaths(tmp_path / "sw"), JobPaths(tmp_path / "en")
    run(make_job(benchmark, "sw"), swahili, model_folder)
    english.predictions.mkdir(parents=True)
    part = records.parts(swahili.predictions)[0]
    (english.predictions / part.name).write_bytes(part.read_bytes())
    with pytest.raises(RecordError, match="belongs to"):
        run(make_job(benchmark, "en"), english, model_folder)
    assert not english.done.exists()


def test_one_bad_language_does_not_keep_the_others_from_being_scored(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    codes = ("xx", "sw")  # there is no xx
    jobs = [(make_job(benchmark, code), JobPaths(tmp_path / code)) for code in codes]
    options: dict[str, Any] = {"model_path": str(model_folder), "revision": None, "batch_tokens": 500}
    failures = shard.evaluate(jobs, items=tmp_path / "items", tracking=DISABLED, **options)
    assert [
        (job.spec.language, type(error)) for job, error in failures if isinstance(job.spec, EvalSpec)
    ] == [("xx", JobError)]
    assert not jobs[0][1].done.exists()
    assert jobs[1][1].done.exists()


def test_a_moved_model_goes_on_with_its_parts(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    """The name is outside identity: the parts of before are the same job's."""
    job, folder = make_job(benchmark), JobPaths(tmp_path)
    run(job, folder, model_folder)
    folder.done.unlink()
    records.parts(folder.predictions)[-1].unlink()
    run(replace(job, cell={**job.cell, "model": "elsewhere/tiny"}), folder, model_folder)
    assert folder.done.exists()
    assert records.read_predictions(folder.predictions)[0].num_rows == 11


def test_a_shard_whose_records_are_not_its_items_is_never_done(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = shard.predict

    def doubling(*args: Any) -> tuple[list[records.Prediction], int]:
        predicted, num_cut = predict(*args)
        first, *_, last = predicted
        return [*predicted[:-1], first if last.example_id == "s/10" else last], num_cut

    monkeypatch.setattr(shard, "predict", doubling)
    folder = JobPaths(tmp_path)
    with pytest.raises(RecordError, match=r"1 missing \(s/10\), 1 doubled \(s/8\)"):
        run(make_job(benchmark), folder, model_folder)
    assert not folder.done.exists()


def test_done_jobs_are_skipped_and_the_model_is_loaded_once(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load_models = shard.load_models

    def counting(*args: Any) -> Any:
        loads.append(args)
        return load_models(*args)

    monkeypatch.setattr(shard, "load_models", counting)
    jobs = [(make_job(benchmark, code), JobPaths(tmp_path / code)) for code in ("sw", "en")]
    options: dict[str, Any] = {"model_path": str(model_folder), "revision": None, "batch_tokens": 500}
    for _ in range(2):
        shard.evaluate(jobs, items=tmp_path / "items", tracking=DISABLED, **options)
    assert loads == [(str(model_folder), None, "fp32")]
    assert all(folder.done.exists() for _, folder in jobs)


def test_jobs_of_two_models_are_a_mistake_of_the_caller(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    one = make_job(benchmark)
    assert isinstance(one.spec, EvalSpec)
    other = replace(one, spec=replace(one.spec, model=Source("job", "c" * 16, "c" * 16)))
    jobs = [(one, JobPaths(tmp_path / "one")), (other, JobPaths(tmp_path / "other"))]
    with pytest.raises(AssertionError):
        shard.evaluate(
            jobs,
            model_path=str(model_folder),
            revision=None,
            items=tmp_path,
            batch_tokens=9,
            tracking=DISABLED,
        )


def test_an_offline_run_has_config_scalars_and_files(
    benchmark: Benchmark, model_folder: Path, tmp_path: Path
) -> None:
    job, folder = make_job(benchmark), JobPaths(tmp_path / "job")
    folder.root.mkdir()
    tracking = TrackingConfig(mode="offline", project="tests")

    def die_after_the_first_part(_: Job, done: int, total: int) -> None:
        if done == PART_SIZE:
            raise JobError("killed")

    with pytest.raises(JobError):
        run(job, folder, model_folder, tracking=tracking, on_progress=die_after_the_first_part)
    time.sleep(1.1)  # the folder of an offline run is named by the second
    run(job, folder, model_folder, tracking=tracking)

    killed, whole = (read_finished_run(path) for path in run_files(folder.root))
    assert (killed.exit_code, whole.exit_code) == (1, 0)
    assert killed.run_id == whole.run_id == job.job_id
    assert whole.group.endswith("(bbbbbbbb)")
    assert whole.job_type == "evaluate"
    assert whole.name == job.name
    assert set(whole.tags) == {"evaluate", "mine", "sw", "letter"}
    assert whole.config["spec"]["language"] == "sw"
    assert whole.config["cell"] == {"model": "org/tiny", "learning_rate": 1e-5}
    assert [row["num_items"] for row in killed.history + whole.history] == [4, 8, 11]

    # the parts of both attempts go with the run that is synced last
    assert {Path(name).name for name in whole.files if name.endswith(".parquet")} == {
        path.name for path in records.parts(folder.predictions)
    }
    table, _ = records.read_predictions(folder.predictions)
    scores = np.array(table["scores"].to_pylist())
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    last = whole.history[-1]
    assert last["accuracy"] == pytest.approx(np.mean(scores.argmax(axis=1) == table["label"].to_numpy()))
    assert last["confidence_raw"] == pytest.approx(np.exp(scores.max(axis=1)).mean())
    assert last["confidence_renormalised"] == pytest.approx(shares.max(axis=1).mean())
    assert last["items_per_s"] > 0
