"""Data and models with one fault each: one sentence, one failed shard, and all others are completed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launcher.commands.explain import explain
from launcher.job import causes
from launcher.state.status import JobStatus, Survey, survey_of
from study.files import read_json
from study.jobs.plan import read_plan
from study.jobs.specs import EvalSpec
from study.paths import StudyPaths
from study.records import read_predictions
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.sweeping import run, sweep_command

NUM_ITEMS = 12
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GRID = """
study: STUDY
grid: {model: [MODELS]}
evaluate:
  benchmarks: [{name: mine, path: STUDY, schema: global_mmlu}]
  dtype: fp32
  languages_per_task: 99
  MORE
tracking: {mode: disabled}
"""


@dataclass(frozen=True)
class Swept:
    """A sweep that has ended, and the state of its study. grid: the file, beside its models and data."""

    grid: Path
    done: subprocess.CompletedProcess[str]
    paths: StudyPaths
    found: Survey

    def shards(self) -> dict[tuple[str, str], JobStatus]:
        """(model, language) -> status."""
        return {
            (Path(one.job.cell["model"]).name, one.job.spec.language): one
            for one in self.found.statuses
            if isinstance(one.job.spec, EvalSpec)
        }


def rows(split: str = "test", count: int = NUM_ITEMS) -> list[dict[str, Any]]:
    return [
        {
            "sample_id": f"{split}/{i}",
            "subject": "ab"[i % 2],
            "question": f"What is {i}?",
            **{f"option_{k}": f"{k} {i}" for k in "abcd"},
            "answer": "ABCD"[i % 4],
            "split": split,
        }
        for i in range(count)
    ]


def write(folder: Path, **languages: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for language, rows in languages.items():
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_damaged(file: Path) -> None:
    """A Parquet file with 20 bytes of a page overwritten: its size and footer are as they were."""
    pq.write_table(pa.Table.from_pylist(rows(count=200)), file)
    content = bytearray(file.read_bytes())
    content[100:120] = b"\xff" * 20
    file.write_bytes(content)


def make_models(folder: Path) -> None:
    tokenizer = make_tokenizer(bos=True)
    save(make_llama(), tokenizer, folder / "good")
    broken = make_llama()
    broken.model.layers[1].mlp.down_proj.weight.data[3, 4] = float("nan")
    save(broken, tokenizer, folder / "nan")
    torn = save(make_llama(), tokenizer, folder / "torn") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    for file in save(make_llama(), tokenizer, folder / "mute").glob("tokenizer*"):
        file.unlink()
    tokenizer.chat_template = TEMPLATE
    save(make_llama(), tokenizer, folder / "chatty")


def make_data(folder: Path) -> None:
    half_text = "\ud83d"  # of a character that JSON spells as two, the first
    without_column, wrong_answer, doubled = rows(), rows(), rows()
    del without_column[4]["option_c"]
    wrong_answer[7]["answer"] = "E"
    doubled[5]["sample_id"] = doubled[2]["sample_id"]
    half, half_id = rows(), rows()
    half[3]["question"] += half_text
    half_id[3]["sample_id"] += half_text
    write(
        folder / "bad",
        en=rows(), sw=rows(), de=without_column, fr=wrong_answer, es=doubled, it=[], ja=half, ko=half_id,
    )  # fmt: skip
    write_damaged(folder / "bad" / "pt.parquet")
    (folder / "bad" / "bn.jsonl").write_text("[" * 100_000 + "\n")
    (folder / "bad" / "hi.jsonl").write_text('{"sample_id": ' + "9" * 5000 + "}\n")
    write(folder / "chat", en=[*rows(), *rows("dev", 4)], sw=rows())


def sweep_of(folder: Path, study: str, models: str, more: str) -> Swept:
    names = ", ".join(f"models/{model}" for model in models.split())
    grid = folder / f"{study}.yaml"
    grid.write_text(GRID.replace("STUDY", study).replace("MODELS", names).replace("MORE", more))
    done = run(sweep_command(folder / "outputs", grid=grid), cwd=folder)
    paths = StudyPaths(folder / "outputs" / study)
    return Swept(grid, done, paths, survey_of(read_plan(paths), paths))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bad")
    make_models(made / "models")
    make_data(made)
    return made


@pytest.fixture(scope="module")
def bad(folder: Path) -> Swept:
    """Four models on eleven languages: the good model completes two of them."""
    return sweep_of(folder, "bad", "good nan torn mute", "num_shots: 0")


@pytest.fixture(scope="module")
def chat(folder: Path) -> Swept:
    """Turns of a chat and a shot each; one language has no split for shots, one model no template."""
    return sweep_of(folder, "chat", "good chatty", "scaffold: chat\n  num_shots: 1")


DATA = {
    "de": r"FOLDER/bad/de\.jsonl, split 'test', row 5: there is no column 'option_c'; columns are .*",
    "fr": r"FOLDER/bad/fr\.jsonl, split 'test', row 8: answer is 'E', expected one of A, B, C, D.*",
    "es": r"FOLDER/bad/es\.jsonl, split 'test', row 6: id 'test/2' occurs a second time.*",
    "it": r"FOLDER/bad/it\.jsonl: holds no rows.*",
    "ja": r"FOLDER/bad/ja\.jsonl, split 'test', row 4: question holds half a character .*",
    "ko": r"FOLDER/bad/ko\.jsonl, split 'test', row 4: sample_id holds half a character .*",
    "pt": r"FOLDER/bad/pt\.parquet: not readable as Parquet \(.*",
    "bn": r"FOLDER/bad/bn\.jsonl, line 1: not readable as JSON \(.*",
    "hi": r"FOLDER/bad/hi\.jsonl, line 1: not readable as JSON \(.* has 5000 digits\)",
}
NOT_FINITE = r"item 'test/0': scores \[nan, .*\].* not finite; check the weights.*, or try .*fp32"
TORN = r"cannot load the model FOLDER/models/torn: .*incomplete.*"
MUTE = r"cannot load the tokenizer of the model FOLDER/models/mute: put its tokenizer\.json .* beside .*"
NO_TEMPLATE = r".* has no chat template; use the scaffold english or native, or a model .*"
NO_SHOTS = r"no shots: looked for .* in FOLDER/chat/sw\.jsonl, and .* in FOLDER/chat/dev or .*"


def check(swept: Swept, model: str, language: str, sentence: str, *, of_content: bool | None) -> None:
    """The shard failed with this sentence. of_content: once fixed, it is another job; None: either."""
    status = swept.shards()[model, language]
    pattern = sentence.replace("FOLDER", re.escape(str(swept.grid.parent)))
    assert (status.state, status.cause) == ("failed", causes.USER_ERROR)
    assert status.message is not None
    assert re.fullmatch(pattern, status.message), status.message  # `.` is no line break: one sentence
    report = read_json(swept.paths.job(status.job.job_id).failed)
    assert (report["cause"], report["message"]) == (status.cause, status.message)
    assert "traceback" not in report
    next_command = explain(status, swept.found, swept.paths, str(swept.grid)).next
    sweep, retry = f"calsweep sweep {swept.grid}", f"calsweep retry {swept.grid} {status.job.job_id}"
    # what the grid says, or a file that it names, makes another job of it: tried again, this one fails again
    first, _, second = next_command.removeprefix("fix what the message names, then: ").partition("    # ")
    assert {first, second.partition(": ")[2]} == {sweep, retry}
    if of_content is not None:
        assert first == (sweep if of_content else retry)


@pytest.mark.parametrize("language", DATA)
@pytest.mark.parametrize("model", ["good", "nan"])
def test_bad_rows_fail_their_language(bad: Swept, model: str, language: str) -> None:
    check(bad, model, language, DATA[language], of_content=True)


@pytest.mark.parametrize("language", ["en", "sw"])
def test_weights_that_are_no_numbers(bad: Swept, language: str) -> None:
    check(bad, "nan", language, NOT_FINITE, of_content=None)


@pytest.mark.parametrize(("model", "sentence"), [("torn", TORN), ("mute", MUTE)])
def test_half_a_model_fails_its_languages(bad: Swept, model: str, sentence: str) -> None:
    for language in ("en", "sw", *DATA):
        check(bad, model, language, sentence, of_content=True)


def test_a_chat_without_a_template(chat: Swept) -> None:
    check(chat, "good", "en", NO_TEMPLATE, of_content=False)


@pytest.mark.parametrize("model", ["good", "chatty"])
def test_shots_that_are_not_there(chat: Swept, model: str) -> None:
    check(chat, model, "sw", NO_SHOTS, of_content=True)


def complete(swept: Swept) -> Iterator[tuple[str, str]]:
    for shard, status in swept.shards().items():
        if status.state == "done":
            table, _ = read_predictions(swept.paths.job(status.job.job_id).predictions)
            assert table.num_rows == NUM_ITEMS
            yield shard


def test_the_other_shards_are_complete_and_the_sweep_exits_1(bad: Swept, chat: Swept) -> None:
    assert list(complete(bad)) == [("good", "en"), ("good", "sw")]
    assert list(complete(chat)) == [("chatty", "en")]
    for swept, missing in ((bad, "42 of 44"), (chat, "3 of 4")):
        assert swept.done.returncode == 1
        assert "Traceback" not in swept.done.stdout + swept.done.stderr
        (analysis,) = read_plan(swept.paths).of_kind("analyse")
        message = read_json(swept.paths.job(analysis.job_id).failed)["message"]
        assert message == f"{missing} evaluations are missing; the tables say which"


def test_explain_shows_each_failure_once_with_its_own_message(bad: Swept) -> None:
    command = [sys.executable, "-m", "launcher.cli", "explain", str(bad.paths.root)]
    done = run(command)
    assert done.returncode == 0
    assert done.stdout.count("next  ") == len(DATA) + 3
    # the log's end is another language's, and the sentence says it all
    assert "Traceback" not in done.stdout
    assert "submitit" not in done.stdout
    assert done.stdout.count("log: ") == len(DATA) + 3


def test_a_language_that_the_data_do_not_have(folder: Path) -> None:
    grid = folder / "wrong.yaml"
    text = GRID.replace("STUDY", "bad").replace("MODELS", "models/good").replace("MORE", "num_shots: 0")
    grid.write_text(text.replace("name: mine,", "name: mine, languages: [en, xx],"))
    done = run(sweep_command(folder / "outputs", grid=grid), cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert "evaluate.benchmarks[0].languages" in sentence
    assert "'xx'" in sentence
