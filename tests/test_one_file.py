"""A benchmark is one file and a dataset preset one entry: nothing else has to change, but README lists it.

Most tests run over all files and entries, so that a new one is tested, too. The last add some to a copy of
the code, and take them through plan, forecast, prefetch, items, prompts and training rows.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.items.load import load_items, load_shots
from launcher.cli import main
from launcher.commands.preparation.prefetch import Wanted, wanted
from study.benchmarks.definition import Columns, columns_of, definition_of, definitions
from study.grid.sources import dataset_source
from study.jobs.specs import Benchmark, Hyperparameters, Source
from study.presets import PRESETS
from tests.grids import grid_of, plan_of, write_grid, write_model
from tests.hub_server import serving
from tests.recipes import copy_project, follow
from tests.sweeping import ROOT
from tests.waiting import HANG_S
from training.data.rows import open_rows

COMMIT = "a" * 40
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
every_benchmark = pytest.mark.parametrize("name", definitions())
every_preset = pytest.mark.parametrize("name", PRESETS)


def pinned(name: str, hub: str | None) -> str:
    return f"{name}@{COMMIT}" if hub else name


def paragraph(title: str) -> str:
    """What README says about a topic, up to the next one."""
    match = re.search(rf"- \*\*{title}\.\*\*.*?(?=\n- \*\*)", README, re.DOTALL)
    assert match is not None
    return match[0]


def benchmark_grid(folder: Path, name: str, num_shots: int) -> str:
    write_model(folder / "m")
    definition = definition_of(name)
    return (
        f"study: s\ngrid: {{model: [m]}}\n"
        f"evaluate: {{num_shots: {num_shots}, benchmarks: ['{pinned(name, definition.hub)}']}}\n"
    )


def made_row(columns: Columns, number: int) -> dict[str, Any]:
    """A row with these columns; its right option is the second, and its texts end in the number."""
    count = columns.min_options
    options = [f"option {i} of {number}" for i in range(count)]
    answers = {"letter": "B", "index": 1, "number": "2", "text": options[1]}
    row: dict[str, Any] = {column: f"{column} {number}" for column in columns.id}
    row |= {columns.question: f"Question {number}?", columns.answer: answers[columns.answer_as]}
    if len(columns.options) == 1:
        row[columns.options[0]] = options
    else:
        row |= dict(zip(columns.options, options, strict=False))
    if columns.answer_index:
        row[columns.answer_index] = 1
    for column in (columns.subject, columns.passage, columns.category):
        if column:
            row[column] = f"{column} text"
    return row


@every_benchmark
def test_a_benchmark_plans_with_all_its_languages_and_is_fetched_and_forecast(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    definition = definition_of(name)
    num_shots = 1 if definition.shot_split else 0
    text = benchmark_grid(tmp_path, name, num_shots)
    evaluations = plan_of(tmp_path, text).of_kind("evaluate")
    assert [job.spec.language for job in evaluations] == sorted(definition.languages)  # type: ignore[union-attr]
    assert definition.languages
    downloads = [item for item in wanted(plan_of(tmp_path, text)) if item.kind == "dataset"]
    splits = ["test", definition.shot_split] if num_shots else ["test"]
    assert downloads == [
        Wanted("dataset", definition.hub, COMMIT, definition.configs.get(code, code), split)
        for code in sorted(definition.languages)
        for split in splits
        if definition.hub
    ]
    assert main(["sweep", str(write_grid(tmp_path, text)), "--dry-run", "--json", f"outputs={tmp_path}"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["forecast"]["lines"]
    assert (line["data"], line["num_jobs"]) == (name, len(definition.languages))
    is_sized = definition.embedded or "test" in definition.sizes
    assert (line["tokens"] is not None) == (is_sized and definition.tokens_per_item is not None)


@every_benchmark
def test_rows_of_a_benchmark_become_items(name: str, tmp_path: Path) -> None:
    definition = definition_of(name)
    schema = definition.schema or name
    columns = columns_of(schema)
    rows = [made_row(columns, number) for number in range(2)]
    (tmp_path / "sw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = load_items(Benchmark(name, Source("local", str(tmp_path), "0" * 12), schema), "sw")
    assert [(item.question, item.label) for item in items] == [("Question 0?", 1), ("Question 1?", 1)]
    assert all(len(item.options) == columns.min_options for item in items)
    if definition.embedded:
        embedded = Benchmark(name, Source("embedded", name, "0" * 12), schema)
        for language in definition.languages:
            assert load_items(embedded, language)
        assert load_shots(embedded, "sw", 5)


@every_benchmark
def test_readme_lists_a_benchmark(name: str) -> None:
    assert f"`{name}`" in paragraph("Benchmarks")


@every_preset
def test_a_preset_plans_and_is_fetched_and_forecast(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = PRESETS[name]
    write_model(tmp_path / "m")
    text = f"study: s\ngrid: {{model: [m], dataset: ['{pinned(name, preset.hub)}']}}\n"
    (train,) = plan_of(tmp_path, text).of_kind("train")
    source = train.spec.dataset  # type: ignore[union-attr]
    assert (source.kind, source.name) == (("hub", preset.hub) if preset.hub else ("embedded", name))
    downloads = wanted(plan_of(tmp_path, text))
    assert downloads == ([Wanted("dataset", preset.hub, COMMIT, None, "train")] if preset.hub else [])
    assert main(["sweep", str(write_grid(tmp_path, text)), "--dry-run", "--json", f"outputs={tmp_path}"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["forecast"]["lines"]
    is_sized = preset.num_rows is not None and preset.tokens_per_row is not None
    assert (line["tokens"] is not None) == is_sized


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.hub is None])
def test_an_embedded_preset_has_as_many_rows_as_its_entry_says(name: str, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, "study: s\ngrid: {model: [m]}\n")
    source = dataset_source(name, grid, "grid.dataset")
    assert len(open_rows(source, Hyperparameters())) == PRESETS[name].num_rows
    assert len(open_rows(source, Hyperparameters(num_examples=7))) == 7


@every_preset
def test_readme_lists_a_preset(name: str) -> None:
    assert f"`{name}`" in paragraph("Data")


LISTED = """
hub: org/listed
columns: {id: [id], question: question, options: [choices], answer: gold, answer_as: index}
"""
GRID = """
study: s
grid: {model: [m], dataset: [toy]}
train: {num_steps: 1}
evaluate: {benchmarks: [belebele, {name: listed, languages: [qu]}]}
"""
WALK = """
import json, sys
from pathlib import Path
from rich.console import Console
from evaluation.items.load import load_items
from evaluation.prompts import context
from launcher.commands.preparation.prefetch import prefetch, wanted
from launcher.planning.plan import build_plan
from launcher.planning.sites import load_site
from study.grid.config import load_grid
from training.data.rows import open_rows
grid = load_grid(Path(sys.argv[1]))
plan = build_plan(grid)
prefetch(plan, grid, load_site(grid), Console(stderr=True))
(train,) = plan.of_kind("train")
specs = [job.spec for job in plan.of_kind("evaluate")]
how = {"protocol": "letter", "scaffold": "english"}
print(json.dumps({
    "wanted": [[item.name, item.config, item.split] for item in wanted(plan)],
    "rows": [row["output"] for _, row in open_rows(train.spec.dataset, train.spec.hyper)],
    "items": [[spec.benchmark.name, spec.language, item.example_id, item.subject, item.label,
               len(item.options), context(item, (), language=spec.language, **how)]
              for spec in specs for item in load_items(spec.benchmark, spec.language)],
}))
"""


def belebele_row(language: str, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"link": "https://x", "question_number": number, "correct_answer_num": str(number)}
    row |= {"question": f" {language} {number}? ", "flores_passage": f"Passage\nin {language}."}
    return {**row, **{f"mc_answer{i}": f"answer {i}" for i in range(1, 5)}}


def write_dataset(folder: Path, configs: dict[str, list[dict[str, Any]]]) -> None:
    card = "---\nconfigs:\n"
    for config, rows in configs.items():
        (folder / config).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / config / "test.parquet")
        card += f"- config_name: {config}\n  data_files:\n  - split: test\n    path: {config}/test.parquet\n"
    (folder / "README.md").write_text(card + "---\n", encoding="utf-8")


def write_hub(root: Path) -> None:
    languages = {"eng_Latn": "en", "swh_Latn": "sw"}
    write_dataset(
        root / "datasets" / "org" / "belebele",
        {config: [belebele_row(code, n) for n in (1, 4)] for config, code in languages.items()},
    )
    listed = [{"id": 7, "question": "Imataq?", "choices": ["huk", "iskay", "kimsa"], "gold": 2}]
    write_dataset(root / "datasets" / "org" / "listed", {"qu": listed})
    toy = root / "datasets" / "org" / "toy"
    toy.mkdir(parents=True)
    (toy / "train.jsonl").write_text('{"instruction": "Say 1.", "input": "", "output": "1"}\n')


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with two more benchmarks and a preset, added as CONTRIBUTING.md says."""
    root = copy_project(tmp_path_factory.mktemp("checkout") / "calsweep")
    follow("Add a benchmark", root)
    follow("Add a dataset preset", root)
    (root / "study" / "benchmarks" / "listed.yaml").write_text(LISTED)
    write_model(root / "m")
    return root


