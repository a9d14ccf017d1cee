"""Prefetch against a loopback hub with the real clients; then the same plan and jobs without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.cldr import benchmark as cldr
from tests.grids import write_grid
from tests.hub_server import Hub, commit_of, serving
from tests.sweeping import ROOT
from tests.waiting import HANG_S

GRID = """
study: s
grid: {model: [org/tiny], dataset: [org/instructions]}
train: {template: plain, dtype: fp32, num_steps: 1}
evaluate: {dtype: fp32, benchmarks: [{name: global_mmlu, languages: [en, sw]}]}
"""

PREFETCH = """
import sys
from rich.console import Console
from launcher.planning.sites import ClusterProfile, SlurmSite, load_site
from launcher.planning.plan import build_plan
from launcher.commands.preparation.prefetch import prefetch
from study.grid.config import load_grid
from study.errors import CalsweepError
from pathlib import Path
grid = load_grid(Path(sys.argv[1]))
plan = build_plan(grid)
site = SlurmSite(ClusterProfile(env=dict(item.split("=") for item in sys.argv[2:])), {})
try:
    prefetch(plan, grid, site, Console(stderr=True, width=200))
except CalsweepError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""

PLAN = """
import json, sys
from pathlib import Path
from launcher.planning.plan import build_plan
from study.grid.config import load_grid
print(json.dumps([job.job_id for job in build_plan(load_grid(Path(sys.argv[1]))).jobs]))
"""

LOAD = """
import json, sys
from pathlib import Path
from evaluation.items.load import load_items
from evaluation.shard import load_models
from launcher.planning.plan import build_plan
from study.grid.config import load_grid
from study.jobs.resources import Resources
from training.data.rows import open_rows
from training.model import load
plan = build_plan(load_grid(Path(sys.argv[1])))
train, = plan.of_kind("train")
evaluations = plan.of_kind("evaluate")
print(json.dumps({
    "trained": load(train.spec, train.spec.model.name, Resources())[0].num_parameters(),
    "evaluated": load_models(evaluations[0].spec.model.name, evaluations[0].spec.model.revision, "fp32")[0][0]
        .num_parameters(),
    "rows": [row["output"] for _, row in open_rows(train.spec.dataset, train.spec.hyper)],
    "items": {job.spec.language: [item.question for item in load_items(job.spec.benchmark, job.spec.language)]
              for job in evaluations},
}))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, tiny Llama; rows in Alpaca's columns; a benchmark in Global-MMLU's, one config a language."""
    root = tmp_path_factory.mktemp("hub")
    write_llama(root / "models" / "org" / "tiny")
    write_instructions(root / "datasets" / "org" / "instructions", 40)
    benchmark = root / "datasets" / "CohereLabs" / "Global-MMLU"
    card = "---\nconfigs:\n"
    for language in ("en", "sw"):
        (benchmark / language).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows_in(language)), benchmark / language / "test-0.parquet")
        card += f"- config_name: {language}\n  data_files:\n  - split: test\n    path: {language}/test-*\n"
    (benchmark / "README.md").write_text(card + "---\n", encoding="utf-8")
    return root


def write_llama(folder: Path) -> None:
    from study.jobs.specs import Scratch
    from training.data.wordlevel import cldr_tokenizer
    from training.scratch import build_from, config_for

    tokenizer = cldr_tokenizer(["en"])
    shape = Scratch(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)
    build_from(config_for(shape, tokenizer), seed=0, attention="sdpa").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"the weights once more")


