"""Intervals of the tables, against rows weighted one by one in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from analysis.reading.headline import METRICS
from analysis.reading.loading import load_study
from analysis.reading.shards import Shard
from analysis.results.table import summarise
from analysis.tables.calibration import table_rows
from study.records import Prediction
from tests.analysis.results.test_aggregate import TEST
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep

stats = pytest.importorskip("scipy.stats")

Records = Sequence[Prediction]


def weights(all_ids: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """(1000, N) how often each row counts in each replicate, drawn here once more."""
    known = sorted(set(all_ids))
    rng = np.random.default_rng(0)
    counts = [np.bincount(rng.integers(0, len(known), len(known)), minlength=len(known)) for _ in range(1000)]
    return np.array(counts, dtype=float)[:, [known.index(name) for name in ids]]


def right_ones(records: Records) -> np.ndarray:
    return np.array([max(r.scores) == r.scores[r.label] for r in records], dtype=float)


def confidences(records: Records) -> np.ndarray:
    return np.array([math.exp(np.float32(max(record.scores))) for record in records])


def accuracy_draws(all_ids: Sequence[str], records: Records) -> np.ndarray:
    weight = weights(all_ids, [record.example_id for record in records])
    return np.asarray(weight @ right_ones(records) / weight.sum(axis=1))


def squared_error(all_ids: Sequence[str], records: Records) -> tuple[float, list[float]]:
    """The L2 ECE from every pair of rows of different examples, and its interval from draws row by row."""
    ids = np.array([record.example_id for record in records])
    residual = right_ones(records) - confidences(records)
    bins = np.ceil(confidences(records) * 15).astype(int)
    weight = weights(all_ids, list(ids)) - 1.0
    square, linear, noise, plug_in = 0.0, np.zeros(1000), np.zeros(1000), 0.0
    shares = np.zeros(len(ids))
    for b in set(bins.tolist()):
        here = np.flatnonzero(bins == b)
        mean = residual[here].mean()
        shares[here] = mean**2
        apart = ids[here][:, None] != ids[here]
        if not apart.any():
            continue
        scale = len(here) / len(ids) / apart.sum()
        square += scale * (np.outer(residual[here], residual[here]) * apart).sum()
        plug_in += scale * residual[here].sum() ** 2
        off = weight[:, here] @ (residual[here] - mean)
        linear += scale * 2.0 * residual[here].sum() * off
        noise += scale * off**2
    linear += weight @ (shares - shares.mean()) / len(ids)
    at_value, at_zero = float(np.var(linear, ddof=1)), float(np.var(noise, ddof=1))
    slope = max(max(at_value - at_zero, 0.0) / max(square, at_zero**0.5), at_value / plug_in)
    # the squares that differ from the estimate by t standard errors, from their quadratic equation
    t2 = stats.t.ppf(0.975, len(set(ids)) - 1) ** 2
    roots = np.roots([1.0, -2.0 * square - t2 * slope, square**2 - t2 * at_zero])
    return signed_root(square), [signed_root(float(end)) for end in sorted(roots.real)]


def signed_root(square: float) -> float:
    return math.copysign(math.sqrt(abs(square)), square)


def ends(value: float, draws: np.ndarray, num_items: int) -> list[float]:
    half = stats.t.ppf(0.975, num_items - 1) * np.std(draws, ddof=1)
    return [value - half, value + half]


def test_intervals_of_every_level(folder: StudyFolder) -> None:
    sweep(folder)
    ids = [f"item-{k}" for k in range(60)]
    of_job = {shard.job_id: folder.records[shard.job_id] for shard in load_study(folder.root).shards}
    rows = [row for row in table_rows(load_study(folder.root)) if row["label_smoothing"] == 0.0]

    def low_high(metric: str, **values: object) -> list[float]:
        (row,) = (row for row in rows if all(row[name] == value for name, value in values.items()))
        return [row[f"{metric}_low"], row[f"{metric}_high"]]

    def jobs(**values: object) -> list[str]:
        (row,) = (row for row in rows if all(row[name] == value for name, value in values.items()))
        found: list[str] = row["job_ids"]
        return found

    one = {"seed": 1, "name": "yo"}
    micro = {"seed": 1, "level": "all", "average": "micro"}  # the rows of all languages in one list
    for place, num_rows in ((one, 60), (micro, 300)):
        records = [record for job_id in jobs(**place) for record in of_job[job_id]]
        assert len(records) == num_rows
        accuracy = ends(float(right_ones(records).mean()), accuracy_draws(ids, records), 60)
        assert low_high("accuracy", **place) == pytest.approx(accuracy, abs=1e-6)
        value, interval = squared_error(ids, records)
        (row,) = (row for row in rows if all(row[name] == value for name, value in place.items()))
        assert row["ece_l2_raw"] == pytest.approx(value, abs=1e-7)
        assert low_high("ece_l2_raw", **place) == pytest.approx(interval, abs=1e-5)
    # macro over three seeds: over languages first, then the seeds' means, whose spread counts
    macro = {"seed": None, "level": "all", "average": "macro"}
    by_seed = [
        np.mean([accuracy_draws(ids, of_job[j]) for j in jobs(seed=s, level="all", average="macro")], axis=0)
        for s in range(3)
    ]
    means = [
        np.mean([right_ones(of_job[j]).mean() for j in jobs(seed=s, level="all", average="macro")])
        for s in range(3)
    ]
    questions = np.var(np.mean(by_seed, axis=0), ddof=1)
    covariance = np.cov(by_seed)
    luck = np.mean(np.diag(covariance)) - np.mean(covariance[~np.eye(3, dtype=bool)])
    spread = np.var(means, ddof=1) / 3
    shared = max(questions - luck / 3, 0.0)
    total = shared + spread
    freedom = total**2 / (shared**2 / 59 + spread**2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(total)
    expected = [np.mean(means) - half, np.mean(means) + half]
    assert low_high("accuracy", **macro) == pytest.approx(expected, abs=1e-5)


def test_every_metric_but_what_was_asked_has_an_interval(folder: StudyFolder) -> None:
    sweep(folder)
    assert [metric.name for metric in METRICS if not metric.has_interval] == [
        *("chance", "ece_renormalised", "ece_raw")
    ]
    study = load_study(folder.root)
    for cell in (*study.runs(), *study.groups()):
        for average in ("macro", "micro"):
            for language in (None, "sw"):
                summary = summarise(study.select(TEST, cell, language), average)
                for metric in METRICS:
                    estimate, interval = summary.estimate(metric.name), summary.interval(metric.name)
                    assert (estimate is not None) == (interval is not None) == metric.has_interval
                    if estimate is not None:
                        assert estimate.shown == pytest.approx(summary.value(metric.name), abs=1e-9)


def test_intervals_over_few_seeds_end_at_what_can_be(folder: StudyFolder) -> None:
    """Student's t with one degree of freedom reaches far beyond a share."""
    for seed, skill in ((0, 0.1), (1, 0.9)):
        rows = random_letters(f"far{seed}", 40, 3.0, skill, 0.9)
        folder.add({"model": "m", "dataset": "d", "label_smoothing": 0.0, "seed": seed}, "en", rows)
    study = load_study(folder.root)
    both = summarise(study.shards)
    assert both.interval("accuracy") == (0.0, 1.0)
    brier = both.interval("brier")
    assert brier is not None
    assert 0.0 <= brier[0] < brier[1] <= 2.0
    nll = both.interval("nll")
    assert nll is not None
    assert nll[0] == 0.0


