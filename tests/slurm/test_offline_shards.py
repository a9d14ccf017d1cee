"""71 languages at once, each a task with a W&B run and no network; then all runs are uploaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from launcher.job import attempts
from study.benchmarks.definition import definition_of
from study.jobs.job import Job
from study.jobs.specs import EvalSpec
from study.languages import LANGUAGES, Language
from study.paths import JobPaths, StudyPaths
from study.records import read_predictions
from study.tracking.runs import end_service
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.launcher.sync_runs import logged_in
from tests.slurm.conftest import own_cluster
from tests.slurm.cut_off import CutOff, cut_off
from tests.slurm.drills import planned
from tests.slurm.test_sweep import wait_for_empty_queue
from tests.sweeping import run, sweep_command
from tests.waiting import HANG_S
from tests.wandb_protocol import ENTITY, StoredRun
from tests.wandb_reader import read_run, run_files
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.timeout(1200)  # the first test does all the work

NUM_SHARDS = 71
NUM_ITEMS = 3
NUM_ITEMS_OF_ENGLISH = 260  # two parts, two rows
TASK_GIB = 0.12  # what a fork does not share, its W&B service and SLURM's processes around it
CLUSTER = {"ACCT": "none", "CPUS": "36", "MEM": "80000"}  # two nodes, with room for all at once
GRID = """
study: shards
grid: {model: [model]}
evaluate:
  dtype: fp32
  languages_per_task: 1
  benchmarks:
    - {name: global, path: global, schema: global_mmlu}
    - {name: prox, path: prox, schema: mmlu_prox}
cluster: site.yaml
tracking: {mode: offline, project: tests}
"""


LEAVE = """
import socket, urllib.request
for leave in (
    lambda: socket.create_connection(("192.0.2.1", 443), 1),  # an unused address
    lambda: urllib.request.urlopen("https://example.org"),
):
    try:
        leave()
    except OSError:
        continue
    raise SystemExit("there is a network")
