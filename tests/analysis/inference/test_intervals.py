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


def ece_draws(all_ids: Sequence[str], records: Records) -> np.ndarray:
    """The mean of signed residuals less the folded normal's bias of each bin, by SciPy."""
    weight = weights(all_ids, [record.example_id for record in records])
    residual = right_ones(records) - confidences(records)
    bins = np.ceil(confidences(records) * 15).astype(int)
    signed, bias = np.zeros(1000), 0.0
    for b in set(bins.tolist()):
        of_bin = np.where(bins == b, residual, 0.0)
        signed += weight @ of_bin * np.sign(of_bin.sum())
        by_id: dict[str, float] = dict.fromkeys(all_ids, 0.0)
        for record, value in zip(records, of_bin, strict=True):
            by_id[record.example_id] += value
        sums = np.array(list(by_id.values()))
        spread = math.sqrt(((sums - sums.mean()) ** 2).sum())
        if spread > 1e-9:
            bias += stats.foldnorm.mean(abs(sums.sum()) / spread, scale=spread) - abs(sums.sum())
    return np.asarray(signed / weight.sum(axis=1) - bias / len(records))


def ends(draws: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(draws, [0.025, 0.975])]


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

    for metric, draws in (("accuracy", accuracy_draws), ("ece_raw", ece_draws)):
        one = {"seed": 1, "name": "yo"}
        (job_id,) = jobs(**one)
        assert low_high(metric, **one) == pytest.approx(ends(draws(ids, of_job[job_id])), abs=1e-6)
        # micro: the rows of all languages in one list
        micro = {"seed": 1, "level": "all", "average": "micro"}
        pooled = [record for job_id in jobs(**micro) for record in of_job[job_id]]
        assert len(pooled) == 300
        assert low_high(metric, **micro) == pytest.approx(ends(draws(ids, pooled)), abs=1e-6)
    # macro over three seeds: over languages first, then the seeds' means as Student's t around their mean
    macro = {"seed": None, "level": "all", "average": "macro"}
    by_seed = [
        np.mean([accuracy_draws(ids, of_job[j]) for j in jobs(seed=s, level="all", average="macro")], axis=0)
        for s in range(3)
    ]
    means = [
        np.mean([right_ones(of_job[j]).mean() for j in jobs(seed=s, level="all", average="macro")])
        for s in range(3)
    ]
    effect = np.random.default_rng(0).standard_t(2, 20_000) * np.std(means, ddof=1) / math.sqrt(3)
    with_seeds = np.repeat(np.mean(by_seed, axis=0), 20) + effect
    assert low_high("accuracy", **macro) == pytest.approx(ends(with_seeds), abs=1e-6)


def test_every_metric_but_what_was_asked_has_an_interval(folder: StudyFolder) -> None:
    sweep(folder)
    assert [metric.name for metric in METRICS if not metric.has_interval] == ["chance"]
    study = load_study(folder.root)
    for cell in (*study.runs(), *study.groups()):
        for average in ("macro", "micro"):
            for language in (None, "sw"):
                summary = summarise(study.select(TEST, cell, language), average)
                for metric in METRICS:
                    estimate, interval = summary.estimate(metric.name), summary.interval(metric.name)
                    assert (estimate is not None) == (interval is not None) == metric.has_interval
                    if estimate is not None:
                        assert estimate.value == pytest.approx(summary.value(metric.name), abs=1e-12)


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
            assert is_missing == (
                row["missing"] is not None or (name, row["protocol"]) == ("option_mass", "option_text")
            )


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
        assert found == pytest.approx(ends(accuracy_draws(ids, records)), abs=1e-9)
    micro = summarise([english, german], "micro").interval("accuracy")
    assert micro == pytest.approx(ends(accuracy_draws(ids, [*rows, *rows[:-3]])), abs=1e-9)


def test_one_item_is_no_error(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", [letter([0.5, 0.3], 0)])
    (shard,) = load_study(folder.root).shards
    assert isinstance(shard, Shard)
    assert summarise([shard]).interval("accuracy") == pytest.approx((0.025, 1.0))
    low, high = summarise([shard]).interval("ece_raw") or (math.nan, math.nan)
    assert 0.0 <= low <= high <= 1.0


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
