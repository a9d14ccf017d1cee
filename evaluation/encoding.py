"""Prompts and answers as tokens, checked so that exactly the written question is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from study.errors import JobError

MAX_NAMES = 3


class Query(NamedTuple):
    """name: for messages. context: the prompt. answers: texts that may follow it, each with the space that
    separates it from the prompt, if any.
    """

    name: str
    context: str
    answers: tuple[str, ...]


class Encoded(NamedTuple):
    """A query as token ids. num_cut: tokens left out at the beginning of the context."""

    context: list[int]
    answers: list[list[int]]
    num_cut: int = 0


def encode(tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]) -> list[Encoded]:
    """Tokens with the special tokens that the tokenizer adds; a BOS is kept, as in lm-eval.

    The tokens of an answer are those that it adds to its context. Raises JobError when a context has no
    tokens, or an answer adds none or changes how its context is split.
    """
    contexts = token_ids(tokenizer, [query.context for query in queries])
    for query, context in zip(queries, contexts, strict=True):
        if not context:
            raise JobError(f"item '{query.name}': its prompt has no tokens")
    # A context may be a hundred times as long as its last line. So all answers are encoded after that line,
    # each different text once, and the first answer also after the complete context, as a check.
    firsts = token_ids(tokenizer, [query.context + query.answers[0] for query in queries])
    # with trailing line breaks: an answer that begins with a line break may form one token with them
    lines = [query.context[query.context.rstrip().rfind("\n") + 1 :] for query in queries]
    pairs = zip(queries, lines, strict=True)
    texts = list(dict.fromkeys(line + answer for query, line in pairs for answer in ("", *query.answers)))
    ids_of = dict(zip(texts, token_ids(tokenizer, texts), strict=True))
    encoded = []
    for query, context, first, line in zip(queries, contexts, firsts, lines, strict=True):
        first_answer = _added(context, first)
        answers = [_added(ids_of[line], ids_of[line + answer]) for answer in query.answers]
        if first_answer and (None in answers or answers[0] != first_answer):
            # e.g. SentencePiece, which begins every text with a space: a line alone has other tokens
            complete = token_ids(tokenizer, [query.context + answer for answer in query.answers])
            answers = [_added(context, ids) for ids in complete]
        if not first_answer or not all(answers):
            raise JobError(
                f"item '{query.name}': an answer's tokens do not simply follow those of its prompt; take "
                "another scaffold or protocol"
            )
        encoded.append(Encoded(context, [ids for ids in answers if ids]))
    return encoded


def _added(context: list[int], ids: list[int]) -> list[int] | None:
    """The tokens that follow `context` in `ids`; None if the context is split differently there."""
    return ids[len(context) :] if ids[: len(context)] == context else None


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), padding=False, truncation=False)["input_ids"]]


def require_letters(encoded: Sequence[Encoded], queries: Sequence[Query], unknown: int | None) -> None:
    """Raises JobError when a letter is more than one token, or two letters are the same token.

    unknown: the tokenizer's token for unknown text, None without one.
    """
    for row, query in zip(encoded, queries, strict=True):
        for answer, ids in zip(query.answers, row.answers, strict=True):
            if len(ids) != 1:
                raise JobError(f"'{answer}' is not a single token (item '{query.name}'); use option_text")
        known = {ids[0] for ids in row.answers} - {unknown}
        if len(known) != len(row.answers):
            letters = "".join(query.answers).replace(" ", "")
            raise JobError(f"the tokenizer does not distinguish the letters {letters}; use option_text")


def fit(
    encoded: Sequence[Encoded],
    queries: Sequence[Query],
    limit: int | None,
    *,
    cut: bool,
    bos: int | None = None,
) -> list[Encoded]:
    """Make queries fit a model's context of `limit` tokens; None: no limit.

    cut: leave out the beginning of a context that is too long, except a BOS, without which models break down.
    bos: its id.
    Raises JobError, with a count, when queries are too long: without `cut`, or for their answers alone.
    """
    if limit is None:
        return list(encoded)
    fitting, too_long = [], []
    for row, query in zip(encoded, queries, strict=True):
        length = _length(row)
        over, kept = length - limit, int(row.context[0] == bos)
        if over <= 0:
            fitting.append(row)
        elif cut and over < len(row.context) - kept:
            fitting.append(Encoded(row.context[:kept] + row.context[kept + over :], row.answers, over))
        else:
            too_long.append((query.name, length))
    if too_long:
        context = f"the model's context of {limit} tokens"
        raise JobError(f"{_longer(too_long, context)}; give fewer shots, or evaluate.too_long: cut")
    return fitting


def require_one_embedding(encoded: Sequence[Encoded], queries: Sequence[Query], limit: int | None) -> None:
    """Raises JobError, with a count, when queries exceed the `limit` tokens up to which a model keeps its
    rotary embedding: their scores, or those of others in the batch, would not be the model's own.
    """
    lengths = [(query.name, _length(row)) for row, query in zip(encoded, queries, strict=True)]
    longer = [(name, length) for name, length in lengths if limit is not None and length > limit]
    if longer:
        place = f"the {limit} tokens up to which the model keeps its rotary embedding (longrope)"
        raise JobError(f"{_longer(longer, place)}; longer ones are not handled: give fewer shots")


def _length(row: Encoded) -> int:
    # the last token of an answer is predicted and never an input
    return len(row.context) + max(len(ids) for ids in row.answers) - 1


def _longer(longer: Sequence[tuple[str, int]], place: str) -> str:
    longest, names = max(length for _, length in longer), ", ".join(name for name, _ in longer[:MAX_NAMES])
    return f"{len(longer)} items are longer than {place} (the longest has {longest}): {names}"
