"""training/data/token_files.py: the tokens of a run, made once for all jobs that share them."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from study.errors import JobError
from study.grid.sources import embedded_source
from study.jobs.specs import TrainSpec
from tests.sweeping import ROOT
from tests.training.toys import EXAMPLES, FIXTURES, fixture, spec_of, toy_tokenizer
from tests.waiting import HANG_S, eventually
from training.data import token_files as data
from training.data.encoding import encoder
from training.data.messages import messages_of, renderer
from training.data.token_files import TokenDataset, token_dataset
from training.data.wordlevel import build_tokenizer, cldr_tokenizer

TULU = EXAMPLES / "tulu3.jsonl"
AYA = "ai2-adapt-dev/tulu_v3.9_aya_100k"
CHATML = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return toy_tokenizer("byte_level", chat_template=CHATML)


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets that were tokenised, and not read from the cache."""
    names: list[str] = []
    real = data._tokenise

    def counted(spec: TrainSpec, *rest: Any) -> dict[str, int]:
        names.append(Path(spec.dataset.name).stem)
        return real(spec, *rest)

    monkeypatch.setattr(data, "_tokenise", counted)
    return names


def examples(dataset: TokenDataset) -> list[tuple[list[int], list[bool]]]:
    places = zip(dataset.offsets, dataset.offsets[1:], strict=False)
    return [(dataset.tokens[a:b].tolist(), dataset.is_target[a:b].tolist()) for a, b in places]


@pytest.mark.parametrize("template", ["plain", "tulu", "tokenizer"])
@pytest.mark.parametrize("name", FIXTURES)
def test_what_is_stored_are_the_rows_with_a_target(
    name: str,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "ROWS_AT_ONCE", 3)
    dataset = token_dataset(spec_of(EXAMPLES / f"{name}.jsonl", template=template), tokenizer, tmp_path)
    render = renderer(template, tokenizer)
    one_by_one = [encoder(tokenizer, 4096)([render(messages_of(row, "x"), "x")])[0] for row in fixture(name)]
    want = [(actual.ids.tolist(), actual.is_target.tolist()) for actual in one_by_one if actual is not None]
    assert examples(dataset) == want
    assert len(dataset) == len(fixture(name)) - 1  # one answer of each is empty
    counts = dataset.num_rows, dataset.num_excluded, dataset.num_dropped, dataset.num_truncated
    assert counts == (len(fixture(name)), 0, 1, 0)
    assert dataset.num_tokens == sum(len(ids) for ids, _ in want)
    assert [dataset.length(i) for i in range(len(dataset))] == [len(ids) for ids, _ in want]


def test_tokens_lie_on_disk_in_small_types(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    dataset = token_dataset(spec_of(TULU), tokenizer, tmp_path)
    arrays = (dataset.tokens, dataset.is_target, dataset.offsets)
    assert [str(array.dtype) for array in arrays] == ["int32", "bool", "int64"]
    assert all(isinstance(array.base, np.memmap) for array in arrays)
    with pytest.raises(ValueError, match="read-only"):
        dataset.tokens[0] = 1


def test_counts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [
        ("one", "two", "left out"),
        ("one", "two", "x"),  # <s> one Answer two </s>
        ("one two", "three one", "x"),  # loses its end
        ("one two three one two", "three", "x"),  # loses its answer
        ("one", "", "x"),  # has none
    ]
    columns = ("instruction", "output", "source")
    file.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    spec = spec_of(file, template="plain", exclude_sources=["left out"], max_length_tokens=6)
    dataset = token_dataset(spec, build_tokenizer([], ["one two three Answer"]), tmp_path / "cache")
    assert [len(ids) for ids, _ in examples(dataset)] == [5, 6]
    counts = dataset.num_rows, dataset.num_excluded, dataset.num_dropped, dataset.num_truncated
    assert counts == (5, 1, 2, 1)


def test_no_row_with_a_target_is_no_dataset(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    file = tmp_path / "silent.jsonl"
    file.write_text('{"instruction": "Hello", "output": ""}\n')
    with pytest.raises(JobError, match=r"silent\.jsonl: no row has a target token within 9 tokens"):
        token_dataset(spec_of(file, max_length_tokens=9), tokenizer, tmp_path / "cache")
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert [name.rpartition(".")[2] for name in left] == ["lock"]


def test_a_tokenizer_without_offsets_is_refused(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(JobError, match=r"^toy-byte_level: \w+ does not report where its tokens are"):
        token_dataset(spec_of(TULU), tokenizer, tmp_path)


# the cache


def test_a_second_run_reads_what_the_first_wrote(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenised: list[str]
) -> None:
    first = token_dataset(spec_of(TULU, learning_rate=1e-5, seed=1), tokenizer, tmp_path)
    # neither of these says which rows or tokens; nor does what another caller asked of the tokenizer
    tokenizer("x", truncation=True, max_length=4)
    again = token_dataset(spec_of(TULU, learning_rate=1e-4, seed=2), tokenizer, tmp_path)
    moved = tmp_path / "moved.jsonl"
    shutil.copy(TULU, moved)
    elsewhere = token_dataset(spec_of(moved), tokenizer, tmp_path)
    assert tokenised == ["tulu3"]
    assert examples(first) == examples(again) == examples(elsewhere)
    assert (first.num_rows, first.num_dropped) == (again.num_rows, again.num_dropped) == (8, 1)


def test_other_tokens_are_other_entries(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenised: list[str]
) -> None:
    other = toy_tokenizer("byte_level", chat_template=CHATML)
    other.add_tokens(["spider"])
    renamed = toy_tokenizer("byte_level", chat_template=CHATML)
    renamed.eos_token = "<|im_end|>"
    talks = toy_tokenizer("byte_level", chat_template=CHATML + "!")
    spec = spec_of(TULU)
    variants: list[tuple[TrainSpec, PreTrainedTokenizerBase]] = [
        (spec, tokenizer),
        (spec, other),
        (spec, renamed),
        (spec, talks),
        (spec_of(EXAMPLES / "alpaca.jsonl"), tokenizer),
        (spec_of(TULU, template="plain"), tokenizer),
        (spec_of(TULU, max_length_tokens=40), tokenizer),
        (spec_of(TULU, exclude_sources=(AYA,)), tokenizer),
        (spec_of(TULU, num_examples=3), tokenizer),
        (spec_of(TULU, num_examples=4), tokenizer),
        (spec_of(TULU, num_examples=4, seed=1), tokenizer),
        (replace(spec, dataset=embedded_source("cldr-instruct")), cldr_tokenizer(["en"])),
        (
            replace(spec_of(TULU, seed=1), dataset=embedded_source("cldr-instruct")),
            cldr_tokenizer(["en"]),
        ),
    ]
    for _ in range(2):
        for variant in variants:
            token_dataset(*variant, tmp_path)
        assert len(tokenised) == len(variants)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "tokens.npy").unlink(),
        lambda folder: (folder / "is_target.npy").write_bytes(b"\0" * 20),
        lambda folder: (folder / "offsets.npy").write_bytes((folder / "offsets.npy").read_bytes()[:-1]),
        lambda folder: rewrite(folder / "meta.json", "format", 0),
        lambda folder: rewrite(folder / "meta.json", "tokenizer", "0" * 16),
    ],
)
def test_a_torn_or_alien_entry_is_made_again(
    harm: Callable[[Path], None], tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenised: list[str]
) -> None:
    want = examples(token_dataset(spec_of(TULU), tokenizer, tmp_path))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    # as a killed process leaves it
    (tmp_path / f".{folder.name}.0123456789ab").mkdir()
    harm(folder)
    assert examples(token_dataset(spec_of(TULU), tokenizer, tmp_path)) == want
    assert tokenised == ["tulu3"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, f"{folder.name}.lock"]
    assert examples(token_dataset(spec_of(TULU), tokenizer, tmp_path)) == want
    assert len(tokenised) == 2