def test_what_is_missing_has_no_interval(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", random_letters("x", 30, 2.0, 0.6, 0.9))
    folder.add({"model": "m"}, "de", None)
    rows = [row.__dict__ for row in random_letters("y", 30, 2.0, 0.6, 0.9)]
    texts = [{**row, "option_mass": None, "option_num_tokens": [1] * 4} for row in rows]
    folder.add({"model": "m"}, "en", [Prediction(**row) for row in texts], protocol="option_text")
    english, german, text = load_study(folder.root).shards
    assert summarise([english, german]).interval("accuracy") is None
    assert summarise([german]).estimate("accuracy") is None
    assert summarise([text]).interval("option_mass") is None
    assert summarise([text]).interval("accuracy") is not None
    for row in table_rows(load_study(folder.root)):
        for name in (metric.name for metric in METRICS if metric.has_interval):
            is_missing = row[name] is None
            assert (row[f"{name}_low"] is None, row[f"{name}_high"] is None) == (is_missing, is_missing)
            lacks = name == "option_mass" or name in ("gap_raw", "ece_l2_raw")
            assert is_missing == (row["missing"] is not None or (lacks and row["protocol"] == "option_text"))


def test_micro_means_of_some_languages_have_no_estimate(folder: StudyFolder) -> None:
    """They were added up by bucket and over all; a guess of others would not be a micro mean."""
    study = load_study(sweep(folder, seeds=1).root)
    shards = study.select(TEST, study.runs()[0])
    high = [shard for shard in shards if shard.bucket == "high"]
    assert summarise(high, "micro").interval("accuracy") is not None
    with pytest.raises(ValueError, match="micro means have estimates over a resource bucket or all"):
        summarise(shards[:3], "micro").interval("accuracy")
    assert summarise(shards[:3]).interval("accuracy") is not None


def test_languages_may_lack_items_of_others(folder: StudyFolder) -> None:
    """A bad row was skipped in one language: the draw is over what any language has."""
    rows = random_letters("x", 50, 2.0, 0.6, 0.9)
    folder.add({"model": "m"}, "en", rows)
    folder.add({"model": "m"}, "de", rows[:-3])
    ids = [row.example_id for row in rows]
    english, german = load_study(folder.root).shards
    for shard, records in ((english, rows), (german, rows[:-3])):
        found = summarise([shard]).interval("accuracy")
        accuracy = float(right_ones(records).mean())
        assert found == pytest.approx(ends(accuracy, accuracy_draws(ids, records), len(records)), abs=1e-9)
    both = [*rows, *rows[:-3]]
    micro = summarise([english, german], "micro").interval("accuracy")
    assert micro == pytest.approx(
        ends(float(right_ones(both).mean()), accuracy_draws(ids, both), 50), abs=1e-9
    )


def test_one_item_is_no_error(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", [letter([0.5, 0.3], 0)])
    (shard,) = load_study(folder.root).shards
    assert isinstance(shard, Shard)
    assert summarise([shard]).interval("accuracy") == pytest.approx((0.025, 1.0))
    assert summarise([shard]).interval("ece_l2_raw") is None  # no bin has two examples
    assert summarise([shard]).value("ece_l2_raw") is None


def test_all_right_with_a_language_of_one_item(folder: StudyFolder) -> None:
    """Macro: a third rests upon one answer, which may have been luck. Micro: one of 401."""
    for language, size in (("en", 200), ("de", 200), ("sw", 1)):
        folder.add({"model": "m"}, language, [letter([0.9, 0.05, 0.03], 0, k) for k in range(size)])
    shards = load_study(folder.root).shards
    low, high = summarise(shards).interval("accuracy") or (math.nan, math.nan)
    assert (low, high) == pytest.approx((0.667, 1.0), abs=0.01)
    assert summarise(shards).interval("gap_raw") == pytest.approx((-0.1, high - low - 0.1), abs=1e-6)
    low, high = summarise(shards, "micro").interval("accuracy") or (math.nan, math.nan)
    exact = stats.binomtest(200, 200).proportion_ci(0.95, method="exact")  # of different questions
    assert (low, high) == pytest.approx((exact.low, 1.0), abs=0.002)
