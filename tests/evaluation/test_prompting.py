"""Shots, rotations, chats and cut prompts through whole shards, against one sequence at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from evaluation.parts import check_complete, read_own_part
from study import records
from study.errors import JobError, RecordError, UserError
from study.files import read_json
from study.jobs.specs import Benchmark, Source
from study.paths import JobPaths
from tests.evaluation.shards import make_job, run
from tests.evaluation.tiny import make_llama, make_tokenizer, save

CONTEXT = 256
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Six questions of two subjects, and two to take shots from for each."""
    folder = tmp_path_factory.mktemp("questions")
    rows = [
        {
            "sample_id": f"{split}/{i}",
            "subject": "xy"[i % 2],
            "question": f"{split} {i}?",
            **{f"option_{k}": f"{k}{i}" for k in "abcd"},
            "answer": "ABCD"[i % 4],
            "split": split,
            "cultural_sensitivity_label": "CS" if i == 3 else "CA",
        }
        for split, count in (("dev", 4), ("test", 6))
        for i in range(count)
    ]
    (folder / "sw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Benchmark("mine", Source("local", str(folder), "1" * 16), "global_mmlu")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_llama(context=CONTEXT)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save(model, tokenizer, tmp_path_factory.mktemp("model"))


def scored(benchmark: Benchmark, folder: Path, paths: JobPaths, **prompting: Any) -> list[dict[str, Any]]:
    run(make_job(benchmark, **prompting), paths, folder)
    rows: list[dict[str, Any]] = records.read_predictions(paths.predictions)[0].to_pylist()
    return rows


def log_probs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, letters: str, keep: int = CONTEXT
) -> list[float]:
    """Scores of letters after a text cut to its BOS and its last `keep` - 1 tokens."""
    ids = tokenizer(text)["input_ids"]
    ids = ids if len(ids) <= keep else [ids[0], *ids[len(ids) - keep + 1 :]]
    with torch.no_grad():
        last = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)
    return [float(last[tokenizer(x, add_special_tokens=False)["input_ids"][0]]) for x in letters.split(",")]


def asked(split: str, i: int) -> str:
    return f"{split} {i}?\nA. a{i}\nB. b{i}\nC. c{i}\nD. d{i}\n"


