"""Sizes against the real models and data; costs against sums done by hand; budgets."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from rich.console import Console

from evaluation.items.load import load_items
from launcher.cost import forecast as forecast_module
from launcher.cost import sizes
from launcher.cost.budget import check_budget, print_forecast, to_json
from launcher.cost.forecast import Forecast, Line, checkpoint_bytes, forecast
from launcher.planning.sites import ClusterProfile, SlurmSite, load_site
from launcher.planning.tasks import missing_tasks
from study import records
from study.errors import BudgetError
from study.grid.config import BudgetConfig
from study.grid.sources import embedded_source
from study.jobs.resources import Resources
from study.jobs.specs import ARCHITECTURES, Benchmark, Hyperparameters, Scratch, Source, TrainSpec
from study.paths import StudyPaths
from study.presets import PRESETS
from tests.grids import grid_of, plan_of, write_model
from tests.launcher.plans import GRID
from tests.study.headers import gguf_bytes
from tests.sweeping import ROOT
from tests.waiting import HANG_S

COMMIT = "a" * 40
HUB_GRID = f"""
study: s
grid:
  model: ['org/llama-7b@{COMMIT}', m]
  dataset: ['tatsu-lab/alpaca@{COMMIT}']
  learning_rate: [1e-5, 2e-5]
