"""Group token sequences by common prefix, so that a prefix goes through the model once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Group(NamedTuple):
    """members: indices of sequences that share their first `length` tokens; length 0: nothing is shared."""

    members: list[int]
    length: int


class _Span(NamedTuple):
    """Neighbours in sorted order, from begin to end (excluded).

    saved: the tokens that its groups save. groups: (begin, end, length).
    """

    begin: int
    end: int
    saved: int
    groups: list[tuple[int, int, int]]


def shared_prefixes(sequences: Sequence[list[int]], *, cost: int) -> list[Group]:
    """Groups of sequences, every index in exactly one, that save no less than the best single group.

    The most similar neighbours are joined first. That is not always the best cut: sequences that share little
    join the whole group beside them or no group, never just each other.
    A prefix of P tokens shared by n sequences saves (n - 1) P tokens and costs `cost` tokens for a separate
    pass. At least one token of each sequence stays outside the prefix: its hidden state predicts the answer.
    Sequences that share too little come last, as one group of length 0.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    # common[k]: length of the common prefix of neighbours k and k + 1; a span's is the least among them
    common = [_common_length(sequences[a], sequences[b]) for a, b in pairwise(order)]
    # join the most similar neighbours first: the last join of a span then has the span's common prefix
    spans = {place: _Span(place, place + 1, 0, []) for place in range(len(order))}  # by either end
    for k in sorted(range(len(common)), key=lambda k: -common[k]):
        left, right = spans[k], spans[k + 1]
        begin, end = left.begin, right.end
        together = (end - begin - 1) * common[k] - cost
        if together > left.saved + right.saved:
            span = _Span(begin, end, together, [(begin, end, common[k])])
        else:
            span = _Span(begin, end, left.saved + right.saved, left.groups + right.groups)
        spans[begin] = spans[end - 1] = span
    shared = spans[0].groups if order else []
    groups = [Group(order[begin:end], length) for begin, end, length in shared]
    members = {i for group in groups for i in group.members}
    rest = [i for i in range(len(sequences)) if i not in members]
    return [*groups, Group(rest, 0)] if rest else groups


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with, not counting the last token of either."""
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), max(0, limit))
