"""training/data.py: what the loss is taken on, and that batches do not depend on how they are cut."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from study.errors import JobError, RecordError
from study.specs import Hyperparameters, Source
from training import data
from training.wordlevel import build_tokenizer

ALPACA = {"instruction": "Which letter?", "input": "A. Mali\nB. Peru", "output": "B"}
TULU = {
    "id": "1",
    "source": "x",
    "messages": [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Ciao"},
    ],
}
OPENHERMES = {
    "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}],
    "source": "x",
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    words = ["Which letter? A B Answer: Be brief Hello Hi Bye Ciao one two three four five"]
    tokens = [
        *words,
        "<|system|> <|user|> <|assistant|>".replace("|", " ").replace("<", " ").replace(">", " "),
    ]
    return build_tokenizer(["Mali", "Peru"], tokens)


def test_three_schemas_become_messages() -> None:
    assert data.messages_of(ALPACA, "x") == [
        data.Message("user", "Which letter?\nA. Mali\nB. Peru"),
        data.Message("assistant", "B"),
    ]
    assert [m.role for m in data.messages_of(TULU, "x")] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert data.messages_of(OPENHERMES, "x") == [
        data.Message("user", "Hello"),
        data.Message("assistant", "Hi"),
    ]
    with pytest.raises(JobError, match=r"file, row 3: columns \['prompt'\]"):
        data.messages_of({"prompt": "x"}, "file, row 3")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "output": None},  # would be trained on as the text "None"
        {"instruction": 3, "output": "x"},
        {"messages": [{"role": "user"}]},
        {"messages": ["hello"]},
        {"conversations": [{"from": "human", "value": None}]},
    ],
)
def test_a_row_without_text_is_refused_by_name(row: dict[str, object]) -> None:
    with pytest.raises(JobError, match=r"^file, row 3: '\w+' is .*, not a text$"):
        data.messages_of(row, "file, row 3")


def test_plain_template_is_the_prompt_of_the_letter_protocol() -> None:
    assert data.segments(data.messages_of(ALPACA, "x"), "plain", "</s>") == [
        ("Which letter?\nA. Mali\nB. Peru\nAnswer:", False),
        (" B</s>", True),
    ]


def test_tulu_template_takes_the_loss_on_every_assistant_turn() -> None:
    assert data.segments(data.messages_of(TULU, "x"), "tulu", "</s>") == [
        ("<|system|>\nBe brief\n<|user|>\nHello\n<|assistant|>\n", False),
        ("Hi</s>", True),
        ("\n<|user|>\nBye\n<|assistant|>\n", False),
        ("Ciao</s>", True),
    ]


def test_tokens_and_targets(tokenizer: PreTrainedTokenizerBase) -> None:
    dataset = data.tokenise([ALPACA], tokenizer, Hyperparameters(template="plain"), "x")
    words = tokenizer.convert_ids_to_tokens(dataset.tokens.tolist())
    assert words == ["<s>", "Which", "letter", "A", "Mali", "B", "Peru", "Answer", "B", "</s>"]
    assert dataset.is_target.tolist() == [False] * 8 + [True, True]


def test_rows_without_a_target_are_dropped_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    hyper = Hyperparameters(template="plain", max_length_tokens=9)
    silent = {"messages": [{"role": "user", "content": "Hello"}]}
    long = {**ALPACA, "instruction": "one two three four five one two three"}
    dataset = data.tokenise([ALPACA, silent, long], tokenizer, hyper, "x")
    assert (len(dataset), dataset.num_dropped) == (1, 2)
    assert dataset.is_target.sum() == 1  # the end of sequence was cut off
    with pytest.raises(JobError, match="no row has a target token within 9 tokens"):
        data.tokenise([silent], tokenizer, hyper, "x")


def test_local_files_and_subsampling(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(f'{{"instruction": "{i}", "output": "x"}}' for i in range(50)))
    source = Source("local", str(file), "0" * 12)
    assert len(data.load_rows(source, Hyperparameters())) == 50
    first = data.load_rows(source, Hyperparameters(num_examples=10, seed=1))
    again = data.load_rows(source, Hyperparameters(num_examples=10, seed=1))
    other = data.load_rows(source, Hyperparameters(num_examples=10, seed=2))
    assert first == again != other
    assert len({row["instruction"] for row in first}) == 10
    file.write_text('{"instruction": "1", "output": "x"}\n\n{broken')
    with pytest.raises(RecordError, match=r"rows\.jsonl, line 3: not valid JSON"):
        data.load_rows(source, Hyperparameters())
    file.write_text("\n")
    with pytest.raises(JobError, match="has no rows"):
        data.load_rows(source, Hyperparameters())


@settings(max_examples=40, deadline=None)
@given(
    num_examples=st.integers(1, 70),
    batch=st.integers(1, 20),
    steps=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_each_epoch_sees_each_example_once(num_examples: int, batch: int, steps: int, seed: int) -> None:
    hyper = Hyperparameters(seed=seed, global_batch_size=batch)
    batches = list(data.global_batches(num_examples, hyper, steps))
    assert [len(b) for b in batches] == [batch] * steps
    stream = np.concatenate(batches)
    for start in range(0, len(stream) - num_examples + 1, num_examples):
        assert sorted(stream[start : start + num_examples]) == list(range(num_examples))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 9), min_size=8, max_size=8),
    micro=st.sampled_from([1, 2, 4]),
    ranks=st.sampled_from([1, 2]),
)
def test_micro_batches_share_out_the_global_batch(lengths: list[int], micro: int, ranks: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.int32)
    dataset = data.TokenDataset(tokens, np.ones(len(tokens), dtype=np.bool_), offsets, 0)
    batch = np.arange(8)[::-1].copy()
    shares = [data.micro_batches(dataset, batch, micro, rank, ranks) for rank in range(ranks)]
    assert {len(share) for share in shares} == {8 // micro // ranks}
    assert sorted(int(i) for share in shares for cut in share for i in cut) == list(range(8))
    assert data.num_target_tokens(dataset, batch) == sum(lengths) - 8


def test_collate_pads_right_and_masks() -> None:
    offsets = np.array([0, 2, 5])
    tokens = np.array([7, 8, 1, 2, 3], dtype=np.int32)
    target = np.array([False, True, False, False, True])
    input_ids, labels = data.collate(data.TokenDataset(tokens, target, offsets, 0), np.array([0, 1]), 9)
    assert input_ids.tolist() == [[7, 8, 9], [1, 2, 3]]
    assert labels.tolist() == [[-100, 8, -100], [-100, -100, 3]]
