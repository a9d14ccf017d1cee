"""Items asked once for every rotation of their options: one example each, by hand and by plain Python."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.reading.loading import load_study
from analysis.reading.measure import measure
from analysis.reading.scored import per_example, read_scored
from analysis.reading.shards import Metrics
from evaluation.items.item import Item
from evaluation.prompts import rotated
from study.records import COLUMNS, Prediction
from tests.analysis.results.test_aggregate import by_hand, value_of
from tests.analysis.studies import StudyFolder, letter

pa = pytest.importorskip("pyarrow")


def records(rows: list[Prediction]) -> object:
    return pa.Table.from_pylist([vars(row) for row in rows], schema=COLUMNS)


def measured(rows: list[Prediction]) -> Metrics:
    scored = read_scored(records(rows), "letter")
    return measure(scored, per_example(scored))[0]


def asked(number: int, label: int, shown: list[list[float]]) -> list[Prediction]:
    """An item with its right option and, for each rotation, the probabilities of the options as shown."""
    size = len(shown)
    return [
        replace(letter(p, (label - r) % size, number), rotation=r, option_mass=sum(p))
        for r, p in enumerate(shown)
    ]


def test_by_hand() -> None:
    # options a, b, c; b is right. Shown are abc, bca, cab, and the model likes the first place:
    rows = asked(0, 1, [[0.5, 0.3, 0.1], [0.6, 0.2, 0.1], [0.3, 0.2, 0.4]])
    # a: .5, .1, .2   b: .3, .6, .4   c: .1, .2, .3
    mean = [0.8 / 3, 1.3 / 3, 0.6 / 3]
    values = measured(rows)
    assert (values.n, values["accuracy"]) == (1, 1.0)
    assert values["chance"] == pytest.approx(1 / 3)
    assert values["confidence_raw"] == pytest.approx(1.3 / 3, abs=1e-7)
    assert values["option_mass"] == pytest.approx(0.9, abs=1e-7)
    assert values["confidence_renormalised"] == pytest.approx(1.3 / 2.7, abs=1e-7)
    assert values["nll"] == pytest.approx(-math.log(mean[1] / sum(mean)), abs=1e-7)
    assert values["brier"] == pytest.approx((0.8 / 2.7) ** 2 + (1.4 / 2.7) ** 2 + (0.6 / 2.7) ** 2, abs=1e-7)


def test_a_model_that_only_knows_places_is_at_chance() -> None:
    """It is sure of A whatever A says: over the rotations each option gets the same."""
    values = measured(asked(0, 2, [[0.97, 0.01, 0.01, 0.01]] * 4))
    assert values["confidence_renormalised"] == pytest.approx(0.25)
    assert values["nll"] == pytest.approx(math.log(4))


@given(st.integers(0, 2**32), st.lists(st.integers(2, 10), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_against_plain_python(seed: int, sizes: list[int]) -> None:
    """Truth: what each option got, by its text, from items that evaluation itself rotated."""
    rng = random.Random(seed)
    rows, whole = [], []
    for number, size in enumerate(sizes):
        item = Item(f"item-{number}", "s", "?", tuple("abcdefghij"[:size]), rng.randrange(size))
        got: dict[str, list[float]] = {option: [] for option in item.options}
        for r in range(size):
            shown = rotated(item, r)
            weights = [math.exp(rng.gauss(0, 3)) for _ in range(size)]
            p = [0.9 * w / sum(weights) for w in weights]
            rows.append(replace(letter(p, shown.label, number), rotation=r))
            for option, value in zip(shown.options, p, strict=True):
                got[option].append(value)
        mean = [math.fsum(got[option]) / size for option in item.options]
        whole.append(letter(mean, item.label, number))
    rng.shuffle(rows)
    values = measured(rows)
    for name, value in by_hand(whole).items():
        if name.startswith("auroc") and math.isnan(value):
            assert values.values[name] is None
        elif not name.startswith("ece"):  # float32 scores may put a confidence on the other side of an edge
            assert value_of(values, name) == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_rare_options_keep_their_scores() -> None:
    """exp(-2000) is 0 in float64: the mean of logs is taken around the highest."""
    rows = [
        Prediction("a", "s", label, scores, 1.0, None, r, 9)
        for r, label, scores in ((0, 0, [-2000.0, -2001.0]), (1, 1, [-2001.0, -2000.0]))
    ]
    values = measured(rows)
    assert values["nll"] == pytest.approx(math.log(1 + math.exp(-1)))
    assert values["accuracy"] == 1.0


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_rotation_raises(lost: int) -> None:
    rows = asked(0, 1, [[0.5, 0.3, 0.1]] * 3) + asked(1, 1, [[0.5, 0.3, 0.1]] * 3)
    del rows[3 + lost]
    with pytest.raises(ValueError, match="'item-1' does not have each rotation of its options once"):
        measured(rows)


def test_a_doubled_or_impossible_rotation_raises() -> None:
    rows = asked(0, 1, [[0.5, 0.3, 0.1]] * 3)
    for wrong in (1, 3, -1):
        with pytest.raises(ValueError, match="'item-0' does not have each rotation"):
            measured([*rows[:2], replace(rows[2], rotation=wrong)])


def test_another_right_option_raises() -> None:
    rows = asked(0, 1, [[0.5, 0.3, 0.1]] * 3)
    with pytest.raises(ValueError, match="'item-0' has another right option"):
        measured([*rows[:2], replace(rows[2], label=0)])


def test_another_number_of_options_raises() -> None:
    rows = asked(0, 1, [[0.5, 0.3, 0.1]] * 3)
    with pytest.raises(ValueError, match="'item-0' does not have each rotation"):
        measured([rows[0], rows[1], replace(letter([0.5, 0.3], 0, 0), rotation=2)])


def test_option_text_is_never_rotated() -> None:
    rows = [Prediction("a", "s", r, [-1.0, -2.0], None, [1, 1], r, 9) for r in (0, 1)]
    with pytest.raises(ValueError, match="option_text"):
        read_scored(records(rows), "option_text")


def test_a_study_counts_items(folder: StudyFolder) -> None:
    rows = [row for i in range(5) for row in asked(i, i % 3, [[0.5, 0.3, 0.1]] * 3)]
    folder.add({"model": "m"}, "en", rows)
    folder.jobs[0]["spec"]["prompting"] = {"option_order": "cyclic"}
    folder.write_plan()
    (shard,) = load_study(folder.root).shards
    assert shard.metrics is not None
    assert shard.metrics.n == 5
    folder.jobs[0]["spec"]["prompting"] = {"option_order": "original"}
    folder.write_plan()
    (shard,) = load_study(folder.root).shards
    assert shard.metrics is None
    assert "in cyclic order, planned otherwise" in str(shard.missing)


def test_a_study_without_the_rotations_it_planned_is_refused(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", [letter([0.5, 0.3, 0.1], 0)])
    folder.jobs[0]["spec"]["prompting"] = {"option_order": "cyclic"}
    folder.write_plan()
    (shard,) = load_study(folder.root).shards
    assert "in original order, planned otherwise" in str(shard.missing)
