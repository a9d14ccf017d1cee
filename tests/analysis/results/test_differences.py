"""Differences between cells: what is set against what, and the numbers against rows repeated one by one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from analysis.reading.headline import BY_NAME, WITH_DIFFERENCES
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.results.contrasts import contrasts
from analysis.results.table import summarise
from analysis.tables.differences import table_rows
from tests.analysis.inference.test_intervals import right_ones, weights
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep

stats = pytest.importorskip("scipy.stats")
METRICS = [metric.name for metric in WITH_DIFFERENCES]


def difference_rows(study: Study) -> list[SimpleNamespace]:
    return [SimpleNamespace(**fields) for fields in table_rows(study)]


def find(rows: list[SimpleNamespace], label: str, name: str, metric: str) -> SimpleNamespace:
    (row,) = (row for row in rows if (row.contrast, row.name, row.metric) == (label, name, metric))
    return row


def assert_inferred(row: SimpleNamespace, error: float, freedom: float) -> None:
    """The interval and p-value are those of Student's t."""
    half = stats.t.ppf(0.975, freedom) * error
    assert (row.low, row.high) == pytest.approx((row.value - half, row.value + half), abs=1e-6)
    assert row.p_value == pytest.approx(2 * stats.t.sf(abs(row.value) / error, freedom), rel=1e-4)


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
        "alone - m",  # then every other axis that varies
        *(f"SFT lr=5e-06 ε={smoothing} - SFT lr=1e-05 ε={smoothing}" for smoothing in ("0.1", "0", "0.2")),
    ]
    assert {contrast.a.cell.get("learning_rate") for contrast in found[:4]} == {1e-5}
    assert all(contrast.a.cell.get("seed") is None for contrast in found)
    assert found[0].b.cell.is_base


def test_contrasts_without_smoothing_or_base(folder: StudyFolder) -> None:
    for model in ("a", "b"):
        folder.add({"model": model, "dataset": "d"}, "en", None)
    folder.add({"model": "a"}, "en", None)
    of_setting, of_models = contrasts(load_study(folder.root))
    assert (of_setting.label, of_setting.a.cell.get("model")) == ("SFT - base", "a")
    assert of_models.label == "SFT b - SFT a"


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
    """One seed: the mean of paired differences in each replicate."""
    sweep(folder, seeds=1)
    ids = [f"item-{k}" for k in range(60)]
    row = find(difference_rows(load_study(folder.root)), "SFT ε=0.1 - base", "sw", "accuracy")
    (a,), (b,) = row.job_ids_a, row.job_ids_b
    each = right_ones(folder.records[a]) - right_ones(folder.records[b])
    draws = weights(ids, ids) @ each / 60
    assert row.value == pytest.approx(each.mean(), abs=1e-12)
    assert_inferred(row, draws.std(ddof=1), 59)
    assert (row.n, row.num_seeds, row.missing) == (60, 1, None)


def test_means_over_seeds_and_languages(folder: StudyFolder) -> None:
    """A base model has one seed; three of the other side add their spread by Student's t."""
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
    draws = weights(ids, ids) @ (np.mean(means, axis=0) - base) / 60
    spread = np.std([m.mean() for m in means], ddof=1) / math.sqrt(3)
    of_seeds = weights(ids, ids) @ (np.array(means) - base).T / 60
    covariance = np.cov(of_seeds.T)
    luck = (np.mean(np.diag(covariance)) - np.mean(covariance[~np.eye(3, dtype=bool)])) / 3
    shared = max(draws.var(ddof=1) - luck, 0.0)
    total = shared + spread**2
    assert row.value == pytest.approx(np.mean(means) - base.mean(), abs=1e-12)
    assert_inferred(row, math.sqrt(total), total**2 / (shared**2 / 59 + spread**4 / 2))
    assert row.holm is None


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
    assert_inferred(row, draws.std(ddof=1), 199)
    for metric in METRICS:
        if metric.startswith(("ece", "auroc")):  # of one answer there is no such number
            continue
        row = find(rows, "SFT - base", "all", metric)
        assert (row.low or 0.0) <= 0.0 <= (row.high or 0.0) or (row.p_value or 0.0) < 0.05
        if metric.startswith("confidence"):
            assert (row.high or 0.0) - (row.low or 0.0) < 0.2
        # one answer alone says nothing
        row = find(rows, "SFT - base", "sw", metric)
        assert row.p_value == 1.0
        assert (row.low or 0.0) <= 0.0 <= (row.high or 0.0)


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


