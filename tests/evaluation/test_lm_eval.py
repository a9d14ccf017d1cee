"""Side by side with lm-evaluation-harness 0.4.13: its prompts, byte by byte, and its log-scores.

`make test-lm-eval`: it needs packages that nothing else here needs.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.testing import assert_close
from transformers import PreTrainedModel

from evaluation.encoding import Query
from evaluation.items.item import Item
from evaluation.prompts import answers, context
from evaluation.questions import query, questions
from evaluation.scoring import Scorer
from study.jobs.specs import Benchmark, EvalSpec, Prompting, Source
from tests.evaluation import test_lm_eval_golden as kept
from tests.evaluation.peer import REMEDY, hflm, log_scores
from tests.evaluation.tiny import make_gemma2, make_llama, make_tokenizer

pytestmark = pytest.mark.lm_eval

CONTEXT = 2048
TOLERANCE = 1e-4
WORDS = "Nairobi 水 два cà-phê மழை 7 école ሰላም ocean Straße".split()
BOS = {"llama": False, "gemma2": True}
PROTOCOLS = ["letter", "option_text"]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip(REMEDY)


def tiny(name: str) -> PreTrainedModel:
    """Gemma-2 has a soft-cap and layers with a window of 16 tokens, far less than the shots."""
    model = {"llama": make_llama, "gemma2": make_gemma2}[name]()
    model.config.max_position_embeddings = CONTEXT
    return model


def made_items(num_options: int, subject: str, count: int) -> list[Item]:
    """Questions of different lengths in several scripts; options differ, and many have the same ending."""
    made = []
    for i in range(count):
        words = WORDS[i % 5 :] + WORDS[: i % 5]
        options = tuple(" ".join(words[k : k + 1 + (i + k) % 3]) + str(k) for k in range(num_options))
        question = f"  {subject}: {' '.join(words[: 1 + i * 3 % 7])}?" + "\n" * (i % 2)
        made.append(Item(f"{subject}/{i}", subject, question, options, i * 3 % num_options))
    return made


def made_queries(protocol: str, num_options: int, num_shots: int) -> list[Query]:
    """Two subjects with different shots."""
    actual = []
    for subject, count in (("a", 6), ("b", 3)):
        items = made_items(num_options, subject, num_shots + count)
        for item in items[num_shots:]:
            text = context(item, items[:num_shots], protocol=protocol, scaffold="english", language="en")
            actual.append(Query(item.example_id, text, answers(item, protocol=protocol, scaffold="english")))
    return actual


@pytest.mark.parametrize("num_shots", [0, 5])
@pytest.mark.parametrize("num_options", [4, 10])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", BOS)
def test_the_log_scores_are_lm_evals(name: str, protocol: str, num_options: int, num_shots: int) -> None:
    model, tokenizer = tiny(name), make_tokenizer(bos=BOS[name])
    asked = made_queries(protocol, num_options, num_shots)
    theirs = log_scores(hflm(model, tokenizer), asked)
    scorer = Scorer([model], tokenizer, batch_tokens=3000)
    assert scorer.shares  # or shared prompts were not what is compared
    ours = scorer.score(asked, letters=protocol == "letter")
    for own, peer in zip(ours, theirs, strict=True):
        assert_close(own.scores, peer, rtol=0, atol=TOLERANCE)
    assert max(map(max, theirs)) - min(map(min, theirs)) > 1  # scores that hardly differ would prove little


@pytest.mark.parametrize("name", kept.MODELS)
def test_the_golden_file_holds_what_lm_eval_says_today(name: str) -> None:
    lm = hflm(kept.tiny(name), make_tokenizer(bos=True))
    for protocol, num_shots in kept.CASES:
        entries = kept.golden(protocol, num_shots)
        said = log_scores(lm, kept.as_queries(entries))
        for question, own in zip(entries, said, strict=True):
            assert_close(question["log_scores"][name], own, rtol=0, atol=TOLERANCE)


def rows(subject: str, split: str, count: int) -> list[dict[str, str]]:
    """In Global-MMLU's columns."""
    return [
        {
            "sample_id": f"{split}/{item.example_id}",
            "split": split,
            "subject": item.subject,
            "question": f"{split} {item.question}",
            **{f"option_{k}": option for k, option in zip("abcd", item.options, strict=True)},
            "answer": "ABCD"[item.label],
        }
        for item in made_items(4, subject, count)
    ]


