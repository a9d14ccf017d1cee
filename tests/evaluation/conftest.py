"""A tiny model and a benchmark of two languages, for whole shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from study.jobs.specs import Benchmark, Source
from tests.evaluation.shards import NUM_ITEMS, PART_SIZE
from tests.evaluation.tiny import make_llama, make_tokenizer, save


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_llama(), make_tokenizer(bos=True), tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few items wherever `benchmark` is scored."""
    if "benchmark" in request.fixturenames:
        monkeypatch.setattr("evaluation.shard.PART_SIZE", PART_SIZE)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Two languages, options of mixed lengths."""
    folder = tmp_path_factory.mktemp("benchmark")
    for language in ("sw", "en"):
        rows = [
            {
                "sample_id": f"s/{i}",
                "subject": "ab"[i % 2],
                "question": f"{language} {'?' * (i * 7 % 5)}",
                **{f"option_{k}": f"{k} {i}" * (1 + i % 3) for k in "abcd"},
                "answer": "ABCD"[i % 4],
            }
            for i in range(NUM_ITEMS)
        ]
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Benchmark("mine", Source("local", str(folder), "1" * 16), "global_mmlu")
