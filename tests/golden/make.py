"""What calsweep says of fixed inputs: job ids, batch scripts, prompts, tables and the dashboard's data.

A change that is meant to change nothing is proved by these: `python -m tests.golden.make` writes them to
`tests/golden/files`, and `git diff` shows what changed. `--exact DIR` writes them elsewhere, with every digit
and every hash, to compare two commits on one machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

from huggingface_hub import constants

from analysis.cli import main as analyse
from evaluation.items.load import load_items, load_shots
from evaluation.prompts import answers, context, rotated
from launcher.cli import main as calsweep
from study.grid import sources
from study.jobs.specs import Benchmark, Source
from tests.analysis.studies import StudyFolder, sweep
from tests.analysis.validation_studies import trained, with_validation
from tests.sweeping import ROOT

FILES = Path(__file__).parent / "files"
TABLES = ("calibration", "differences")
FORMATS = (".csv", ".md", ".tex")
DIAGNOSES = ("metrics", "temperature", "decomposition", "diagnostics", "correlations")

EVERY_KEY = """
study: every_key
description: A grid that gives every key of a training, so that its ids depend on each.
prepare:
  tiny: {dataset: cldr-pretrain, num_steps: 25, num_examples: 3200, learning_rate: 2.5e-3, template: plain,
    dtype: fp32, hidden_size: 64, num_layers: 1, num_heads: 2, rope_theta: 100, seed: 1}
grid:
  model: [tiny]
  dataset: [cldr-instruct]
  learning_rate: [1e-3, 2e-3]
  label_smoothing: [0.0, 0.1]
  logit_softcap: [null, 30]
  seed: [0, 1]
zip: [[learning_rate, logit_softcap]]
exclude: [{label_smoothing: 0.1, seed: 1}]
train: {num_examples: 64, exclude_sources: [b, a], num_epochs: 1, num_steps: 8, global_batch_size: 16,
  max_length_tokens: 64, template: plain, dtype: fp32, dropout: 0.1, logit_temperature: 0.5,
  warmup_ratio: 0.1, weight_decay: 0.1, beta1: 0.8, beta2: 0.98, max_grad_norm: 0.5}
evaluate:
  benchmarks:
    - {name: cldr_lite, languages: [low, en, Cyrillic]}
    - {name: cldr, split: validation, languages: [sw], num_items: 7}
  scaffold: native
  num_shots: 2
  option_order: cyclic
  too_long: cut
  dtype: fp32