def test_missing_shards_are_rows_with_a_reason(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, skip=[(0.1, 0, "sw"), (0.1, 1, "sw")]).root)
    rows = difference_rows(study)
    assert len(rows) == 3 * len(METRICS) * (5 + 3 + 1 + 1)
    reasons = {"sw": "2 of 3", "low": "2 of 6", "low - high": "2 of 6", "all": "2 of 15"}
    for row in rows:
        if row.name in reasons and "0.1" in row.contrast:
            assert row.missing == f"SFT ε=0.1: {reasons[row.name]} missing"
            assert (row.value, row.low, row.high, row.p_value, row.holm, row.n) == (None,) * 6
            assert row.job_ids_a
        else:
            assert row.missing is None
            if row.name == "low - high" and row.metric.startswith("ece"):  # not linear
                assert row.value is None
                continue
            has_interval = BY_NAME[row.metric].has_interval
            assert [number is None for number in (row.value, row.low, row.high, row.p_value)] == [
                False, *[not has_interval] * 3,
            ]  # fmt: skip


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


def test_how_much_more_changed_in_low_resource_languages(folder: StudyFolder) -> None:
    """Against the paired differences of every question, in two seeds; a seed is one model in both groups."""
    sweep(folder, languages=["de", "sw"], seeds=2)
    ids = [f"item-{k}" for k in range(60)]
    study = load_study(folder.root)
    rows = difference_rows(study)
    row = find(rows, "SFT ε=0.1 - base", "low - high", "accuracy")
    shards = {(shard.cell, shard.language): shard.job_id for shard in study.shards}

    def right(language: str, **axes: object) -> np.ndarray:
        (job_id,) = (
            job_id
            for (cell, code), job_id in shards.items()
            if code == language and all(cell.get(axis) == value for axis, value in axes.items())
        )
        return right_ones(folder.records[job_id])

    base = {"dataset": None}
    more = np.array(
        [
            (right("sw", label_smoothing=0.1, seed=seed) - right("sw", **base))
            - (right("de", label_smoothing=0.1, seed=seed) - right("de", **base))
            for seed in (0, 1)
        ]
    )
    draws = weights(ids, ids) @ more.T / 60
    covariance = np.cov(draws.T)
    luck = (np.mean(np.diag(covariance)) - covariance[0, 1]) / 2
    spread = np.var(more.mean(axis=1), ddof=1) / 2
    shared = max(draws.mean(axis=1).var(ddof=1) - luck, 0.0)
    total = shared + spread
    assert row.value == pytest.approx(more.mean())
    assert row.standard_error == pytest.approx(math.sqrt(total), rel=1e-6)
    assert row.seed_share == pytest.approx(spread / total, rel=1e-6)
    assert_inferred(row, math.sqrt(total), total**2 / (shared**2 / 59 + spread**2))
    low, high = (find(rows, "SFT ε=0.1 - base", name, "accuracy").value for name in ("low", "high"))
    assert row.value == pytest.approx(low - high)
    everything = find(rows, "SFT ε=0.1 - base", "all", "accuracy")
    assert everything.language_sd == pytest.approx(abs(low - high) / math.sqrt(2))


def test_contrasts_of_two_learning_rates_and_two_models_are_by_hand(folder: StudyFolder) -> None:
    """Every value of an axis against the first, at the same place of all others."""
    for model in ("m", "n"):
        for rate in (1e-5, 5e-5):
            for smoothing in (0.0, 0.1):
                cell = {"model": model, "dataset": "d", "learning_rate": rate, "label_smoothing": smoothing}
                folder.add(cell, "en", random_letters(f"{model}{rate}{smoothing}", 40, 2.0, 0.5, 0.9))
    study = load_study(folder.root)
    rows = difference_rows(study)
    jobs = {shard.job_id: shard.cell for shard in study.shards}
    accuracy = {shard.cell: right_ones(folder.records[shard.job_id]).mean() for shard in study.shards}
    chosen = [row for row in rows if (row.name, row.metric) == ("en", "accuracy")]
    pairs = {(jobs[row.job_ids_a[0]], jobs[row.job_ids_b[0]]): row.value for row in chosen}
    # smoothing at each of four places, learning rates at four, models at four
    assert len(pairs) == len(chosen) == 12
    for (a, b), value in pairs.items():
        apart = [axis for axis, of_a in a.axes if b.get(axis) != of_a]
        assert len(apart) == 1
        assert (b.get(apart[0])) in ("m", 1e-5, 0.0)
        assert value == pytest.approx(accuracy[a] - accuracy[b])
        of_model = apart == ["model"]
        (row,) = (r for r in chosen if (jobs[r.job_ids_a[0]], jobs[r.job_ids_b[0]]) == (a, b))
        assert row.paired_seeds is None
        assert of_model == ("SFT n" in row.contrast and "SFT m" in row.contrast)


