"""Differences between cells: what is set against what, and the numbers against rows repeated one by one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from analysis.inference.bootstrap import estimates, resample, sum_rows
from analysis.inference.changes import change
from analysis.inference.estimates import mean
from analysis.reading.headline import WITH_DIFFERENCES
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.results.contrasts import contrasts
from analysis.results.table import summarise
from analysis.tables.differences import table_rows
from tests.analysis.replicates import right_ones, stats, student, weights
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep

METRICS = [metric.name for metric in WITH_DIFFERENCES]
ECES = ("ece_raw", "ece_renormalised")
"""Their differences have no interval."""


def difference_rows(study: Study) -> list[SimpleNamespace]:
    return [SimpleNamespace(**fields) for fields in table_rows(study)]


def find(rows: list[SimpleNamespace], label: str, name: str, metric: str) -> SimpleNamespace:
    (row,) = (row for row in rows if (row.contrast, row.name, row.metric) == (label, name, metric))
    return row


def test_contrasts_of_a_setting(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None)
    folder.add({"model": "alone"}, "en", None)
    for rate in (1e-5, 5e-6):
        for smoothing in (0.1, 0.0, 0.2):
            cell = {"model": "m", "dataset": "d", "learning_rate": rate, "label_smoothing": smoothing}
            for seed in (0, 1):
                folder.add({**cell, "seed": seed}, "en", None)
    found = contrasts(load_study(folder.root))
    labels = [
        "SFT ε=0.1 - base",
        "SFT ε=0.1 - SFT ε=0",
        "SFT ε=0.2 - SFT ε=0",
        "SFT ε=0.2 - base",
    ]
    assert [contrast.label for contrast in found] == [
        *labels * 2,
        # then every other axis
        "alone - m",
        *(f"SFT lr=5e-06 ε={e} - SFT lr=1e-05 ε={e}" for e in ("0.1", "0", "0.2")),
    ]
    assert {contrast.a.cell.get("learning_rate") for contrast in found[:4]} == {1e-5}
    assert all(
        contrast.a.cell.get("label_smoothing") == contrast.b.cell.get("label_smoothing")
        for contrast in found[9:]
    )
    assert all(contrast.a.cell.get("seed") is None for contrast in found)
    assert found[0].b.cell.is_base


def test_contrasts_without_smoothing_or_base(folder: StudyFolder) -> None:
    for model in ("a", "b"):
        folder.add({"model": model, "dataset": "d"}, "en", None)
    folder.add({"model": "a"}, "en", None)
    first, models = contrasts(load_study(folder.root))
    assert (first.label, first.a.cell.get("model")) == ("SFT - base", "a")
    assert models.label == "SFT b - SFT a"


def test_seeds_are_paired_where_they_share_the_order_of_the_data(folder: StudyFolder) -> None:
    for model, dataset, rate in (("m", "d", 1e-5), ("m", "d", 1e-4), ("m", "other", 1e-5), ("n", "d", 1e-5)):
        for seed in (0, 1):
            cell = {"model": model, "dataset": dataset, "learning_rate": rate, "seed": seed}
            folder.add(cell, "en", random_letters(f"{cell}", 30, 2.0, 0.5, 0.9))
    rows = difference_rows(load_study(folder.root))
    assert {row.contrast: row.paired_seeds for row in rows} == {
        "SFT n d lr=1e-05 - SFT m d lr=1e-05": False,
        "SFT m other lr=1e-05 - SFT m d lr=1e-05": False,
        "SFT m d lr=0.0001 - SFT m d lr=1e-05": True,
    }


def test_one_smoothing_factor_is_set_against_its_base_once(folder: StudyFolder) -> None:
    sweep(folder, seeds=1)
    study = load_study(folder.root)
    assert [c.label for c in contrasts(study)] == [
        "SFT ε=0 - base",
        "SFT ε=0.1 - SFT ε=0",
        "SFT ε=0.1 - base",
    ]
    folder.jobs = [job for job in folder.jobs if job["cell"].get("label_smoothing") != 0.1]
    folder.write_plan()
    assert [c.label for c in contrasts(load_study(folder.root))] == ["SFT ε=0 - base"]


def test_values_and_intervals_of_a_language(folder: StudyFolder) -> None:
    """One seed: the standard error is that of the mean of paired differences in each replicate."""
    sweep(folder, seeds=1)
    ids = [f"item-{k}" for k in range(60)]
    row = find(difference_rows(load_study(folder.root)), "SFT ε=0.1 - base", "sw", "accuracy")
    (a,), (b,) = row.job_ids_a, row.job_ids_b
    each = right_ones(folder.records[a]) - right_ones(folder.records[b])
    draws = weights(ids, ids) @ each / 60
    assert row.value == pytest.approx(each.mean(), abs=1e-12)
    expected = student(each.mean(), draws.std(ddof=1), 59)
    assert (row.low, row.high, row.p_value) == pytest.approx(expected, rel=1e-6)
    assert row.equivalence == pytest.approx(
        stats.t(59).sf((0.01 - abs(each.mean())) / draws.std(ddof=1)), rel=1e-6
    )
    assert (row.n, row.num_seeds, row.paired_seeds, row.missing) == (60, 1, None, None)


def test_an_l2_ece_has_the_interval_of_its_estimates(folder: StudyFolder) -> None:
    """From sums over the records; the ECE has a value alone."""
    sweep(folder, seeds=1)
    rows = difference_rows(load_study(folder.root))
    label, ids = "SFT ε=0.1 - base", [f"item-{k}" for k in range(60)]
    resamples = resample(ids)
    sides = []
    for side in ("a", "b"):
        row = find(rows, label, "low", "ece_l2_raw")
        sums = []
        for job in getattr(row, f"job_ids_{side}"):
            records = folder.records[job]
            confidence = np.array([np.exp(np.float64(np.float32(max(r.scores)))) for r in records])
            sums.append(
                sum_rows(resamples, resamples.rows(ids), {"raw": confidence}, right_ones(records), {})
            )
        assert len(sums) == 2
        sides.append(mean([of_cell["ece_l2", "raw"] for of_cell in estimates(resamples, sums, {})]))
    a, b = sides
    assert a is not None
    assert b is not None
    expected = change(a, b)
    assert row.value == pytest.approx(a.shown - b.shown, abs=1e-9)
    assert (row.low, row.high, row.p_value) == pytest.approx(
        (expected.low, expected.high, expected.p_value), rel=1e-6
    )
    row = find(rows, label, "low", "ece_raw")
    assert row.value is not None
    assert (row.low, row.high, row.p_value, row.false_discovery, row.equivalence) == (None,) * 5


def test_means_over_seeds_and_languages(folder: StudyFolder) -> None:
    """A base model has one seed; three of the other side add their spread, less their luck with questions."""
    sweep(folder, languages=["sw", "yo"])
    ids = [f"item-{k}" for k in range(60)]
    study = load_study(folder.root)
    row = find(difference_rows(study), "SFT ε=0.1 - base", "low", "accuracy")
    assert (row.level, row.n, row.num_seeds, len(row.job_ids_a), len(row.job_ids_b)) == (
        "bucket",
        120,
        3,
        6,
        2,
    )
    seed_of = {shard.job_id: shard.cell.get("seed") for shard in study.shards}
    means = [
        np.mean([right_ones(folder.records[job]) for job in row.job_ids_a if seed_of[job] == s], axis=0)
        for s in range(3)
    ]
    base = np.mean([right_ones(folder.records[job]) for job in row.job_ids_b], axis=0)
    weight = weights(ids, ids) / 60
    variance = (weight @ (np.mean(means, axis=0) - base)).var(ddof=1)
    assert row.value == pytest.approx(np.mean(means) - base.mean(), abs=1e-12)
    expected = student(
        row.value, *with_seeds(variance, weight @ np.transpose(means), [m.mean() for m in means])
    )
    assert (row.low, row.high, row.p_value) == pytest.approx(expected, rel=1e-6)
    assert row.holm is None


def with_seeds(variance: float, draws: np.ndarray, values: list[float]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of a mean over seeds of 60 questions.

    variance: over draws of the questions. draws: (R, seeds), of each seed's value.
    """
    number, spread = len(values), float(np.var(values, ddof=1))
    luck = (draws.var(axis=0, ddof=1).mean() - draws.mean(axis=1).var(ddof=1)) * number / (number - 1)
    excess = max(spread - max(luck, 0.0), 0.0) / number
    spent = variance**2 / 59 + ((spread / number) ** 2 / (number - 1) if excess else 0.0)
    return math.sqrt(variance + excess), (variance + excess) ** 2 / spent