def test_what_another_node_wrote_meanwhile_is_left_as_it_is(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have it open; a network file system did not show it when the lock was taken."""
    token_dataset(spec_of(TULU), tokenizer, tmp_path / "theirs")
    (theirs,) = (path for path in (tmp_path / "theirs").iterdir() if path.is_dir())
    ours = tmp_path / "ours" / theirs.name
    real = data._tokenise

    def late(*args: Any) -> dict[str, int]:
        theirs.rename(ours)
        return real(*args)

    monkeypatch.setattr(data, "_tokenise", late)
    inode = (theirs / "tokens.npy").stat().st_ino
    assert len(token_dataset(spec_of(TULU), tokenizer, tmp_path / "ours")) == 7
    assert (ours / "tokens.npy").stat().st_ino == inode
    assert sorted(path.name for path in ours.parent.iterdir()) == [ours.name, f"{ours.name}.lock"]


def rewrite(meta: Path, key: str, value: Any) -> None:
    content = json.loads(meta.read_text())
    assert key in content["identity"]
    content["identity"][key] = value
    meta.write_text(json.dumps(content))


def test_progress_is_told(
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "LOG_EVERY_S", -1)
    monkeypatch.setattr(data, "ROWS_AT_ONCE", 3)
    with caplog.at_level(logging.INFO, "training.data.token_files"):
        token_dataset(spec_of(TULU), tokenizer, tmp_path)
    logged = [message for message in caplog.messages if "tokenised (" in message]
    assert [message.split(": ")[1].split(", ")[0] for message in logged] == [
        "3 of 8 rows tokenised (38%)",
        "6 of 8 rows tokenised (75%)",
        "8 of 8 rows tokenised (100%)",
    ]


TWO_AT_ONCE = """
import logging, sys, time
from pathlib import Path
from training.data import token_files as data
from tests.training.toys import EXAMPLES, spec_of, toy_tokenizer
me, folder = sys.argv[1], Path(sys.argv[2])
logging.basicConfig(level=logging.INFO, format="%(message)s")
real = data._tokenise
def slow(*args):
    with (folder / "tokenised").open("a") as stream:
        stream.write(me)
    time.sleep(1)
    return real(*args)
data._tokenise = slow
spec, tokenizer = spec_of(EXAMPLES / "tulu3.jsonl"), toy_tokenizer("byte_level")
(folder / f"ready-{me}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
dataset = data.token_dataset(spec, tokenizer, folder / "cache")
print(dataset.tokens.tolist(), dataset.is_target.tolist(), dataset.offsets.tolist())
"""


def test_two_processes_at_once_tokenise_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_AT_ONCE]
    children = [
        subprocess.Popen(
            [*command, me, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for me in "ab"
    ]
    try:
        eventually(lambda: len(list(tmp_path.glob("ready-*"))) == 2, "both have begun")
        (tmp_path / "go").touch()
        said = [child.communicate(timeout=HANG_S) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    assert len((tmp_path / "tokenised").read_text()) == 1
    assert sum("tulu3.jsonl is being tokenised by another process" in err for _, err in said) == 1