def test_smoothing_against_none_each_at_its_own_learning_rate(folder: StudyFolder) -> None:
    """A declared contrast; the validation split chooses 5e-5 with smoothing and 1e-5 without."""
    skill = {(0.0, 1e-5): 0.9, (0.0, 5e-5): 0.2, (0.1, 1e-5): 0.2, (0.1, 5e-5): 0.9}
    folder.add({"model": "m"}, "en", random_letters("base", 40, 2.0, 0.5, 0.9))
    for (smoothing, rate), right in skill.items():
        cell = {"model": "m", "dataset": "d", "learning_rate": rate, "label_smoothing": smoothing}
        for split in ("test", "validation"):
            letters = random_letters(f"{smoothing}{rate}{split}", 40, 2.0, right, 0.9)
            folder.add(cell, "en", letters, split=split)
    folder.contrasts = [
        {
            "name": "own",
            "a": {"label_smoothing": 0.1, "learning_rate": "chosen"},
            "b": {"label_smoothing": 0.0, "learning_rate": "chosen"},
        }
    ]
    folder.write_plan()
    study = load_study(folder.root)
    first = next(contrast for contrast in contrasts(study) if contrast.test[1] == "test")
    assert first.label == "own: SFT lr=5e-05 ε=0.1 - SFT lr=1e-05 ε=0"
    rows = [row for row in difference_rows(study) if row.contrast == first.label and row.split == "test"]
    (row,) = (row for row in rows if (row.name, row.metric) == ("en", "nll"))
    values = [study.select(first.test, side.cell)[0].metrics for side in (first.a, first.b)]
    assert values[0] is not None
    assert values[1] is not None
    assert row.value == pytest.approx(values[0]["nll"] - values[1]["nll"])


def test_the_axes_of_the_ablations_are_contrasts(folder: StudyFolder) -> None:
    """A soft-cap of 32, 48 or none, with and without smoothing: each value against the first, by hand."""
    right: dict[tuple[float, float | None], np.ndarray] = {}
    for cap in (32.0, 48.0, None):
        for smoothing in (0.0, 0.1):
            cell = {"model": "m", "dataset": "d", "label_smoothing": smoothing, "logit_softcap": cap}
            letters = random_letters(f"{cap}{smoothing}", 40, 2.0, 0.5, 0.9)
            folder.add({axis: value for axis, value in cell.items() if value is not None}, "sw", letters)
            right[smoothing, cap] = right_ones(letters)
    rows = difference_rows(load_study(folder.root))
    for smoothing in (0.0, 0.1):
        for cap, text in ((48.0, "48"), (None, "none")):
            label = f"SFT ε={smoothing:g} logit_softcap={text} - SFT ε={smoothing:g} logit_softcap=32"
            expected = (right[smoothing, cap] - right[smoothing, 32.0]).mean()
            assert find(rows, label, "sw", "accuracy").value == pytest.approx(expected)
    of_smoothing = [row for row in rows if (row.name, row.metric) == ("sw", "accuracy")]
    assert len(of_smoothing) == 2 * 2 + 3  # and smoothing at each of three caps


def test_a_declared_contrast_of_a_list(folder: StudyFolder) -> None:
    """Excluded sources are a list in the grid, and a text in a cell."""
    for sources in ([], ["a", "b"]):
        cell = {"model": "m", "dataset": "d", "exclude_sources": sources}
        folder.add(cell, "en", random_letters(f"{sources}", 40, 2.0, 0.5, 0.9))
    folder.contrasts = [
        {"name": "less data", "a": {"exclude_sources": ["a", "b"]}, "b": {"exclude_sources": []}}
    ]
    folder.write_plan()
    (declared,) = (one for one in contrasts(load_study(folder.root)) if one.name == "less data")
    assert declared.a.cell.get("exclude_sources") == "a, b"