train: {{num_steps: 100, global_batch_size: 64}}
evaluate: {{benchmarks: [{{name: 'mmlu_prox@{COMMIT}', languages: [en, sw]}}]}}
"""
GPUS = {
    "train": {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4, "zero_stage": 3, "keep_checkpoints": 3},
    "evaluate": {"gpus_per_node": 1},
}


def forecast_of(folder: Path, text: str, profile: ClusterProfile | None = None, **resources: Any) -> Forecast:
    """The forecast of a study in which nothing has run."""
    grid = grid_of(folder, text)
    plan, site, paths = plan_of(folder, text), load_site(grid), StudyPaths(grid.study_dir)
    if profile is not None:
        chosen = {k: Resources(**resources.get(k, {})) for k in site.resources}
        site = SlurmSite(profile, chosen, languages_per_task=site.languages_per_task)
    return forecast(plan, missing_tasks(plan, paths, site.languages_per_task), paths, site)


def line_of(result: Forecast, kind: str, model: str) -> Line:
    (line,) = [line for line in result.lines if (line.kind, line.model) == (kind, model)]
    return line


# how large models are


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_from_scratch_has_the_parameters_of_the_real_one(architecture: str, tied: bool) -> None:
    from study.cldr.instructions import DEMO_SHARES
    from training.data.wordlevel import cldr_tokenizer
    from training.scratch import build_from, config_for

    shape = Scratch(
        architecture,
        hidden_size=48,
        intermediate_size=80,
        num_layers=3,
        num_heads=4,
        tie_word_embeddings=tied,
    )
    real = build_from(config_for(shape, cldr_tokenizer(DEMO_SHARES)), seed=0, attention="sdpa")
    assert sizes.parameters(Source("scratch", "x", "0" * 12), shape).value == real.num_parameters()


@pytest.mark.slow
def test_a_folder_is_counted_by_its_headers_or_its_config(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    real = LlamaForCausalLM(config)
    real.save_pretrained(tmp_path, max_shard_size="20KB")
    source = Source("local", str(tmp_path), "0" * 12)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert sizes.parameters(source) == sizes.Figure(real.num_parameters(), "its weights")
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert sizes.parameters(source).value == real.num_parameters()  # the index says how many bytes there are
    (tmp_path / "model.safetensors.index.json").unlink()
    assert sizes.parameters(source) == sizes.Figure(real.num_parameters(), "its config")
    (tmp_path / "config.json").unlink()
    assert sizes.parameters(source).value is None


def test_a_gguf_file_is_counted_by_its_header(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    source = Source("local", str(file), "0" * 12)
    file.write_bytes(gguf_bytes({"a.b": ["x", "y"]}, {"token_embd.weight": (64, 10), "norm.weight": (64,)}))
    assert sizes.parameters(source) == sizes.Figure(64 * 11, "its weights")
    file.write_bytes(b"no such thing")
    assert sizes.parameters(source).value is None
    file.unlink()
    assert sizes.parameters(source).value is None


@pytest.mark.slow
def test_a_hub_model_is_looked_up_in_the_cache_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.data.wordlevel import cldr_tokenizer
    from training.scratch import build_from, config_for

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = Source("hub", "org/llama-7b", COMMIT)
    assert sizes.parameters(source) == sizes.Figure(7e9, "the name org/llama-7b", estimate=True)
    folder = tmp_path / "models--org--llama-7b" / "snapshots" / COMMIT
    real = build_from(config_for(Scratch(), cldr_tokenizer(["en"])), seed=0, attention="sdpa")
    real.save_pretrained(folder)
    assert sizes.parameters(source) == sizes.Figure(real.num_parameters(), "its weights")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", 8e9), ("google/gemma-2-2b", 2e9), ("mistralai/Mistral-7B-v0.1", 7e9),
        ("google/gemma-3-270m", 270e6), ("Qwen/Qwen2.5-0.5B-Instruct", 0.5e9), ("x/SmolLM2-135M", 135e6),
        ("mistralai/Mixtral-8x7B-v0.1", None), ("gpt2", None), ("org/7b-or-8b", None), ("org/v2beta", None),
    ],
)  # fmt: skip
def test_sizes_in_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: float) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    figure = sizes.parameters(Source("hub", name, COMMIT))
    assert figure.value == expected
    assert figure.estimate == (expected is not None)


def test_broken_weights_are_not_counted(tmp_path: Path) -> None:
    write_model(tmp_path / "m", "these are no safetensors")
    assert sizes.parameters(Source("local", str(tmp_path / "m"), "0" * 12)).value is None


# how much data there is


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cldr-pretrain", "cldr-instruct"])
def test_embedded_rows_are_as_long_as_the_real_ones(tmp_path: Path, name: str) -> None:
    from study.cldr.instructions import DEMO_SHARES
    from training.data.token_files import token_dataset
    from training.data.wordlevel import cldr_tokenizer

    spec = train_spec(embedded_source(name), num_examples=1000, template="plain")
    rows, tokens = sizes.training_rows(spec)
    real = token_dataset(spec, cldr_tokenizer(DEMO_SHARES), tmp_path)
    assert rows.value == len(real) == 1000
    assert tokens.value == pytest.approx(len(real.tokens) / len(real), rel=0.05)


def train_spec(dataset: Source, **hyper: Any) -> TrainSpec:
    return TrainSpec(Source("hub", "x/y", COMMIT), dataset, Hyperparameters(**hyper))


def test_local_rows_are_counted_and_their_tokens_estimated(tmp_path: Path) -> None:
    rows = [{"instruction": "i" * 40, "input": "", "output": "o" * 4 * n} for n in (10, 20, 90)]
    jsonl, parquet = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    jsonl.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    for file in (jsonl, parquet):
        source = Source("local", str(file), "0" * 12)
        count, tokens = sizes.training_rows(train_spec(source))
        assert (count.value, count.estimate) == (3, False)
        assert (tokens.value, tokens.estimate) == ((20 + 30 + 100) / 3, True)
        assert sizes.training_rows(train_spec(source, max_length_tokens=25))[1].value == (20 + 25 + 25) / 3
        assert sizes.training_rows(train_spec(source, num_examples=2))[0].value == 2
        assert sizes.training_rows(train_spec(source, num_examples=9))[0].value == 3
    chat = tmp_path / "chat.jsonl"
    tulu = [{"role": "user", "content": "x" * 8}, {"role": "assistant", "content": "y" * 4}]
    hermes = [{"from": "human", "value": "x" * 16}, {"from": "gpt", "value": "y" * 12}]
    turns: list[dict[str, Any]] = [{"messages": tulu}, {"conversations": hermes}]
    chat.write_text("".join(json.dumps(row) + "\n" for row in turns))
    assert sizes.training_rows(train_spec(Source("local", str(chat), "0" * 12)))[1].value == (3 + 7) / 2


def test_rows_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", "{"), ("b.jsonl", ""), ("c.parquet", "PAR1")):
        (tmp_path / name).write_text(content)
        figures = sizes.training_rows(train_spec(Source("local", str(tmp_path / name), "0" * 12)))
        assert [figure.value for figure in figures] == [None, None]
        assert name in figures[0].basis


def test_items_are_as_many_as_the_real_ones(tmp_path: Path) -> None:
    for name in ("cldr", "cldr_lite"):
        for split in ("test", "dev"):
            benchmark = Benchmark(name, embedded_source(name), "global_mmlu", split)
            assert sizes.items(benchmark, "sw")[0].value == len(load_items(benchmark, "sw"))
    rows = [{"sample_id": str(i), "subject": "s", "question": "q" * 40, "answer": "A", "option_a": "a",
             "option_b": "b", "option_c": "c", "option_d": "d", "split": "test" if i % 3 else "dev"}
            for i in range(30)]  # fmt: skip
    (tmp_path / "en.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist([{k: v for k, v in row.items() if k != "split"} for row in rows]),
                   tmp_path / "sw.parquet")  # fmt: skip
    local = Source("local", str(tmp_path), "0" * 12)
    for num_items in (None, 5):
        for code in ("en", "sw"):
            benchmark = Benchmark("ours", local, "global_mmlu", num_items=num_items)
            assert sizes.items(benchmark, code)[0].value == len(load_items(benchmark, code))
    assert sizes.items(Benchmark("ours", local, "global_mmlu"), "de")[0].value is None


def test_a_split_without_a_noted_size_is_unknown() -> None:
    source = Source("hub", "CohereLabs/Global-MMLU-Lite", COMMIT)
    assert sizes.items(Benchmark("global_mmlu_lite", source, "global_mmlu"), "en")[0].value == 400
    dev = Benchmark("global_mmlu_lite", source, "global_mmlu", "dev")
    assert sizes.items(dev, "en")[0].value is None


# what it costs


def test_costs_are_those_of_a_sum_done_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    result = forecast_of(folder, HUB_GRID, ClusterProfile(gpu_tflops=100), **GPUS)
    train = line_of(result, "train", f"org/llama-7b@{COMMIT}")
    per_row = PRESETS["alpaca"].tokens_per_row
    assert per_row is not None
    assert train.flops is not None
    assert train.task_hours is not None
    assert (train.num_jobs, train.num_tasks, train.speed) == (2, 2, "profile")
    assert train.tokens == (tokens := 2 * 100 * 64 * per_row)
    assert train.flops == 6 * 7e9 * tokens
    assert train.task_hours == pytest.approx(train.flops / 2 / (8 * 100e12) / 3600)
    assert train.device_hours == pytest.approx(2 * train.task_hours * 8)
    assert train.disk_bytes == pytest.approx(2 * 7e9 * (2 + 3 * 12), rel=1e-4)
    evaluation = line_of(result, "evaluate", f"org/llama-7b@{COMMIT}")
    assert evaluation.tokens is not None
    assert (evaluation.num_jobs, evaluation.num_tasks) == (6, 6)  # the base and two cells, in two languages
    assert evaluation.tokens == 6 * 11_759 * 450
    assert evaluation.flops == 2 * 7e9 * evaluation.tokens
    assert evaluation.device_hours == pytest.approx(evaluation.flops / 100e12 / 3600)
    assert result.num_tasks == {"train": 4, "evaluate": 12, "analyse": 1}
    assert result.num_arrays == 1 + (1 + 4) + 1  # trains; base models, and one of each trained one; analysis


def test_what_is_not_known_is_null_with_a_reason_and_never_in_a_total(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    result = forecast_of(folder, HUB_GRID, ClusterProfile(gpu_tflops=100), **GPUS)
    line = line_of(result, "train", "m")  # a folder whose weights nobody can read
    assert (line.flops, line.task_hours, line.device_hours, line.disk_bytes) == (None,) * 4
    assert line.speed == "unknown"
    assert "holds no safetensors" in line.unknown[0]
    as_json = to_json(result)
    assert as_json["gpu_hours"] is as_json["disk_bytes"] is None
    assert json.loads(json.dumps(as_json, allow_nan=False))["lines"][0]["model"] == f"org/llama-7b@{COMMIT}"


def test_without_gpus_hours_are_of_cores_and_a_profile_says_nothing_about_them(folder: Path) -> None:
    result = forecast_of(folder, GRID, ClusterProfile(gpu_tflops=100))
    assert {line.device for line in result.lines} == {"core"}
    assert result.hours("GPU") == 0  # none is asked for
    assert result.hours("core") is None
    assert {line.unknown for line in result.lines} == {(forecast_module.NO_SPEED,)}


def test_only_what_is_left_counts_and_packs_share_a_task(folder: Path) -> None:
    text = GRID.replace("evaluate:", "evaluate:\n  languages_per_task: 2")
    whole = forecast_of(folder, text)
    assert [(line.kind, line.num_jobs, line.num_tasks) for line in whole.lines] == [
        ("prepare", 1, 1), ("train", 4, 4), ("evaluate", 10, 5),
    ]  # fmt: skip
    plan = plan_of(folder, text)
    paths = StudyPaths(folder / "outputs" / "golden")
    for job in [*plan.of_kind("prepare"), *plan.of_kind("train")[:1]]:
        paths.job(job.job_id).root.mkdir(parents=True)
        paths.job(job.job_id).done.write_text('{"examples": 1, "tokens": 20}')
    left = forecast_of(folder, text)
    assert [(line.kind, line.num_jobs) for line in left.lines] == [("train", 3), ("evaluate", 10)]


@pytest.mark.slow
def test_records_take_as_much_as_real_ones(tmp_path: Path) -> None:
    from evaluation.shard import PART_SIZE

    info = records.ShardInfo("a" * 16, f"org/model@{COMMIT}", "mmlu_prox", "en", "test", "letter")
    assert forecast_module.PART_ITEMS == PART_SIZE
    rng = random.Random(0)
    for schema, options in (("global_mmlu", 4), ("mmlu_prox", 10)):
        rows = [
            records.Prediction(
                example_id=f"subject/test/{i}",
                subject=f"subject {i // 20}",
                label=rng.randrange(4),
                scores=[rng.gauss(-5, 3) for _ in range(options)],
                option_mass=rng.random(),
                option_num_tokens=None,
                rotation=0,
                num_prompt_tokens=rng.randrange(100, 400),
            )
            for i in range(PART_SIZE)
        ]
        real = records.write_part(tmp_path / schema, 0, rows, info).stat().st_size
        expected = PART_SIZE * forecast_module.item_bytes(options) + forecast_module.PART_BYTES
        assert real == pytest.approx(expected, rel=0.15)


CHECKPOINTS = """
import json, sys
from pathlib import Path
import torch
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import Hyperparameters, Scratch, Source, TrainSpec
from training import model, scratch
from training.data.wordlevel import cldr_tokenizer
from training.engine import checkpoint, export, zero
world, tokenizer = zero.join(), cldr_tokenizer(["en"])
def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
for stage, dtype in ((2, "bf16"), (3, "bf16"), (1, "fp32"), (3, "fp32")):
    folder = Path(sys.argv[1], f"{stage}-{dtype}")
    folder.mkdir()
    hyper = Hyperparameters(dtype=dtype)
    lm = scratch.build_from(scratch.config_for(Scratch(), tokenizer), seed=0, attention="sdpa")
    count, ids = lm.num_parameters(), torch.arange(32).reshape(2, 16)
    engine = zero.engine(model.LossModel(lm, hyper), hyper, Resources(zero_stage=stage), 5)
    zero.backward(engine, engine(ids, ids).loss_sum / 30, last=True)
    engine.step()
    checkpoint.save(engine, folder / "checkpoints", 1, world, state={}, keep=1)
    spec = TrainSpec(Source("local", "x", "0" * 12), Source("local", "x", "0" * 12), hyper)
    job = Job("train", spec, (), {"model": "x"})
    export.save_model(lm, tokenizer, job, folder / "model", zero_stage=stage, world=world)
    weights = (folder / "model" / "model.safetensors").stat().st_size
    print(json.dumps([stage, dtype, size(folder / "checkpoints") / count, weights / count]))