def run(checkout: Path, command: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, *command], cwd=checkout, env={**env, **variables, "COLUMNS": "200"},
        capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip


def test_an_added_file_and_an_added_entry_are_all_that_it_takes(checkout: Path, tmp_path: Path) -> None:
    write_hub(tmp_path / "hub")
    grid = str(write_grid(checkout, GRID))
    with serving(tmp_path / "hub") as hub:
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        dry = run(checkout, ["launcher/sweep.py", grid, "--dry-run"], **online)
        as_json = run(checkout, ["launcher/sweep.py", grid, "--dry-run", "--json"], **online)
        walked = run(checkout, ["-c", WALK, grid], **online)
    assert dry.returncode == 0, dry.stderr
    printed = " ".join((dry.stdout + dry.stderr).split())
    assert "belebele in 2 languages, listed in 1 languages" in printed
    assert "in all unknown" in printed
    assert "the size of split 'test' of belebele is not known" in printed
    assert "the tokens per item of belebele are not known" in printed
    assert "the tokens per row of toy are not known" in printed
    lines = json.loads(as_json.stdout)["forecast"]["lines"]
    assert {line["data"]: (line["tokens"], line["flops"]) for line in lines} == dict.fromkeys(
        ("toy", "belebele", "listed"), (None, None)
    )
    assert walked.returncode == 0, walked.stderr
    result = json.loads(walked.stdout.splitlines()[-1])
    assert result["wanted"] == [
        ["org/toy", None, "train"],
        ["org/belebele", "eng_Latn", "test"],
        ["org/belebele", "swh_Latn", "test"],
        ["org/listed", "qu", "test"],
    ]
    assert result["rows"] == ["1"]
    base = result["items"][: len(result["items"]) // 2]  # those of the base model come first
    options = "".join(f"{letter}: answer {i}\n" for i, letter in enumerate("ABCD", start=1))
    assert base == [
        *(
            ["belebele", code, f"https://x/{n}", "all", n - 1, 4,
             f"P: Passage\nin {code}.\nQ: {code} {n}?\n{options}Answer:"]
            for code in ("en", "sw") for n in (1, 4)
        ),
        ["listed", "qu", "7", "all", 2, 3, "Imataq?\nA. huk\nB. iskay\nC. kimsa\nAnswer:"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("evaluate", "sentence"),
    [
        (
            "benchmarks: [listed]",
            "evaluate.benchmarks[0].languages: the languages of listed are not known, "
            "so 'all' cannot be used; list their codes",
        ),
        (
            "benchmarks: [{name: listed, languages: [qu, low]}]",
            "evaluate.benchmarks[0].languages: the languages of listed are not known, "
            "so 'low' cannot be used; list their codes",
        ),
        (
            "num_shots: 1, benchmarks: [belebele]",
            "evaluate.num_shots: belebele has no split for shots; write 0",
        ),
    ],
)
def test_what_a_file_leaves_out_is_refused_where_it_is_needed(
    checkout: Path, tmp_path: Path, evaluate: str, sentence: str
) -> None:
    text = f"study: s\ngrid: {{model: [m]}}\nevaluate: {{{evaluate}}}\n"
    for name in ("listed", "belebele"):
        text = re.sub(rf"\b{name}\b", f"{name}@{COMMIT}", text)
    write_model(tmp_path / "m")
    done = run(checkout, ["launcher/sweep.py", str(write_grid(tmp_path, text)), "--dry-run"])
    assert done.returncode == 2, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
