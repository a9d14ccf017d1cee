"""Prompts and their answers as tokens, checked: what is scored is what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from study.errors import JobError

NAMED = 3


class Query(NamedTuple):
    """name: for messages. context: the prompt. answers: what may follow it, as text, a space included where
    one comes between.
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
    """Tokens with the tokenizer's own special tokens: where it adds a BOS, that stays, as in lm-eval.

    An answer's tokens are those that it adds to its context. Raises JobError when a context has no tokens, an
    answer adds none, or one changes how its context is split.
    """
    contexts = token_ids(tokenizer, [query.context for query in queries])
    for query, context in zip(queries, contexts, strict=True):
        if not context:
            raise JobError(f"item '{query.name}': its prompt has no tokens")
    # A context may be a hundred times as long as its last line. All answers are encoded behind that line, and
    # one, as a check, behind the whole.
    firsts = [query.context + query.answers[0] for query in queries]
    wholes = token_ids(tokenizer, firsts)
    # with the line breaks it ends in: an answer that begins with one may make one token with them
    lines = [query.context[query.context.rstrip().rfind("\n") + 1 :] for query in queries]
    behind_line = _answers_behind(tokenizer, list(zip(lines, (q.answers for q in queries), strict=True)))
    encoded = []
    for query, context, whole, answers in zip(queries, contexts, wholes, behind_line, strict=True):
        if whole[: len(context)] != context or len(whole) == len(context):
            raise _not_following(query)
        if answers is None or answers[0] != whole[len(context) :]:
            # e.g. SentencePiece, which puts a space in front of every text: line by line is another text
            texts = token_ids(tokenizer, [query.context + answer for answer in query.answers])
            if any(ids[: len(context)] != context for ids in texts):
                raise _not_following(query)
            answers = [ids[len(context) :] for ids in texts]
        if not all(answers):
            raise _not_following(query)
        encoded.append(Encoded(context, answers))
    return encoded


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), padding=False, truncation=False)["input_ids"]]


def _not_following(query: Query) -> JobError:
    return JobError(
        f"item '{query.name}': an answer's tokens do not simply follow those of its prompt; take another "
        "scaffold or protocol"
    )


def _answers_behind(
    tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[str, tuple[str, ...]]]
) -> list[list[list[int]] | None]:
    """The tokens that answers add to a line; None where the line is split otherwise with one behind it.

    Each line and answer is encoded once: most items end alike, and letters are the same for all.
    """
    pairs = dict.fromkeys((line, answer) for line, answers in asked for answer in answers)
    of_line = dict.fromkeys(line for line, _ in asked)
    lines = dict(zip(of_line, token_ids(tokenizer, list(of_line)), strict=True))
    texts = token_ids(tokenizer, [line + answer for line, answer in pairs])
    added: dict[tuple[str, str], list[int] | None] = {}
    for (line, answer), ids in zip(pairs, texts, strict=True):
        head = lines[line]
        added[line, answer] = ids[len(head) :] if ids[: len(head)] == head else None
    found: list[list[list[int]] | None] = []
    for line, answers in asked:
        own = [added[line, answer] for answer in answers]
        found.append(None if any(ids is None for ids in own) else [ids for ids in own if ids is not None])
    return found


def require_letters(encoded: Sequence[Encoded], queries: Sequence[Query], unknown: int | None) -> None:
    """Raises JobError when a letter is more than one token, or two letters are the same one.

    unknown: the token of what the tokenizer does not know.
    """
    for one, query in zip(encoded, queries, strict=True):
        for answer, ids in zip(query.answers, one.answers, strict=True):
            if len(ids) != 1:
                raise JobError(f"'{answer}' is no token of its own (item '{query.name}'); use option_text")
        known = {ids[0] for ids in one.answers} - {unknown}
        if len(known) != len(one.answers):
            letters = "".join(query.answers).replace(" ", "")
            raise JobError(f"the tokenizer does not tell the letters {letters} apart; use option_text")


def fit(
    encoded: Sequence[Encoded],
    queries: Sequence[Query],
    limit: int | None,
    *,
    cut: bool,
    bos: int | None = None,
) -> list[Encoded]:
    """Queries that fit a model's context of `limit` tokens; None is no limit.

    cut: leave out the beginning of a context that is too long, but for a BOS, without which models fall
        apart. bos: its id.
    Raises JobError, with a count, when some are too long: without `cut`, or for their answers alone.
    """
    if limit is None:
        return list(encoded)
    fitting, too_long = [], []
    for one, query in zip(encoded, queries, strict=True):
        length = _length(one)
        over, kept = length - limit, int(one.context[0] == bos)
        if over <= 0:
            fitting.append(one)
        elif cut and over < len(one.context) - kept:
            fitting.append(Encoded(one.context[:kept] + one.context[kept + over :], one.answers, over))
        else:
            too_long.append((query.name, length))
    if too_long:
        context = f"the model's context of {limit} tokens"
        raise JobError(f"{_longer(too_long, context)}; give fewer shots, or evaluate.too_long: cut")
    return fitting


def require_one_embedding(encoded: Sequence[Encoded], queries: Sequence[Query], limit: int | None) -> None:
    """Raises JobError, with a count, when some queries exceed the `limit` tokens up to which a model keeps
    its rotary embedding: their scores, or those of their neighbours in a batch, would not be its own.
    """
    lengths = [(query.name, _length(one)) for one, query in zip(encoded, queries, strict=True)]
    longer = [(name, length) for name, length in lengths if limit is not None and length > limit]
    if longer:
        place = f"the {limit} tokens up to which the model keeps its rotary embedding (longrope)"
        raise JobError(f"{_longer(longer, place)}; longer ones are not handled: give fewer shots")


def _length(one: Encoded) -> int:
    # the last token of an answer is predicted and never read
    return len(one.context) + max(len(ids) for ids in one.answers) - 1


def _longer(longer: Sequence[tuple[str, int]], place: str) -> str:
    longest, names = max(length for _, length in longer), ", ".join(name for name, _ in longer[:NAMED])
    return f"{len(longer)} items are longer than {place} (the longest has {longest}): {names}"
