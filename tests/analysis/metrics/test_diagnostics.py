"""Diagnostics: by hand, against SciPy, and over real items tables."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import metrics
from analysis.metrics import diagnostics
from evaluation.items.item import Item
from evaluation.items.table import items_table
from study.languages import LANGUAGES

stats = pytest.importorskip("scipy.stats")


def test_a_change_of_the_gap_is_that_of_its_two_means() -> None:
    before, after = ([0.5, 0.7], [1, 0]), ([0.9, 0.9], [1, 1])
    change = diagnostics.decompose_change(before, after, metrics.confidence_gap)
    assert change.from_confidence == pytest.approx(0.3)
    assert change.from_accuracy == pytest.approx(-0.5)
    assert change.total == pytest.approx(-0.2)


def test_a_change_of_the_ece_by_hand() -> None:
    """One bin: |0.5 - 0.95| then |0.75 - 0.99|; the two other corners are |0.5 - 0.99| and |0.75 - 0.95|."""
    before, after = ([0.95] * 4, [1, 1, 0, 0]), ([0.99] * 4, [1, 1, 1, 0])
    change = diagnostics.decompose_change(before, after)
    assert change.total == pytest.approx(0.24 - 0.45)
    assert change.from_confidence == pytest.approx(((0.49 - 0.45) + (0.24 - 0.20)) / 2)
    assert change.from_accuracy == pytest.approx(((0.20 - 0.45) + (0.24 - 0.49)) / 2)


answers = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=5, max_size=5)


def columns(pairs: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [c for c, _ in pairs], [y for _, y in pairs]


@given(answers, answers)
def test_the_parts_add_up_and_turn_with_time(a: list[tuple[float, int]], b: list[tuple[float, int]]) -> None:
    before, after = columns(a), columns(b)
    there = diagnostics.decompose_change(before, after)
    back = diagnostics.decompose_change(after, before)
    assert there.from_confidence + there.from_accuracy == pytest.approx(there.total, abs=1e-12)
    assert back.from_confidence == pytest.approx(-there.from_confidence, abs=1e-12)
    only = diagnostics.decompose_change(before, (after[0], before[1]))
    assert only.from_accuracy == pytest.approx(0.0, abs=1e-12)


def test_other_examples_raise() -> None:
    with pytest.raises(ValueError, match="before has 1"):
        diagnostics.decompose_change(([0.5], [1]), ([0.5, 0.5], [1, 0]))


def test_position_bias_by_hand() -> None:
    bias = diagnostics.position_bias([0, 0, 0, 1], [0, 1, 1, 1], num_positions=3)
    assert bias.predicted == pytest.approx([0.75, 0.25, 0.0])
    assert bias.labelled == pytest.approx([0.25, 0.75, 0.0])
    assert bias.recall == pytest.approx([1.0, 1 / 3, math.nan], nan_ok=True)
    assert bias.distance == pytest.approx(0.5)
    assert bias.recall_deviation == pytest.approx(1 / 3)
    for bad in ([0, 3], [-1, 0], [0.0, 1.0], [], [[0]]):
        with pytest.raises(ValueError, match="predicted"):
            diagnostics.position_bias(bad, [0, 1], num_positions=3)
    with pytest.raises(ValueError, match="1 examples"):
        diagnostics.position_bias([0], [0, 1], num_positions=3)


def test_option_mass() -> None:
    mass = diagnostics.option_mass([0.1, 0.4, 0.5, 0.8, 1.0])
    assert mass.mean == pytest.approx(0.56)
    assert mass.share_below_half == pytest.approx(0.4)
    assert mass.low == pytest.approx(0.22)
    with pytest.raises(ValueError, match="NaN"):
        diagnostics.option_mass([0.1, math.nan])


def test_token_premium_matches_by_id() -> None:
    assert diagnostics.token_premium([30, 10], ["b", "a"], [5, 15], ["a", "b"]) == pytest.approx(2.0)
    for ids, english in ((["a", "a"], ["a", "b"]), (["a", "c"], ["a", "b"]), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="token_premium"):
            diagnostics.token_premium([30, 10], ids, [5, 15], english)
    with pytest.raises(ValueError, match="at least 1"):
        diagnostics.token_premium([0, 10], ["a", "b"], [5, 15], ["a", "b"])


def items() -> pa.Table:
    rows = [
        Item(str(k), subject, "Why?", ("x", "y"), 0, cultural_sensitivity=sensitivity)
        for k, (subject, sensitivity) in enumerate(
            [("law", "CS"), ("art", None), ("law", "CA"), ("art", "CA")]
        )
    ]
    return items_table(rows)


def test_slices() -> None:
    table = items()
    slices = diagnostics.slice_rows(["3", "0", "1", "2", "0"], table, "cultural_sensitivity")
    assert {name: list(rows) for name, rows in slices.items()} == {"CA": [0, 3], "CS": [1, 4]}
    subjects = diagnostics.slice_rows(["3", "0"], table, "subject")
    assert {name: list(rows) for name, rows in subjects.items()} == {"art": [0], "law": [1]}
    with pytest.raises(ValueError, match="no item '9'"):
        diagnostics.slice_rows(["9"], table, "subject")
    for column in ("num_options", "colour"):
        with pytest.raises(ValueError, match="no text column"):
            diagnostics.slice_rows(["0"], table, column)
    with pytest.raises(ValueError, match="twice"):
        diagnostics.slice_rows(["0"], pa.concat_tables([table, table]), "subject")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=4, max_size=30), st.integers(0, 9))
def test_spearman_is_scipys(pairs: list[tuple[int, int]], seed: int) -> None:
    x, y = zip(*pairs, strict=True)
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ValueError, match="all equal"):
            diagnostics.spearman(x, y)
        return
    theirs = stats.spearmanr(x, y)
    ours = diagnostics.spearman(x, y, seed=seed)
    assert ours.rho == pytest.approx(theirs.statistic, abs=1e-12)
    assert 0.0 < ours.p_value <= 1.0
    if len(x) >= 20:
        assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.04)


def test_correlation_with_resource_class() -> None:
    codes = ["ig", "sw", "id", "cs", "en"]
    assert [LANGUAGES[code].joshi for code in codes] == sorted(LANGUAGES[code].joshi for code in codes)
    falling = dict(zip(codes, [0.5, 0.4, 0.3, 0.2, 0.1], strict=True))
    result = diagnostics.resource_correlation(falling)
    assert result.num_languages == 5
    assert result.rho < -0.95
    assert result.p_value == pytest.approx(1 / 60, abs=0.02)
    with pytest.raises(ValueError, match="NaN"):
        diagnostics.resource_correlation({**falling, "fr": math.nan})
    with pytest.raises(ValueError, match="xx is not"):
        diagnostics.resource_correlation({**falling, "xx": 0.1})
    with pytest.raises(ValueError, match="at least 4"):
        diagnostics.resource_correlation({"en": 0.1})


def test_by_translation() -> None:
    values = {"en": 0.1, "am": 0.2, "bn": 0.3, "ar": 0.5, "af": 9.0, "xx": 9.0}
    result = diagnostics.by_translation(values)
    assert {kind: number for kind, (_, number) in result.items()} == {"B": 1, "H": 2, "orig": 1}
    assert [mean for mean, _ in result.values()] == pytest.approx([0.2, 0.4, 0.1])