"""

GLOBAL_MMLU = [
    {
        "sample_id": f"biology/{split}/{number}", "split": split, "subject": "biology",
        "subject_category": "STEM", "question": f" Question {number}?\n",
        "option_a": "one", "option_b": "two ", "option_c": "三", "option_d": "4",
        "answer": "ABCD"[number % 4], "cultural_sensitivity_label": label,
        "quality": None, "share_equal_to_english": 0.25,
    }
    for split in ("test", "dev")
    for number, label in enumerate(("CS", "CA", "-"))
]  # fmt: skip
MMLU_PROX = [
    {
        "question_id": 70 + number, "question": f"Frage {number}", "answer": "AC"[number % 2],
        "answer_index": 2 * (number % 2), "category": "law", "src": "x", "split": split,
        **{f"option_{i}": f"Möglichkeit {i}" if i < 3 + number else None for i in range(10)},
    }
    for split in ("test", "validation")
    for number in range(3)
]  # fmt: skip


def build(folder: Path) -> dict[str, str]:
    """Every golden file by its name, as it is now, with every digit. folder: an empty one to work in."""
    with quiet_hub(folder):
        return {
            "ids.json": as_json(job_ids(folder)),
            **sbatch_texts(folder),
            "prompts.txt": prompts(folder),
            **study_files(folder),
        }


def kept(files: Mapping[str, str]) -> dict[str, str]:
    """Those that lie in git, without what another processor or another pyarrow may change.

    Of the study with missing shards everything, of the others what it cannot show.
    """
    more = ("whole_printed.txt", "whole_dashboard.json", "picked_printed.txt", "picked_manifest.json")
    return {
        name: portable(name, text)
        for name, text in files.items()
        if not name.startswith(("whole_", "picked_")) or name in more
    }


def figure_hashes(folder: Path) -> str:
    """Of each figure of a study that `build` made: they depend on the fonts and the matplotlib at hand."""
    output_of(analyse, ["figures", str(folder / "holed")])
    paths = sorted((folder / "holed" / "figures").iterdir())
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n" for path in paths)


@contextlib.contextmanager
def quiet_hub(folder: Path) -> Iterator[None]:
    """No hub answers, and nothing was fetched from it before."""
    with (
        mock.patch.object(constants, "ENDPOINT", "http://127.0.0.1:9"),
        mock.patch.object(constants, "HF_HUB_CACHE", str(folder / "hub")),
        mock.patch.object(sources, "_silent", []),
    ):
        yield


def job_ids(folder: Path) -> dict[str, Any]:
    """Of each example, and of a grid that gives every key: how many jobs, and a hash over their ids."""
    every_key = folder / "every_key.yaml"
    every_key.write_text(EVERY_KEY, encoding="utf-8")
    ids = {}
    for grid in [*sorted((ROOT / "examples").glob("*.yaml")), every_key]:
        tasks = dry_run(folder, grid, "cluster=local")["tasks"]
        of_kind: dict[str, list[str]] = {}
        for task in tasks:
            of_kind.setdefault(task["kind"], []).extend(task["jobs"])
        ids[grid.stem] = {
            kind: {"count": len(jobs), "first": jobs[0], "sha256": sha256("\n".join(jobs))}
            for kind, jobs in of_kind.items()
        }
    return ids


def sbatch_texts(folder: Path) -> dict[str, str]:
    """The first batch script of each kind of job, for two examples and both profiles."""
    texts = {}
    for example, profile in (("demo", "testbed"), ("paper", "example")):
        grid, cluster = ROOT / "examples" / f"{example}.yaml", ROOT / "slurm" / "profiles" / f"{profile}.yaml"
        calls = dry_run(folder, grid, f"cluster={cluster}")["sbatch"]
        first: dict[str, str] = {}
        for call in calls:
            kind = re.search(r"--job-name=\S+-(\w+)", call["text"])
            assert kind is not None
            first.setdefault(kind[1], f"# {call['command']}\n{call['text']}")
        text = "\n\n".join(first.values())
        for place, name in (
            (folder / "outputs", "OUTPUTS"),
            (Path(sys.executable), "PYTHON"),
            (ROOT, "ROOT"),
        ):
            text = text.replace(str(place), name)
        texts[f"sbatch_{example}.txt"] = re.sub(r"(?<=/code/)[0-9a-f]+", "CODE", text) + "\n"
    return texts


def dry_run(folder: Path, grid: Path, *overrides: str) -> dict[str, Any]:
    """What `sweep GRID --dry-run --json` prints."""
    outputs = f"outputs={folder / 'outputs'}"
    printed = output_of(calsweep, ["sweep", str(grid), "--dry-run", "--json", outputs, *overrides])
    result: dict[str, Any] = json.loads(printed)
    return result


def prompts(folder: Path) -> str:
    """Whole prompts with their answers, and a hash over all of each benchmark's."""
    for name, rows in (("global_mmlu", GLOBAL_MMLU), ("mmlu_prox", MMLU_PROX)):
        file = folder / name / "de.jsonl"
        file.parent.mkdir()
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    embedded = Source("embedded", "cldr_lite", "0" * 12)
    benchmarks = [
        (Benchmark("cldr_lite", embedded, "global_mmlu"), "sw"),
        (
            Benchmark("global_mmlu", Source("local", str(folder / "global_mmlu"), "0" * 12), "global_mmlu"),
            "de",
        ),
        (Benchmark("mmlu_prox", Source("local", str(folder / "mmlu_prox"), "0" * 12), "mmlu_prox"), "de"),
    ]
    lines = []
    for benchmark, language in benchmarks:
        items = load_items(benchmark, language)
        shots = load_shots(benchmark, language, 1, items)
        lines += [f"=== {benchmark.name}: {len(items)} items {sha256(repr(items))}", repr(items[0])]
        for protocol, scaffold in product(("letter", "option_text"), ("english", "native", "chat")):
            how = {"protocol": protocol, "scaffold": scaffold}
            texts = []
            for shown in (rotated(item, by) for item in items for by in (0, 1)):
                prompt = context(shown, shots[shown.subject], **how, language=language, chat=json.dumps)
                texts.append(json.dumps([prompt, *answers(shown, **how)], ensure_ascii=False))
            lines += [f"--- {protocol}, {scaffold} {sha256(chr(10).join(texts))}", texts[0]]
    return "\n".join(lines) + "\n"


