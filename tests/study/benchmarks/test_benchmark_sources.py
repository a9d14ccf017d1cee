"""Benchmarks in a grid as pinned sources, and the languages that a grid chooses from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.benchmarks.sources import benchmark_languages, benchmark_source
from study.cldr.benchmark import LANGUAGES as CLDR_LANGUAGES
from study.errors import UserError
from study.grid.config import BenchmarkConfig, Grid
from study.jobs.specs import Source
from study.languages import LANGUAGES
from tests.study.fake_hub import COMMIT, FakeHub


def test_embedded_benchmarks(grid: Grid) -> None:
    for name in ("cldr", "cldr_lite"):
        benchmark = benchmark_source(BenchmarkConfig(name), grid, "b")
        assert (benchmark.source.kind, benchmark.schema, benchmark.split) == (
            "embedded",
            "global_mmlu",
            "test",
        )
        assert benchmark_languages(benchmark) == sorted(CLDR_LANGUAGES)


@pytest.mark.parametrize(
    ("name", "repository", "count"),
    [
        ("global_mmlu", "CohereLabs/Global-MMLU", 42),
        ("global_mmlu_lite", "CohereLabs/Global-MMLU-Lite", 15),
        ("mmlu_prox", "li-lab/MMLU-ProX", 29),
        ("mmlu_prox_lite", "li-lab/MMLU-ProX-Lite", 29),
    ],
)
def test_hub_benchmarks(grid: Grid, hub: FakeHub, name: str, repository: str, count: int) -> None:
    benchmark = benchmark_source(BenchmarkConfig(name), grid, "b")
    assert benchmark.source == Source("hub", repository, COMMIT)
    codes = benchmark_languages(benchmark)
    assert len(codes) == count
    assert codes == sorted(codes)
    assert set(codes) <= set(LANGUAGES)
    assert hub.asked == [(repository, "main", "dataset")]


def test_a_local_benchmark_has_the_languages_of_its_files(grid: Grid, tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    for file in ("sw.jsonl", "en.parquet", "xx.jsonl", "README.md", ".hidden.jsonl"):
        (folder / file).write_text("{}")
    benchmark = benchmark_source(BenchmarkConfig("mine", path="items", schema="mmlu_prox"), grid, "b")
    assert benchmark.source.kind == "local"
    assert benchmark_languages(benchmark) == ["en", "sw", "xx"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"name": "global_mlmu"},
            "b.name: 'global_mlmu' is unknown; did you mean 'global_mmlu'? (or give path and schema)",
        ),
        ({"name": "x", "path": "none"}, "b.path: no such folder ('none'); give a folder of <language>.jsonl"),
        ({"name": "x", "path": "."}, "b.schema: is missing; write global_mmlu or mmlu_prox"),
        (
            {"name": "x", "path": ".", "schema": "mmlu"},
            "b.schema: 'mmlu' is unknown; did you mean 'mmlu_prox'?",
        ),
        ({"name": "cldr", "num_items": 0}, "b.num_items: out of range; give 1 or more"),
        (
            {"name": "cldr@0123456789ab"},
            "b.name: 'cldr@0123456789ab' is unknown; valid: cldr, cldr_lite, global_mmlu, global_mmlu_lite, "
            "mmlu_prox, mmlu_prox_lite (or give path and schema)",
        ),
    ],
)
def test_wrong_benchmarks(grid: Grid, values: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        benchmark_source(BenchmarkConfig(**values), grid, "b")  # type: ignore[arg-type]
    assert str(caught.value) == sentence
