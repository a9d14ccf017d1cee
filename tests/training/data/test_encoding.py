"""training/data/encoding.py: which tokens the loss is taken on."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.training.toys import FIXTURES, KINDS, fixture, toy_tokenizer
from training.data.encoding import Example, encoder
from training.data.messages import Message, Rendered, messages_of, renderer
from training.data.wordlevel import build_tokenizer

HELLO = [Message("user", "Hello"), Message("assistant", "Hi"), *[Message("user", "Bye")] * 2]


def encode(tokenizer: PreTrainedTokenizerBase, text: Rendered, most: int = 10_000) -> Example | None:
    (example,) = encoder(tokenizer, most)([text])
    return example


def example(tokenizer: PreTrainedTokenizerBase, text: Rendered, most: int = 10_000) -> Example:
    actual = encode(tokenizer, text, most)
    assert actual is not None
    return actual


def words(tokenizer: PreTrainedTokenizerBase, actual: Example) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(actual.ids.tolist()))


def test_tokens_and_targets_by_hand() -> None:
    tokenizer = build_tokenizer(["Mali", "Peru"], ["Which letter Answer: A B"])
    row = {"instruction": "Which letter?", "input": "A. Mali\nB. Peru", "output": "B"}
    actual = example(tokenizer, renderer("plain", tokenizer)(messages_of(row, "x"), "x"))
    assert words(tokenizer, actual) == "<s> Which letter A Mali B Peru Answer B </s>".split()
    assert actual.is_target.tolist() == [False] * 8 + [True, True]
    assert (str(actual.ids.dtype), str(actual.is_target.dtype), actual.is_cut) == ("int32", "bool", False)


@pytest.mark.parametrize("kind", ["metaspace", "llama_2"])
def test_no_space_before_an_answer_that_the_text_does_not_have(kind: str) -> None:
    tokenizer = toy_tokenizer(kind)
    actual = example(tokenizer, renderer("tulu", tokenizer)(HELLO, "x"))
    answer = [word for word, target in zip(words(tokenizer, actual), actual.is_target, strict=True) if target]
    assert answer == ["H", "i", "</s>"]
    # so it is when the answer alone is tokenised
    assert tokenizer.tokenize("Hi</s>") == ["▁H", "i", "</s>"]


@pytest.mark.parametrize("template", ["tulu", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_trained_behind_the_prompts_it_is_given(kind: str, template: str) -> None:
    """The tokens before an answer are those of the prompt alone, and the answer's say the answer."""
    tokenizer = toy_tokenizer(kind)
    render = renderer(template, tokenizer)
    checked = 0
    for name in FIXTURES:
        for row in fixture(name):
            text = render(messages_of(row, "x"), "x")
            if not text.spans or (kind == "llama_2" and template == "plain"):
                continue  # (this toy has tokens that straddle ": ", see below)
            actual = example(tokenizer, text)
            begin, _ = text.spans[0]
            first = int(np.flatnonzero(actual.is_target)[0])
            assert actual.ids[:first].tolist() == tokenizer(text.text[:begin])["input_ids"]
            said = str(tokenizer.decode(actual.ids[actual.is_target]))
            if kind == "byte_level":  # which alone gives back every text
                assert said == "".join(text.text[begin:end] for begin, end in text.spans)
            assert said.endswith("</s>")
            checked += 1
    assert checked >= 25 or kind == "llama_2"


def test_a_token_that_straddles_the_beginning_of_an_answer_is_no_target() -> None:
    """Here ":" and " " are one token: the model is given "Answer:", and never asked for it."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *"QB?A:\n ", ": "])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[(":", " ")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    actual = example(tokenizer, Rendered("Q?\nA: B</s>", [(5, 11)]))  # " B</s>"
    assert words(tokenizer, actual) == ["Q", "?", "\n", "A", ": ", "B", "</s>"]
    assert actual.is_target.tolist() == [False] * 5 + [True, True]
    # one that straddles its end begins inside
    actual = example(tokenizer, Rendered("QB: A", [(1, 3)]))  # "B:"
    assert words(tokenizer, actual) == ["Q", "B", ": "]
    assert actual.is_target.tolist() == [False, True, True]


def test_the_beginning_of_a_sequence_comes_once() -> None:
    tokenizer = toy_tokenizer("byte_level")
    bare = example(tokenizer, Rendered("U: x\nA:\nHi</s>", [(8, 14)]))
    written = example(tokenizer, Rendered("<s>U: x\nA:\nHi</s>", [(11, 17)]))
    assert words(tokenizer, bare)[0] == "<s>"
    assert bare.ids.tolist() == written.ids.tolist()
    assert bare.is_target.tolist() == written.is_target.tolist()
    assert tokenizer.decode(bare.ids[bare.is_target]) == "Hi</s>"


def test_special_tokens_spelled_out_are_those_tokens_and_change_no_mask() -> None:
    tokenizer = toy_tokenizer("byte_level")
    talk = [Message("user", "What is </s>?"), Message("assistant", "An end.")]
    actual = example(tokenizer, renderer("tulu", tokenizer)(talk, "x"))
    assert (actual.ids == tokenizer.eos_token_id).sum() == 2
    assert tokenizer.decode(actual.ids[actual.is_target]) == "An end.</s>"


def test_what_others_asked_of_the_tokenizer_changes_nothing() -> None:
    tokenizer = toy_tokenizer("byte_level")
    text = renderer("tulu", tokenizer)(HELLO, "x")
    want = example(tokenizer, text)
    encode = encoder(tokenizer, 10_000)
    tokenizer(text.text, truncation=True, max_length=4, split_special_tokens=True)
    (actual,) = encode([text])
    assert actual is not None
    assert actual.ids.tolist() == want.ids.tolist()


def test_what_is_behind_the_last_answer_is_left_out() -> None:
    tokenizer = toy_tokenizer("byte_level")
    actual = example(tokenizer, renderer("tulu", tokenizer)(HELLO, "x"))
    assert tokenizer.decode(actual.ids) == "<s><|user|>\nHello\n<|assistant|>\nHi</s>"


def test_texts_that_are_too_long() -> None:
    tokenizer = build_tokenizer([], ["one two three"])
    text = Rendered("one two three one</s>two one two</s>", [(13, 21), (25, 36)])
    assert words(tokenizer, example(tokenizer, text)) == "<s> one two three one </s> two one two </s>".split()
    for most, size, is_cut in [(10, 10, False), (9, 9, True), (8, 8, True), (7, 6, True), (5, 5, True)]:
        actual = example(tokenizer, text, most)
        assert (len(actual.ids), actual.is_cut) == (size, is_cut)
    assert encode(tokenizer, text, 4) is None
    # no target is lost when what is behind the last one is
    assert not example(tokenizer, Rendered("one two</s> three", [(4, 11)]), 4).is_cut
    assert encode(tokenizer, Rendered("one two", [])) is None
    # nothing predicts the first token
    tokenizer.backend_tokenizer.post_processor = None
    assert encode(tokenizer, Rendered("one", [(0, 3)])) is None
