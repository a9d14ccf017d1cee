"""Tokens, lengths and padding that do not fit the model; and what a run tells of the rows it left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from study.errors import JobError
from tests.evaluation.tiny import make_llama, make_tokenizer, save
from tests.training.attempts import assert_same_run, attempt, finish, paths_of
from training.checks import check_data
from training.data.token_files import TokenDataset


def inputs_of(folder: Path, model: Any, rows: list[dict[str, str]], **special_tokens: Any) -> Path:
    """A model and data; special_tokens: of its tokenizer, beyond what the model knows."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(special_tokens)
    save(model, tokenizer, folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def gpt2(context: int) -> GPT2LMHeadModel:
    """Positions are learned: there is none behind the last."""
    size: dict[str, Any] = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": context}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(make_tokenizer()), **size))


def dataset_of(length: int, token: int) -> TokenDataset:
    """One example."""
    tokens = np.full(length, token, dtype=np.int32)
    return TokenDataset(tokens, np.ones(length, dtype=np.bool_), np.array([0, length]), 1, 0, 0, 0)


def test_padding_may_be_a_token_that_the_model_does_not_know(
    inputs: Path, undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    """`add_special_tokens({"pad_token": ...})` without resizing: padding is seen by nobody."""
    shutil.copytree(inputs, tmp_path / "inputs")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id >= make_llama().config.vocab_size
    tokenizer.save_pretrained(tmp_path / "inputs" / "model")
    finish(tmp_path / "run", tmp_path / "inputs")
    assert_same_run(tmp_path / "run", undisturbed())


def test_an_example_beyond_the_context_is_refused(tmp_path: Path) -> None:
    """With rotary positions nothing else would say so."""
    rows = [{"instruction": "x", "output": "y"}, {"instruction": "x" * 30, "output": "y" * 20}]
    inputs = inputs_of(tmp_path, make_llama(context=58), rows)
    (outcome,) = attempt(tmp_path / "run", inputs, steps=1)
    # 30 bytes, 8 of "\nAnswer:", a space, 20: no end of sequence, this tokenizer has none
    assert (outcome.error, outcome.message) == (
        "JobError",
        f"{inputs / 'rows.jsonl'}: an example has 59 tokens, the model's context is 58; "
        "write max_length_tokens: 58",
    )


def test_what_is_allowed_is_what_learned_positions_bear() -> None:
    """GPT-2 itself says whether an example is too long."""
    lm, tokenizer = gpt2(context=6), make_tokenizer()
    for length in (5, 6, 7):
        dataset = dataset_of(length, 3)
        input_ids = torch.from_numpy(dataset.tokens).long()[None]
        if length <= 6:
            lm(input_ids=input_ids)
            check_data(dataset, "x", lm, tokenizer)
        else:
            with pytest.raises(IndexError):
                lm(input_ids=input_ids)
            with pytest.raises(JobError, match=r"^x: an example has 7 tokens, the model's context is 6; "):
                check_data(dataset, "x", lm, tokenizer)


def test_a_model_without_a_limit_takes_any_length() -> None:
    lm = BloomForCausalLM(BloomConfig(vocab_size=len(make_tokenizer()), hidden_size=8, n_layer=1, n_head=2))
    check_data(dataset_of(5000, 3), "x", lm, make_tokenizer())


def test_a_token_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    rows = [{"instruction": f"{i} <img>" if i == 3 else f"{i}", "output": "y"} for i in range(8)]
    inputs = inputs_of(tmp_path, make_llama(), rows, extra_special_tokens=["<img>"])
    (outcome,) = attempt(tmp_path / "run", inputs, steps=1)
    number = len(make_tokenizer())
    assert (outcome.error, outcome.message) == (
        "JobError",
        f"{inputs / 'rows.jsonl'}: the data have token {number} ('<img>'), the model knows only {number}; "
        "take the tokenizer that the model was trained with, or enlarge its embeddings",
    )


def test_the_rows_that_were_left_out_are_told(tmp_path: Path) -> None:
    rows = [{"instruction": f"{i}", "output": "y"} for i in range(8)]
    rows += [{"instruction": "cut", "output": "y" * 100}, {"instruction": "cut", "output": "z" * 100}]
    rows += [{"instruction": "mute", "output": ""}, {"instruction": "x" * 100, "output": "too late"}]
    rows += [{"instruction": "mute", "output": " "}]
    inputs = inputs_of(tmp_path, make_llama(), rows)
    (outcome,) = finish(tmp_path / "run", inputs, steps=1)
    done = json.loads(paths_of(tmp_path / "run").done.read_text())
    counts = {name: done[name] for name in ("rows", "excluded", "dropped", "examples", "truncated")}
    assert counts == {"rows": 13, "excluded": 0, "dropped": 3, "examples": 10, "truncated": 2}
    assert (
        "13 rows: 0 left out by source, 3 without a target within 64 tokens; "
        "10 examples, of which 2 are cut at 64 tokens"
    ) in outcome.log