def write_instructions(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(count)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_in(language: str) -> list[dict[str, str]]:
    rows = cldr.rows(language, per_subject=3)
    return [{k: v for k, v in row.items() if k != "split"} for row in rows if row["split"] == "test"]


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    with serving(repositories) as hub:
        yield hub


def run(program: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a separate process: the hub's clients read their variables when they are imported."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT, env={**env, **variables}, capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip


def answer(program: str, grid: Path, **variables: str) -> Any:
    done = run(program, grid, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def online(hub: Hub, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)}


def offline(home: Path) -> dict[str, str]:
    # a port where nobody listens: any request to the hub fails
    return {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(home), "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1"}  # fmt: skip


def test_a_prefetched_study_plans_and_loads_without_a_network(repositories: Path, tmp_path: Path) -> None:
    grid, home = write_grid(tmp_path, GRID), tmp_path / "home"
    with serving(repositories) as hub:
        ids = answer(PLAN, grid, **online(hub, home))
        # the profile's own switches are for its jobs
        done = run(PREFETCH, grid, "HF_HUB_OFFLINE=1", "HF_DATASETS_OFFLINE=1", **online(hub, home))
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert "4/4  here" in done.stderr
        assert not [line for line in hub.asked if "pytorch_model.bin" in line or "consolidated" in line]
        before = len(hub.asked)
        assert run(PREFETCH, grid, **online(hub, home)).returncode == 0
        assert not [line for line in hub.asked[before:] if line.startswith("GET") and "safetensors" in line]
    assert answer(PLAN, grid, **offline(home)) == ids
    loaded = answer(LOAD, grid, **offline(home))
    assert loaded["trained"] == loaded["evaluated"] > 9_000
    assert loaded["rows"] == [str(i) for i in range(40)]
    assert loaded["items"] == {code: [row["question"] for row in rows_in(code)] for code in ("en", "sw")}


def test_a_moved_dataset_leaves_the_study_as_it_is_and_never_replaces_the_pinned_one(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "datasets" / "org" / "instructions"
    home, program = tmp_path / "home", LOAD_ROWS
    write_instructions(repository, 3)
    old = commit_of(repository)
    with serving(tmp_path / "hub") as hub:
        first = write_dataset_grid(tmp_path / "a", "org/instructions", hub, home)
        write_instructions(repository, 5)
        new = commit_of(repository)
        # a name without a commit stays at the commit of the first prefetch
        assert answer(program, first, **offline(home)) == [old, 3]
        second = write_dataset_grid(tmp_path / "b", f"org/instructions@{new}", hub, home)
    assert answer(program, second, **offline(home)) == [new, 5]
    refused = run(program, first, **offline(home))
    assert refused.returncode == 1
    assert f"the cache gave commit {new[:12]}, and this job needs {old[:12]}" in refused.stderr
    with serving(tmp_path / "hub") as hub:  # it no longer has the old commit, which is still in the cache
        again = run(PREFETCH, first, **online(hub, home))
    assert again.returncode == 2
    assert old[:12] in again.stderr


LOAD_ROWS = """
import json, sys
from pathlib import Path
from launcher.planning.plan import build_plan
from study.grid.config import load_grid
from study.jobs.resources import Resources
from training.data.rows import open_rows
spec = build_plan(load_grid(Path(sys.argv[1]))).of_kind("train")[0].spec
print(json.dumps([spec.dataset.revision, len(open_rows(spec.dataset, spec.hyper))]))
"""


def write_dataset_grid(folder: Path, dataset: str, hub: Hub, home: Path) -> Path:
    """A grid with a local model and a hub dataset, prefetched."""
    from tests.grids import write_model

    write_model(folder / "m")
    grid = write_grid(folder, f"study: s\ngrid: {{model: [m], dataset: ['{dataset}']}}\n")
    done = run(PREFETCH, grid, **online(hub, home))
    assert done.returncode == 0, done.stderr
    return grid


def test_the_profiles_cache_is_filled_and_the_launchers_is_pinned(hub: Hub, tmp_path: Path) -> None:
    grid = write_grid(tmp_path, "study: s\ngrid: {model: [org/tiny]}\nevaluate: {benchmarks: [cldr]}\n")
    jobs, launchers = tmp_path / "jobs", tmp_path / "launchers"
    ids = answer(PLAN, grid, **online(hub, launchers))
    assert run(PREFETCH, grid, f"HF_HOME={jobs}", **online(hub, launchers)).returncode == 0
    assert list(jobs.glob("hub/models--org--tiny/snapshots/*/model.safetensors"))
    assert not list(launchers.glob("hub/models--org--tiny/snapshots/*"))
    assert answer(PLAN, grid, **offline(launchers)) == ids


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("org/gated", "model org/gated at aaaaaaaaaaaa: is gated; accept its terms"),
        ("org/absent", "model org/absent at aaaaaaaaaaaa: does not exist, or is private; check the name"),
        ("org/tiny", "model org/tiny at aaaaaaaaaaaa: cannot be downloaded (RevisionNotFoundError"),
    ],
)
def test_what_cannot_be_downloaded_is_one_sentence(hub: Hub, tmp_path: Path, model: str, said: str) -> None:
    text = f"study: s\ngrid: {{model: ['{model}@{'a' * 40}']}}\nevaluate: {{benchmarks: [cldr]}}\n"
    done = run(PREFETCH, write_grid(tmp_path, text), **online(hub, tmp_path / "home"))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_network_prefetch_says_so_once(tmp_path: Path) -> None:
    commit = "a" * 40
    text = f"study: s\ngrid: {{model: [org/x@{commit}, org/y@{commit}]}}\nevaluate: {{benchmarks: [cldr]}}\n"
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    done = run(PREFETCH, write_grid(tmp_path, text), **nobody)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("model org/x at aaaaaaaaaaaa: cannot be downloaded (")
    assert sentence.endswith("(and 1 more failed); check the network and the name, then prefetch again")
    assert "Traceback" not in done.stderr


def test_a_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models" / "org" / "pickled"
    repository.mkdir(parents=True)
    (repository / "config.json").write_text("{}")
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    grid = write_grid(tmp_path, "study: s\ngrid: {model: [org/pickled]}\nevaluate: {benchmarks: [cldr]}\n")
    with serving(tmp_path / "hub") as hub:
        done = run(PREFETCH, grid, **online(hub, tmp_path / "home"))
    assert done.returncode == 2
    assert "has no safetensors weights" in done.stderr
    assert not list(tmp_path.glob("home/**/refs/*"))  # nothing is pinned to what cannot be used
