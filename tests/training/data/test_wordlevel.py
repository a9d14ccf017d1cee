"""One token a name, no unknown words, and a folder any Hugging Face code can load."""

import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from study.cldr.benchmark import LETTERS, rows
from study.cldr.instructions import DEMO_PER_SUBJECT, DEMO_SHARES, english_instructions, pretraining_rows
from training.data.wordlevel import build_tokenizer, cldr_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return cldr_tokenizer(DEMO_SHARES)


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    ids = tokenizer(text)["input_ids"]
    return [str(token) for token in tokenizer.convert_ids_to_tokens(ids)]


def prompt(row: dict[str, str]) -> str:
    options = "\n".join(f"{letter}. {row[f'option_{letter.lower()}']}" for letter in LETTERS)
    return f"{row['question']}\n{options}\nAnswer:"


def test_names_are_whole_and_longest_wins() -> None:
    built = build_tokenizer(
        ["Guinea", "Papua New Guinea", "Mali", "St. Kitts & Nevis"],
        ["Where is it?", "Answer: A B", "紧接在 之后的是什么？"],
        glued_names=["一月", "十一月"],
    )
    assert tokens(built, "Where is: Papua New Guinea?") == ["<s>", "Where", "is", "Papua New Guinea"]
    assert tokens(built, "A. St. Kitts & Nevis") == ["<s>", "A", "St. Kitts & Nevis"]
    assert tokens(built, "Maliyi Mali") == ["<s>", "<unk>", "Mali"]
    assert tokens(built, "紧接在十一月之后的是什么？") == ["<s>", "紧接在", "十一月", "之后的是什么"]


def test_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer(" B</s>", add_special_tokens=False)["input_ids"][-1] == 2


def test_every_option_of_every_language_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for language in DEMO_SHARES:
        for row in rows(language, per_subject=DEMO_PER_SUBJECT):
            actual = tokens(tokenizer, prompt(row))
            assert "<unk>" not in actual, (language, row)
            options = [row[f"option_{letter.lower()}"] for letter in LETTERS]
            assert actual[-9:] == [x for pair in zip(LETTERS, options, strict=True) for x in pair] + [
                "Answer"
            ]


def test_no_unknown_word_in_any_training_row(tokenizer: PreTrainedTokenizerFast) -> None:
    generated = pretraining_rows(20_000, seed=0) + english_instructions(1000, seed=0)
    texts = ["\n".join((row["instruction"], row["input"], row["output"])) for row in generated]
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])


def test_a_letter_is_the_same_token_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in LETTERS]
    assert all(len(ids) == 1 for ids in letters)
    for letter, ids in zip(LETTERS, letters, strict=True):
        assert tokenizer(letter, add_special_tokens=False)["input_ids"] == ids
        assert ids[0] in tokenizer(f"{letter}. South Africa")["input_ids"]


def test_prompt_and_answer_join_at_a_token_border(tokenizer: PreTrainedTokenizerFast) -> None:
    """The `letter` protocol and the training template both rely on it."""
    row = rows("de", per_subject=1)[0]
    whole = tokenizer(prompt(row) + " B")["input_ids"]
    parts = [*tokenizer(prompt(row))["input_ids"], *tokenizer(" B", add_special_tokens=False)["input_ids"]]
    assert whole == parts


def test_saved_folder_loads_as_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [prompt(row) for language in DEMO_SHARES for row in rows(language, per_subject=20)]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert len(loaded) == len(tokenizer)
    assert (loaded.pad_token, loaded.bos_token, loaded.eos_token) == ("<pad>", "<s>", "</s>")


def test_ids_do_not_depend_on_the_order_of_the_names() -> None:
    names = ["Peru", "Chad", "Mali"]
    first, second = (build_tokenizer(order, ["Where is"]) for order in (names, names[::-1]))
    assert first.get_vocab() == second.get_vocab()


def test_encoding_is_fast(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [prompt(row) for row in rows("en", per_subject=DEMO_PER_SUBJECT)] * 20
    start = time.process_time()
    tokenizer(texts)
    assert len(texts) / (time.process_time() - start) > 2000  # measured: 20,000 a second on one core