def test_paired_seeds_are_one_number_each(folder: StudyFolder) -> None:
    """Both sides have seen the data in the same order: what a seed adds to both cancels."""
    for seed in range(3):
        for rate, skill in ((1e-5, 0.3 + 0.2 * seed), (1e-4, 0.35 + 0.25 * seed)):
            cell = {"model": "m", "dataset": "d", "learning_rate": rate, "seed": seed}
            folder.add(cell, "sw", random_letters(f"{seed}", 60, 2.0, skill, 0.9))
    study = load_study(folder.root)
    row = find(difference_rows(study), "SFT lr=0.0001 - SFT lr=1e-05", "sw", "accuracy")
    each = [
        right_ones(folder.records[a]) - right_ones(folder.records[b])
        for a, b in zip(row.job_ids_a, row.job_ids_b, strict=True)
    ]
    ids = [f"item-{k}" for k in range(60)]
    draws = weights(ids, ids) @ np.transpose(each) / 60
    assert row.paired_seeds
    assert row.value == pytest.approx(np.mean(each))
    seeds = with_seeds(draws.mean(axis=1).var(ddof=1), draws, [one.mean() for one in each])
    assert (row.low, row.high, row.p_value) == pytest.approx(student(row.value, *seeds), rel=1e-6)


def test_a_language_of_one_item_ends_no_macro_test(folder: StudyFolder) -> None:
    """It counts a third, and varies in no replicate; the others decide as they would."""
    sizes = {"en": 200, "de": 200, "sw": 1}
    each = []
    for language, size in sizes.items():
        base = random_letters(f"base {language}", size, 1.0, 0.2, 0.9)
        trained = random_letters(f"trained {language}", size, 5.0, 0.9, 0.9)
        folder.add({"model": "m"}, language, base)
        folder.add({"model": "m", "dataset": "d"}, language, trained)
        each.append(right_ones(trained) - right_ones(base))
    rows = difference_rows(load_study(folder.root))
    ids = [f"item-{k}" for k in range(200)]
    row = find(rows, "SFT - base", "all", "accuracy")
    draws = (weights(ids, ids) @ (each[0] + each[1]) / 200 + each[2][0]) / 3
    assert row.value == pytest.approx(np.mean([one.mean() for one in each]))
    low, high, p_value = student(row.value, draws.std(ddof=1), 199)
    assert (row.low, row.high) == pytest.approx((low, high), rel=1e-6)
    assert row.p_value == pytest.approx(max(p_value, 2.0**-199), rel=1e-6)
    for metric in METRICS:
        row, alone = (find(rows, "SFT - base", name, metric) for name in ("all", "sw"))
        if metric in ECES:
            assert None not in (row.value, alone.value)
            continue
        if metric.startswith(("ece_l2", "auroc")):  # one answer has none, nor has the mean with it
            assert (row.value, alone.value, row.p_value, alone.p_value) == (None,) * 4
            continue
        assert row.low <= 0.0 <= row.high or row.p_value < 0.05
        if metric.startswith("confidence"):
            assert row.high - row.low < 0.2
        # one answer alone says nothing
        assert alone.p_value == 1.0
        assert alone.low <= 0.0 <= alone.high


