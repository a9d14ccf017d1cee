"""Which token sequences begin alike, so that what they share goes through the model once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Shared(NamedTuple):
    """members: indices of sequences whose first `length` tokens are the same; length 0: nothing shared."""

    members: list[int]
    length: int


class _Run(NamedTuple):
    """Neighbours in sorted order, begin to end (excluded); the most tokens that can be saved, and how."""

    begin: int
    end: int
    saved: int
    shared: list[tuple[int, int, int]]


def shared_prefixes(sequences: Sequence[list[int]], *, cost: int) -> list[Shared]:
    """Groups of sequences, every index in one of them, such that most tokens are saved.

    A prefix of P tokens under n sequences saves (n - 1) P tokens and costs `cost` tokens, those of a pass of
    its own. At least one token of each sequence stays out of the prefix: something has to be predicted from.
    Sequences that share nothing worth it come last, as one group of length 0.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    # alike[k]: what the neighbours k and k + 1 may share; a run shares the least of what its neighbours do
    pairs = pairwise(order)
    alike = [_begin_alike(sequences[a], sequences[b]) for a, b in pairs]
    # joined from the most alike on, so that the neighbours joined last share the least, and a run so much
    of_place = {place: _Run(place, place + 1, 0, []) for place in range(len(order))}  # at both ends of a run
    for k in sorted(range(len(alike)), key=lambda k: -alike[k]):
        left, right = of_place[k], of_place[k + 1]
        begin, end = left.begin, right.end
        together = (end - begin - 1) * alike[k] - cost
        if together > left.saved + right.saved:
            run = _Run(begin, end, together, [(begin, end, alike[k])])
        else:
            run = _Run(begin, end, left.saved + right.saved, left.shared + right.shared)
        of_place[begin] = of_place[end - 1] = run
    shared = of_place[0].shared if order else []
    groups = [Shared(order[begin:end], length) for begin, end, length in shared]
    taken = {i for group in groups for i in group.members}
    rest = [i for i in range(len(sequences)) if i not in taken]
    return [*groups, Shared(rest, 0)] if rest else groups


def _begin_alike(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens at the beginning of both, not counting the last of either."""
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), max(0, limit))