def test_two_shots_of_the_item_s_own_subject(
    benchmark: Benchmark,
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    rows = scored(benchmark, folder, JobPaths(tmp_path), num_shots=2)
    assert [row["example_id"] for row in rows] == [f"test/{i}" for i in range(6)]
    for i, row in enumerate(rows):
        first, second = (f"{asked('dev', j)}Answer: {'ABCD'[j]}\n\n" for j in (i % 2, i % 2 + 2))
        text = f"{first}{second}{asked('test', i)}Answer:"
        assert row["scores"] == pytest.approx(log_probs(model, tokenizer, text, " A, B, C, D"), abs=1e-4)
        assert row["num_prompt_tokens"] == len(tokenizer(text)["input_ids"])


def test_a_chat_is_the_tokenizer_s_own_with_one_bos(
    benchmark: Benchmark,
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    rows = scored(benchmark, folder, JobPaths(tmp_path), scaffold="chat", num_shots=1)
    for i, row in enumerate(rows):
        shot = f"<user>\n{asked('dev', i % 2)}Answer:\n<assistant>\n{'ABCD'[i % 2]}\n"
        text = f"{shot}<user>\n{asked('test', i)}Answer:\n<assistant>\n"
        assert row["scores"] == pytest.approx(log_probs(model, tokenizer, text, "A,B,C,D"), abs=1e-4)


def test_without_a_chat_template_there_is_no_chat(benchmark: Benchmark, tmp_path: Path) -> None:
    plain = save(make_llama(), make_tokenizer(), tmp_path / "model")
    with pytest.raises(JobError, match="has no chat template; use the scaffold english or native"):
        run(make_job(benchmark, scaffold="chat"), JobPaths(tmp_path / "job"), plain)


def test_every_rotation_of_the_options_is_a_question(
    benchmark: Benchmark,
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    paths = JobPaths(tmp_path)
    rows = scored(benchmark, folder, paths, option_order="cyclic")
    assert [(row["example_id"], row["rotation"]) for row in rows] == [
        (f"test/{i}", by) for i in range(6) for by in range(4)
    ]
    for row in rows:
        i, by = int(row["example_id"][5:]), row["rotation"]
        shown = ("abcd" * 2)[by : by + 4]
        lines = "".join(f"{letter}. {k}{i}\n" for letter, k in zip("ABCD", shown, strict=True))
        text = f"test {i}?\n{lines}Answer:"
        assert row["scores"] == pytest.approx(log_probs(model, tokenizer, text, " A, B, C, D"), abs=1e-4)
        assert shown[row["label"]] == "abcd"[i % 4]
    done = json.loads(paths.done.read_text())
    assert done["num_items"] == 6


def test_rotations_are_told_apart_by_merge(benchmark: Benchmark, folder: Path, tmp_path: Path) -> None:
    from evaluation.questions import questions
    from evaluation.shard import shard_info

    paths = JobPaths(tmp_path)
    job = make_job(benchmark, option_order="cyclic")
    run(job, paths, folder)
    expected = questions(job.spec).asked  # type: ignore[arg-type]
    check_complete(paths.predictions, expected)
    first, *_ = records.parts(paths.predictions)
    swapped = [expected[1], expected[0], *expected[2:]]
    with pytest.raises(RecordError, match="are not questions 0 to 4 of this shard"):
        read_own_part(first, swapped, shard_info(job))
    with pytest.raises(
        RecordError, match=r"1 missing \(test/0 rotated by 9\), 1 foreign \(test/0 rotated by 1\)"
    ):
        check_complete(paths.predictions, [expected[0], expected[1]._replace(rotation=9), *expected[2:]])


def test_option_text_shows_no_order_to_rotate(benchmark: Benchmark) -> None:
    with pytest.raises(UserError, match="option_order"):
        make_job(benchmark, protocol="option_text", option_order="cyclic")


def test_prompts_beyond_the_context_fail_or_lose_their_beginning(
    benchmark: Benchmark, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    short = make_llama(context=60)
    folder = save(short, tokenizer, tmp_path / "model")
    with pytest.raises(JobError, match="4 items are longer than the model's context of 60 tokens"):
        run(make_job(benchmark, num_shots=2), JobPaths(tmp_path / "refused"), folder)
    rows = scored(benchmark, folder, JobPaths(tmp_path / "cut"), num_shots=2, too_long="cut")
    for i, row in enumerate(rows):
        text = f"{asked('dev', i % 2 + 2)}Answer: {'ABCD'[i % 2 + 2]}\n\n{asked('test', i)}Answer:"
        want = log_probs(short, tokenizer, text, " A, B, C, D", keep=60)
        assert row["scores"] == pytest.approx(want, abs=1e-4)
        assert row["num_prompt_tokens"] == 60
    # reported at the end, with the cuts of earlier attempts
    paths = JobPaths(tmp_path / "cut")
    assert read_json(paths.done)["num_cut"] == len(rows) == 6
    paths.done.unlink()
    records.parts(paths.predictions)[-1].unlink()
    scored(benchmark, folder, paths, num_shots=2, too_long="cut")
    assert read_json(paths.done)["num_cut"] == 6


def test_what_analysis_slices_by_lies_beside_the_jobs(
    benchmark: Benchmark, folder: Path, tmp_path: Path
) -> None:
    run(make_job(benchmark), JobPaths(tmp_path / "job"), folder, items=tmp_path / "items")
    (file,) = (tmp_path / "items").rglob("*.parquet")
    assert file.name == "sw.parquet"
    table = pq.read_table(file)
    assert table["example_id"].to_pylist() == [f"test/{i}" for i in range(6)]
    assert table["cultural_sensitivity"].to_pylist() == ["CA"] * 3 + ["CS"] + ["CA"] * 2
    assert table["num_options"].to_pylist() == [4] * 6