def test_holm_runs_over_the_languages_of_a_contrast_and_metric(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, seeds=1, skip=[(0.1, 0, "yo")]).root)
    rows = difference_rows(study)
    for label in ("SFT ε=0 - base", "SFT ε=0.1 - base"):
        for metric in METRICS:
            chosen = [r for r in rows if (r.contrast, r.metric, r.level) == (label, metric, "language")]
            assert len(chosen) == 5
            known = sorted((r.p_value, r.name) for r in chosen if r.p_value is not None)
            highest = 0.0
            for rank, (p, name) in enumerate(known):  # the lost one counts as a test
                highest = max(highest, min(1.0, p * (5 - rank)))
                assert find(rows, label, name, metric).holm == pytest.approx(highest)
            assert bool(known) == (metric not in ECES)


def test_false_discoveries_are_counted_over_all_tests_of_a_study(folder: StudyFolder) -> None:
    rows = difference_rows(load_study(sweep(folder, seeds=2, skip=[(0.1, 0, "yo")]).root))
    tested = [row for row in rows if row.p_value is not None]
    assert len(tested) > 150
    adjusted = stats.false_discovery_control([row.p_value for row in tested])
    assert [row.false_discovery for row in tested] == pytest.approx(list(adjusted))
    assert {row.false_discovery for row in rows if row.p_value is None} == {None}