def harness_task(protocol: str, num_shots: int, splits: dict[str, list[dict[str, str]]]) -> Any:
    """A task of lm-eval's own over rows at hand: Global-MMLU's configuration as it is shipped, or with the
    prompt of MMLU's where options are scored as text.
    """
    import datasets
    import lm_eval
    from lm_eval.api.task import ConfigurableTask

    shipped = Path(lm_eval.__file__).parent / "tasks"
    config = yaml.safe_load((shipped / "global_mmlu/full/en/_en_template_yaml").read_text(encoding="utf-8"))
    assert config["fewshot_config"] == {"sampler": "first_n"}
    assert config["fewshot_split"] == "dev"
    if protocol == "option_text":
        other = yaml.safe_load(
            (shipped / "mmlu/continuation/_continuation_template_yaml").read_text(encoding="utf-8")
        )
        config["doc_to_text"] = other["doc_to_text"]
        config["doc_to_choice"] = "{{[option_a, option_b, option_c, option_d]}}"
        config["doc_to_target"] = "{{['A', 'B', 'C', 'D'].index(answer)}}"
    del config["dataset_path"], config["dataset_name"]
    tables = {split: datasets.Dataset.from_list(own) for split, own in splits.items()}
    return ConfigurableTask(
        config={
            **config,
            "task": f"rows_{protocol}_{num_shots}",
            "custom_dataset": lambda **_: tables,
            "num_fewshot": num_shots,
        }
    )


@pytest.mark.parametrize("num_shots", [0, 5])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_task_of_lm_evals_own_asks_and_scores_the_same(
    protocol: str, num_shots: int, tmp_path: Path
) -> None:
    from lm_eval.evaluator import evaluate

    model, tokenizer = tiny("llama"), make_tokenizer(bos=True)
    splits = {
        # more shots than are asked for, those of the other subject between them
        "dev": [row for pair in zip(rows("a", "dev", 7), rows("b", "dev", 7), strict=True) for row in pair],
        "test": rows("a", "test", 6) + rows("b", "test", 4),
    }
    lines = [json.dumps(row, ensure_ascii=False) for own in splits.values() for row in own]
    (tmp_path / "en.jsonl").write_text("\n".join(lines), encoding="utf-8")
    spec = EvalSpec(
        Source("job", "0" * 12, "0" * 12),
        Benchmark("rows", Source("local", str(tmp_path), "0" * 12), "global_mmlu"),
        "en",
        protocol,
        "fp32",
        Prompting(num_shots=num_shots),
    )
    actual = questions(spec)
    asked = {
        one.item.example_id: query(one, actual.shots[one.item.subject] if num_shots else (), spec, None)
        for one in actual.asked
    }
    scores = Scorer([model], tokenizer, batch_tokens=3000).score(list(asked.values()))
    ours = dict(zip(asked, scores, strict=True))
    correct = []
    for subject in ("a", "b"):  # lm-eval has a task for each subject
        own = {split: [row for row in lines if row["subject"] == subject] for split, lines in splits.items()}
        task = harness_task(protocol, num_shots, own)
        result = evaluate(
            hflm(model, tokenizer), {task.config.task: task}, log_samples=True, bootstrap_iters=0
        )
        samples = result["samples"][task.config.task]
        assert len(samples) == len(own["test"])
        for sample in samples:
            name = sample["doc"]["sample_id"]
            assert [text for text, _ in sample["arguments"]] == [asked[name].context] * 4
            assert [answer for _, answer in sample["arguments"]] == list(asked[name].answers)
            theirs = [float(response[0][0]) for response in sample["resps"]]
            assert_close(ours[name].scores, theirs, rtol=0, atol=TOLERANCE)
            label = "ABCD".index(sample["doc"]["answer"])
            assert sample["acc"] == (ours[name].scores.index(max(ours[name].scores)) == label)
            correct.append(sample["acc"])
    assert 0 < sum(correct) < len(correct)
