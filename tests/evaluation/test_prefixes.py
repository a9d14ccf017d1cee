"""Shared prefixes against every single group that could be made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hypothesis import example, given
from hypothesis import strategies as st

from evaluation.prefixes import Group, shared_prefixes

SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), max_size=7)


def saved(groups: Sequence[Group], cost: int) -> int:
    return sum((len(g.members) - 1) * g.length - cost for g in groups if g.length)


def best_group(sequences: list[list[int]], cost: int) -> int:
    """What the best single group of neighbours, in sorted order, saves."""
    ordered = sorted(sequences)
    best = 0
    for begin, end in combinations(range(len(ordered) + 1), 2):
        run = ordered[begin:end]
        alike = 0
        while alike < min(map(len, run)) - 1 and len({s[alike] for s in run}) == 1:
            alike += 1
        best = max(best, (len(run) - 1) * alike - cost)
    return best


@given(sequences=SEQUENCES, cost=st.integers(1, 6))
def test_groups_are_sound(sequences: list[list[int]], cost: int) -> None:
    groups = shared_prefixes(sequences, cost=cost)
    assert sorted(i for group in groups for i in group.members) == list(range(len(sequences)))
    for members, length in groups:
        assert len({tuple(sequences[i][:length]) for i in members}) == 1
        assert all(len(sequences[i]) > length for i in members), "nothing would be left to predict from"


@given(sequences=SEQUENCES, cost=st.integers(1, 6))
@example(sequences=[[0, 0], [0, 0], [0, 0, 0], [0] * 5, [0] * 5], cost=1)
def test_no_single_group_saves_more(sequences: list[list[int]], cost: int) -> None:
    assert saved(shared_prefixes(sequences, cost=cost), cost) >= best_group(sequences, cost)


def test_two_subjects_with_shots_of_their_own() -> None:
    common, first, second = [1, 1], [2] * 30, [3] * 40
    sequences = [[*common, *shots, i] for i in range(9, 12) for shots in (first, second)]
    groups = {(tuple(sorted(g.members)), g.length) for g in shared_prefixes(sequences, cost=10)}
    assert groups == {((0, 2, 4), 32), ((1, 3, 5), 42)}


def test_a_saving_below_the_cost_of_a_pass_is_none() -> None:
    assert shared_prefixes([[1, 2, 3], [1, 2, 4]], cost=2) == [Group([0, 1], 0)]
    assert shared_prefixes([[1, 2, 3], [1, 2, 4]], cost=1) == [Group([0, 1], 2)]
    assert shared_prefixes([], cost=1) == []