def test_missing_shards_are_rows_with_a_reason(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, skip=[(0.1, 0, "sw"), (0.1, 1, "sw")]).root)
    rows = difference_rows(study)
    assert len(rows) == 3 * len(METRICS) * (5 + 3 + 1)
    reasons = {"sw": "2 of 3", "low": "2 of 6", "all": "2 of 15"}
    for row in rows:
        if row.name in reasons and "0.1" in row.contrast:
            assert row.missing == f"SFT ε=0.1: {reasons[row.name]} missing"
            assert (row.value, row.low, row.high, row.p_value, row.holm, row.n) == (None,) * 6
            assert row.job_ids_a
        else:
            assert row.missing is None
            assert row.value is not None
            assert (None in (row.low, row.high, row.p_value)) == (row.metric in ECES)


def test_a_language_that_one_side_lacks(folder: StudyFolder) -> None:
    rows = random_letters("x", 30, 2.0, 0.6, 0.9)
    folder.add({"model": "m"}, "en", rows)
    for language in ("en", "de"):
        folder.add({"model": "m", "dataset": "d"}, language, rows)
    found = difference_rows(load_study(folder.root))
    assert find(found, "SFT - base", "en", "nll").missing is None
    assert find(found, "SFT - base", "de", "nll").missing == "base: not planned"
    for name in ("high", "all"):
        assert find(found, "SFT - base", name, "nll").missing == "only one has de"


def test_other_items_are_never_compared(folder: StudyFolder) -> None:
    rows = random_letters("x", 30, 2.0, 0.6, 0.9)
    folder.add({"model": "m"}, "en", rows)
    folder.add({"model": "m", "dataset": "d"}, "en", rows[1:])
    study = load_study(folder.root)
    row = find(difference_rows(study), "SFT - base", "en", "accuracy")
    assert "asked other items than job" in str(row.missing)
    assert row.value is None


@pytest.mark.slow
def test_coverage_of_differences_and_macro_means(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """95% nominal, by the path of the tables; each split of a benchmark is a sample of 120 questions."""
    rng = np.random.default_rng(12)
    with monkeypatch.context() as patch:
        patch.setattr(StudyFolder, "write_plan", lambda self: None)
        for split in range(60):
            hard = rng.uniform(size=120)  # of the question: in all languages, for both models
            for language in ("en", "de", "sw"):
                luck = np.where(rng.uniform(size=120) < 0.7, hard, rng.uniform(size=120))
                for cell, skill in (({"model": "m"}, 0.5), ({"model": "m", "dataset": "d"}, 0.6)):
                    own = np.where(rng.uniform(size=120) < 0.9, luck, rng.uniform(size=120))
                    rows = [letter([0.6, 0.3] if r else [0.3, 0.6], 0, i) for i, r in enumerate(own < skill)]
                    folder.add(cell, language, rows, split=f"{split}")
    folder.write_plan()
    study = load_study(folder.root)
    base = next(cell for cell in study.groups() if cell.is_base)
    macro = [summarise(study.select(test, base)).interval("accuracy") or (1.0, 0.0) for test in study.tests()]
    found = [row for row in difference_rows(study) if (row.name, row.metric) == ("all", "accuracy")]
    assert len(macro) == len(found) == 60
    # 60 of 95%: 51 or fewer in 1 of 100
    assert sum(low <= 0.5 <= high for low, high in macro) >= 52
    assert sum((row.low or 0.0) <= 0.1 <= (row.high or 0.0) for row in found) >= 52
    paired = np.mean([(row.high or 0.0) - (row.low or 0.0) for row in found])
    assert paired < 0.9 * np.mean([high - low for low, high in macro])  # unpaired: wider by 1.4
