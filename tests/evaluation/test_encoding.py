"""Prompts and answers as tokens: what the tokenizer makes of both together, or a refusal."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluation.encoding import Query, encode
from study.errors import JobError
from tests.evaluation.tiny import make_tokenizer


def make_line_breaks() -> PreTrainedTokenizerFast:
    """Two line breaks are one token, as in most vocabularies."""
    vocabulary = make_tokenizer().backend_tokenizer.get_vocab()
    glued = Tokenizer(models.BPE(vocab={**vocabulary, "ĊĊ": len(vocabulary)}, merges=[("Ċ", "Ċ")]))
    glued.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(tokenizer_object=glued)


@pytest.mark.parametrize("answers", [("A", "\nB"), ("\nB", "A")])
def test_an_answer_that_joins_the_line_break_before_it_is_refused(answers: tuple[str, ...]) -> None:
    """A chat's turn may end in a line break, and an option's text begin with one."""
    with pytest.raises(JobError, match="item 'q': an answer's tokens do not simply follow"):
        encode(make_line_breaks(), [Query("q", "<user>?\n<assistant>\n", answers)])


def test_answers_behind_a_line_break_are_those_of_the_whole_text() -> None:
    tokenizer = make_line_breaks()
    context, answers = "<user>?\n\n<assistant>\n", ("A", "b\n\nc", " d")
    (encoded,) = encode(tokenizer, [Query("q", context, answers)])
    for answer, ids in zip(answers, encoded.answers, strict=True):
        assert encoded.context + ids == tokenizer(context + answer)["input_ids"]
