"""Intervals and tests on models with a known calibration: a reduced set of `python -m tests.bench.inference`.

Seeds are fixed, so a line is the same on every machine; bounds leave three Monte-Carlo errors.
"""

from __future__ import annotations

import math

import pytest

from tests.analysis.inference.worlds import Model
from tests.bench.inference import CHANGES, Covered, changes, coverage, floor, seeds

pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.slow


def bounds(low: float, high: float, number: int) -> tuple[float, float]:
    """Wider by three Monte-Carlo errors of a share near .95 or .05."""
    room = 3.0 * math.sqrt(0.05 * 0.95 / number)
    return low - room, min(high + room, 1.0)


def assert_covers(line: Covered, low: float, high: float, number: int) -> None:
    low, high = bounds(low, high, number)
    assert low <= line.covered <= high, line


@pytest.mark.parametrize("num_languages", [1, 13])
@pytest.mark.parametrize(
    "model",
    [Model(), Model(slope=0.93), Model(slope=0.5), Model(is_crossing=True), Model(share=0.88)],
    ids=["calibrated", "slope .93", "slope .5", "crossing", "raw"],
)
def test_intervals_cover_the_truth(model: Model, num_languages: int) -> None:
    number = {1: 300, 13: 80}[num_languages]
    lines = coverage(model, num_languages, 500, number)
    for metric in ("accuracy", "gap", "auroc"):
        assert_covers(lines[metric], 0.93, 0.975, number)
    assert_covers(lines["ece_l2"], 0.93, 1.0, number)


def test_few_questions_are_still_covered() -> None:
    for line in coverage(Model(slope=0.85), 1, 100, 300).values():
        assert_covers(line, 0.90, 1.0, 300)


@pytest.mark.parametrize("name", ["both calibrated", "both crossing", "equal error, opposite direction"])
def test_no_change_of_the_calibration_error_is_rarely_found(name: str) -> None:
    """Two models that err alike, also where one is over-confident and the other under-confident."""
    lines = changes(CHANGES[name], 13, 500, 80)
    assert lines["ece_l2"].rejected <= bounds(0.0, 0.07, 80)[1]
    assert lines["ece_l2"].covered >= bounds(0.93, 1.0, 80)[0]
    for metric in ("accuracy", "auroc"):
        assert lines[metric].rejected <= bounds(0.0, 0.07, 80)[1]


def test_what_training_did_is_not_understated() -> None:
    """A calibrated base and an SFT with slope .80; the plug-in ECE finds about half of it."""
    line = changes(CHANGES["calibrated against slope .80"], 13, 500, 120)["ece_l2"]
    assert line.mean == pytest.approx(line.truth, rel=0.1)
    assert line.rejected >= 0.5
    assert line.relative_width <= 1.5


def test_three_seeds_a_side() -> None:
    for shared, paired in ((0.0, False), (0.7, True)):
        nothing = seeds(3, 0.0, shared, 400, paired=paired)
        assert nothing.rejected <= bounds(0.0, 0.07, 400)[1]
        # of three standard deviations of a side's seeds, or of a pair's difference
        assert seeds(3, 3.0, shared, 400, paired=paired).rejected >= 0.6
    with_luck = seeds(3, 0.0, 0.7, 400, luck=0.4)
    lowest, highest = bounds(0.03, 0.07, 400)
    assert lowest <= with_luck.rejected <= highest


def test_the_micro_floor_knows_that_languages_answer_alike() -> None:
    ece, shown = floor(13, 400, 150)
    assert shown == pytest.approx(ece, rel=0.1)
    alone, of_one = floor(1, 400, 300)
    assert of_one == pytest.approx(alone, rel=0.05)