"""


@dataclass(frozen=True)
class Swept:
    """at_once: how many tasks there is memory for. tried: what tried to leave, as proxy and kernel counted;
    tried_by_us: the same after two attempts of ours. kernel_counts: whether it does here. syncs: what the
    two said.
    """

    paths: StudyPaths
    server: WandbServer
    at_once: int
    tried: tuple[list[str], Counter[str]]
    tried_by_us: tuple[list[str], Counter[str]]
    kernel_counts: bool
    syncs: tuple[dict[str, Any], dict[str, Any]]

    @property
    def shards(self) -> list[tuple[Job, EvalSpec, JobPaths]]:
        return [
            (job, job.spec, self.paths.job(job.job_id))
            for job in planned(self.paths, "evaluate")
            if isinstance(job.spec, EvalSpec)
        ]

    def remote(self, job: Job) -> StoredRun:
        return self.server.run(job.job_id)


def spoken(benchmark: str) -> list[Language]:
    """The languages of a benchmark."""
    schema = "global_mmlu" if benchmark == "global" else "mmlu_prox"
    return [LANGUAGES[code] for code in definition_of(schema).languages]


def ids(benchmark: str, language: str) -> list[str]:
    count = NUM_ITEMS_OF_ENGLISH if language == "en" else NUM_ITEMS
    return [f"{language}/{i}" if benchmark == "global" else str(i) for i in range(count)]


def num_options(benchmark: str, number: int) -> int:
    return 4 if benchmark == "global" else 4 + number % 7


def write_inputs(folder: Path, nowhere: CutOff, at_once: int) -> None:
    save(make_llama(), make_tokenizer(), folder / "model")
    for benchmark in ("global", "prox"):
        (folder / benchmark).mkdir()
        for language in spoken(benchmark):
            rows = [
                row_of(benchmark, language, number, example_id)
                for number, example_id in enumerate(ids(benchmark, language.code))
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / benchmark / f"{language.code}.jsonl").write_text(text)
    profile = {
        "partition": "main",
        "array_parallelism": at_once,
        "python": str(nowhere.python),
        "env": {"OMP_NUM_THREADS": "1", **nowhere.environment},
        "resources": {kind: {"mem_gib": 2, "time_min": 15} for kind in ("evaluate", "analyse")},
    }
    (folder / "site.yaml").write_text(json.dumps(profile))
    (folder / "grid.yaml").write_text(GRID)


def row_of(benchmark: str, language: Language, number: int, example_id: str) -> dict[str, Any]:
    count = num_options(benchmark, number)
    label = number % count
    options = [str(number + place) for place in range(count)]
    question = f"{language.name}: {number} + {label}?"
    if benchmark == "global":
        named = {f"option_{letter}": text for letter, text in zip("abcd", options, strict=True)}
        return {
            "sample_id": example_id,
            "subject": "sums",
            "question": question,
            "answer": "ABCD"[label],
        } | named
    absent: list[str | None] = [None] * (10 - count)
    columns = {f"option_{place}": text for place, text in enumerate([*options, *absent])}
    return {"question_id": int(example_id), "category": "sums", "question": question,
            "answer": "ABCDEFGHIJ"[label], "answer_index": label, **columns}  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """Swept without a network, then uploaded twice."""
    folder = tmp_path_factory.mktemp("shards")
    at_once = min(NUM_SHARDS, int(psutil.virtual_memory().available / 2**30 / TASK_GIB))
    with pytest.MonkeyPatch.context() as patch, logged_in(folder, patch) as server:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.delenv(name, raising=False)  # they would hide what the test sets
        with (
            cut_off(together=at_once, HF_HOME=str(folder / "cache")) as nowhere,
            own_cluster(**CLUSTER) as cluster,
        ):
            write_inputs(folder, nowhere, at_once)
            done = run(sweep_command(folder, grid=folder / "grid.yaml"), cwd=folder)
            assert done.returncode == 0, done.stdout + done.stderr
            wait_for_empty_queue(cluster)
            assert server.requests == []
            paths, tried = StudyPaths(folder / "shards"), nowhere.tried()
            try_to_leave(nowhere)
            syncs = sync(paths), sync(paths)
            yield Swept(paths, server, at_once, tried, nowhere.tried(), bool(nowhere.enter), syncs)


def try_to_leave(nowhere: CutOff) -> None:
    subprocess.run(
        [*nowhere.enter, sys.executable, "-c", LEAVE],
        env=dict(nowhere.environment),
        check=True,
        timeout=HANG_S,
    )


def sync(paths: StudyPaths) -> dict[str, Any]:
    done = run([sys.executable, "-m", "launcher.cli", "sync", str(paths.root), "--json"])
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_all_languages_are_complete_after_one_attempt_each(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Counter(spec.benchmark.name for _, spec, _ in swept.shards) == {"global": 42, "prox": 29}
    (code,) = swept.paths.code.iterdir()
    changes: list[tuple[float, int]] = []
    for job, spec, folder in swept.shards:
        assert folder.done.is_file(), job.name
        assert json.loads(folder.env.read_text())["code"]["code"] == code.name, "not the study's snapshot"
        (attempt,) = attempts.read(folder)
        assert attempt.outcome == "done"
        assert attempt.ended is not None
        changes += [(attempt.began, 1), (attempt.ended, -1)]
        table, info = read_predictions(folder.predictions)
        assert (info.benchmark, info.language) == (spec.benchmark.name, spec.language)
        assert table["example_id"].to_pylist() == ids(info.benchmark, info.language)
        widths = [len(scores) for scores in table["scores"].to_pylist()]
        assert widths == [num_options(info.benchmark, number) for number in range(table.num_rows)]
    running = np.cumsum([change for _, change in sorted(changes)])
    with capsys.disabled():
        took = max(changes)[0] - min(changes)[0]
        print(f"\n71 languages in {took:.0f} s, {running.max()} of them at once")
    assert running.max() > 0.8 * swept.at_once, "they hardly met"


def test_nothing_tried_to_leave(swept: Swept) -> None:
    requests, counted = swept.tried_by_us
    assert [request.split(" HTTP")[0] for request in requests] == ["CONNECT example.org:443"]
    assert counted["IpOutNoRoutes"] == (1 if swept.kernel_counts else 0)
    assert swept.tried == ([], Counter())


def test_each_run_is_uploaded_once(swept: Swept) -> None:
    first, second = swept.syncs
    jobs = [job for job, _, _ in swept.shards]
    assert sorted(run["job_id"] for run in first["uploaded"]) == sorted(job.job_id for job in jobs)
    kinds = ("uploaded", "failed", "waiting", "elsewhere", "empty")
    nothing: dict[str, Any] = {**{kind: [] for kind in kinds}, "note": None}
    assert first == {**nothing, "uploaded": first["uploaded"], "num_before": 0}
    assert second == {**nothing, "num_before": NUM_SHARDS}
    assert sorted(run.name for run in swept.server.runs) == sorted(job.job_id for job in jobs)


def test_each_row_and_each_part_is_there_as_it_is_on_disk(swept: Swept) -> None:
    for job, spec, folder in swept.shards:
        remote = swept.remote(job)
        (log,) = run_files(folder.root)
        assert remote.history == read_run(log).history
        counts = [256, 260] if spec.language == "en" else [NUM_ITEMS]
        assert [row["num_items"] for row in remote.history] == counts
        assert not remote.overwritten
        assert (remote.state, remote.exit_code) == ("finished", 0)
        sent = {name: data for name, data in remote.files.items() if name.startswith("predictions/")}
        parts = folder.predictions.glob("*")
        assert sent == {f"predictions/{part.name}": part.read_bytes() for part in parts}


def test_records_read_back_through_the_sdk_equal_those_on_disk(swept: Swept, tmp_path: Path) -> None:
    from wandb import Api

    api = Api(timeout=60)
    try:
        for job, _, folder in swept.shards:
            remote = api.run(f"{ENTITY}/tests/{job.job_id}")
            for file in remote.files():
                if file.name.startswith("predictions/"):
                    file.download(root=str(tmp_path / job.job_id))
            (mine, info), (back, copied) = (
                read_predictions(parts)
                for parts in (folder.predictions, tmp_path / job.job_id / "predictions")
            )
            assert copied == info
            assert back.equals(mine)
            assert np.array_equal(bits(back["scores"]), bits(mine["scores"]))
            assert np.array_equal(bits(back["option_mass"]), bits(mine["option_mass"]))
    finally:
        end_service()


def bits(column: pa.ChunkedArray) -> np.ndarray:
    """The numbers of a float32 column, flat, as the integers with the same bits."""
    flat = column.combine_chunks()
    values = flat.flatten() if pa.types.is_list(flat.type) else flat
    assert values.type == pa.float32()
    found: np.ndarray = values.to_numpy().view(np.uint32)
    return found