"""


@pytest.mark.slow
def test_checkpoints_and_models_take_as_much_as_real_ones(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECKPOINTS, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(measured) == 4
    for stage, dtype, checkpoint, weights in measured:
        assert checkpoint == pytest.approx(checkpoint_bytes(dtype, stage), rel=0.02)
        assert weights == pytest.approx(forecast_module.WEIGHT_BYTES[dtype], rel=0.02)


# whether a budget allows it


def forecast_with(**changes: Any) -> Forecast:
    given: dict[str, Any] = {
        "kind": "train",
        "model": "org/x",
        "data": "d",
        "num_jobs": 1,
        "num_tasks": 1,
        "parameters": 1e9,
        "tokens": 1e9,
        "flops": 6e18,
        "task_hours": 5.0,
        "device_hours": 20.0,
        "device": "GPU",
        "disk_bytes": 3 * 2**30,
        "speed": "profile",
        "estimates": (),
        "unknown": (),
    }
    return Forecast((Line(**given), Line(**{**given, **changes})), {"train": 2}, 1)


@pytest.mark.parametrize("budget", [BudgetConfig(), BudgetConfig(gpu_hours=40, disk_gib=6)])
def test_what_fits_is_allowed(budget: BudgetConfig) -> None:
    check_budget(forecast_with(), budget)


@pytest.mark.parametrize(
    ("budget", "changes", "said"),
    [
        (BudgetConfig(gpu_hours=39.9), {}, "budget.gpu_hours: the forecast is 40 GPU-hours, above 39.9;"),
        (BudgetConfig(disk_gib=5), {}, "budget.disk_gib: the forecast is 6 GiB, above 5; cut the grid"),
        (BudgetConfig(gpu_hours=0), {"device_hours": None}, "the forecast is at least 20 GPU-hours, above 0"),
        (
            BudgetConfig(gpu_hours=1e6),
            {"device_hours": None, "unknown": ("nobody looked",)},
            "budget.gpu_hours: the GPU-hours of 'train org/x · d' are not known, since nobody looked; "
            "measure it with --pilot, or remove the limit",
        ),
        (BudgetConfig(disk_gib=1e6), {"disk_bytes": None}, "budget.disk_gib: the GiB of 'train org/x · d'"),
    ],
)
def test_what_does_not_fit_or_is_not_known_is_refused(
    budget: BudgetConfig, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BudgetError) as caught:
        check_budget(forecast_with(**changes), budget)
    assert said in str(caught.value)


def test_hours_of_cores_do_not_count_as_gpu_hours() -> None:
    check_budget(forecast_with(device="core", device_hours=None), BudgetConfig(gpu_hours=20))


def test_the_printed_forecast_says_what_is_missing() -> None:
    out = io.StringIO()
    changes = {"device_hours": None, "task_hours": None, "speed": "unknown", "unknown": ("nobody looked",),
               "disk_bytes": None, "estimates": ("a guess",)}  # fmt: skip
    print_forecast(forecast_with(**changes), Console(file=out, width=110))
    text = out.getvalue()
    assert "in all at least 20 GPU-hours; at least 3 GiB of disk\n" in text
    assert "queue slots: 2 train, in 1 arrays" in text
    assert "not known: nobody looked" in text
    assert "estimated from a guess" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("train x · d")]
    assert [row[4:] for row in rows] == [
        ["1", "5", "20", "GPU-h", "3", "GiB", "6,000", "profile"],
        ["1", "unknown", "unknown", "GPU-h", "unknown", "6,000", "unknown"],
    ]