def study_files(folder: Path) -> dict[str, str]:
    """Tables, diagnoses, the dashboard's data and what is printed, of three made-up studies."""
    whole, holed, picked = (StudyFolder(folder / name) for name in ("whole", "holed", "picked"))
    sweep(whole, languages=("en", "sw", "uk", "xx"), seeds=2, count=40)
    sweep(holed, languages=("de", "en", "sw"), seeds=2, count=40, skip=[(0.1, 0, "sw"), (0.0, 1, "de")])
    rates = [{"learning_rate": rate, "label_smoothing": eps} for rate in (1e-5, 1e-4) for eps in (0.0, 0.1)]
    cells = [{"model": "m"}, *(trained(**axes) for axes in rates)]
    with_validation(picked, cells=cells, count=40, skip=["yo"])
    files = {}
    for study in (whole, holed, picked):
        name, root = study.root.name, str(study.root)
        printed = [
            output_of(analyse, [command, root]) for command in ("tables", "dashboard", "diagnose", "verify")
        ]
        files[f"{name}_printed.txt"] = "\n".join(printed).replace(root, "STUDY")
        tables = study.root / "tables"
        for table in TABLES:
            for suffix in FORMATS:
                files[f"{name}_{table}{suffix}"] = (tables / f"{table}{suffix}").read_text()
        for table in DIAGNOSES:
            if (path := tables / f"{table}.csv").is_file():
                files[f"{name}_{table}.csv"] = path.read_text()
        files[f"{name}_manifest.json"] = (tables / "manifest.json").read_text()
        page = (study.root / "dashboard.html").read_text(encoding="utf-8")
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
        assert data is not None
        files[f"{name}_dashboard.json"] = as_json(json.loads(data[1]))
        before_data = re.sub(r"<style>.*?</style>", "", page[: data.start()], flags=re.DOTALL)
        files[f"{name}_dashboard.html"] = before_data
    a, b = str(whole.root), str(holed.root)
    compared = [output_of(analyse, ["compare", a, b, *more]) for more in ([], ["--format", "csv"])]
    files["compare_printed.txt"] = compared[0].replace(str(folder), "FOLDER")
    files["compare.csv"] = compared[1]
    return files


def output_of(command: Any, arguments: Sequence[str]) -> str:
    """What a command prints to stdout, at a width of 120 columns."""
    out = io.StringIO()
    with (
        mock.patch.dict("os.environ", {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = command(list(arguments))
    assert code in (0, 1), (arguments, code, err.getvalue())
    return out.getvalue()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def portable(name: str, text: str) -> str:
    """Without what another processor or another pyarrow may change: late digits, hashes of files."""
    if name in ("ids.json", "prompts.txt"):
        return text
    text = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)
    text = re.sub(r"(?<![.\w])(?!0{8})[0-9a-f]{16}\b", "<hash>", text)
    return re.sub(r"-?\d+\.\d{7,}(e[-+]\d+)?", lambda match: f"{float(match[0]):.7g}", text)


def write(files: Mapping[str, str], to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for path in to.iterdir():
        path.unlink()
    for name, text in files.items():
        (to / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        made = build(Path(temporary))
        if sys.argv[1:2] == ["--exact"]:
            write({**made, "figures.txt": figure_hashes(Path(temporary))}, Path(sys.argv[2]))
        else:
            write(kept(made), FILES)
