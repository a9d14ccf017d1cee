"""From records to numbers: against plain Python, and what happens where something is missing."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.reading.loading import load_study
from analysis.reading.shards import Cell, Metrics, Missing, Shard
from analysis.results.settings import constants, settings
from analysis.results.table import summarise
from study.errors import RecordError, UserError
from study.records import Prediction, ShardInfo, write_part
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep

TEST = ("cldr", "test", "letter")


def only(folder: StudyFolder) -> Shard:
    (shard,) = load_study(folder.root).shards
    return shard


def numbers(shard: Shard) -> Metrics:
    assert shard.metrics is not None, shard.missing
    return shard.metrics


def value_of(metrics: Metrics, name: str) -> float:
    return metrics.n if name == "n" else metrics[name]


def ece(pairs: list[tuple[float, bool]]) -> float:
    """The ECE of (confidence, correct) pairs over 15 equal bins, in plain Python."""
    total = 0.0
    for b in range(15):
        members = [(c, y) for c, y in pairs if b / 15 < c <= (b + 1) / 15 or (b == 0 and c == 0)]
        if members:
            total += abs(sum(c for c, _ in members) - sum(y for _, y in members))
    return total / len(pairs)


def by_hand(records: list[Prediction]) -> dict[str, float]:
    """The metrics of letter records, example by example."""
    raw, renormalised, nll, brier = [], [], 0.0, 0.0
    for record in records:
        p = [math.exp(score) for score in record.scores]
        best = p.index(max(p))
        share = [value / sum(p) for value in p]
        raw.append((p[best], best == record.label))
        renormalised.append((share[best], best == record.label))
        nll -= math.log(share[record.label])
        brier += sum((q - (k == record.label)) ** 2 for k, q in enumerate(share))
    n = len(records)
    accuracy = sum(correct for _, correct in raw) / n
    result = {"n": n, "accuracy": accuracy, "nll": nll / n, "brier": brier / n}
    result["option_mass"] = sum(record.option_mass or 0.0 for record in records) / n
    for kind, pairs in (("raw", raw), ("renormalised", renormalised)):
        result[f"confidence_{kind}"] = sum(c for c, _ in pairs) / n
        result[f"gap_{kind}"] = result[f"confidence_{kind}"] - accuracy
        result[f"ece_{kind}"] = ece(pairs)
        result[f"ece_l2_{kind}"] = l2_ece(pairs, [record.example_id for record in records])
        result[f"auroc_{kind}"] = auroc(pairs)
        result[f"aurc_{kind}"] = aurc(pairs)
    return result


def l2_ece(pairs: list[tuple[float, bool]], ids: list[str]) -> float:
    """From the product of residuals of every two different examples of a bin."""
    bins: dict[int, list[tuple[float, str]]] = {}
    for (confidence, correct), example in zip(pairs, ids, strict=True):
        bins.setdefault(max(math.ceil(confidence * 15), 1), []).append((correct - confidence, example))
    square = 0.0
    for residuals in bins.values():
        products = [a * b for (a, i), (b, k) in itertools.permutations(residuals, 2) if i != k]
        square += len(residuals) / len(pairs) * sum(products) / max(len(products), 1)
    return signed_root(square)


def signed_root(square: float) -> float:
    return math.copysign(math.sqrt(abs(square)), square)


def auroc(pairs: list[tuple[float, bool]]) -> float:
    """From every right answer beside every wrong one."""
    right, wrong = ([c for c, correct in pairs if correct is side] for side in (True, False))
    won = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    return sum(won) / len(won) if won else math.nan


def aurc(pairs: list[tuple[float, bool]]) -> float:
    """The errors among the k most confident, for each k; no two confidences are equal."""
    correct = [correct for _, correct in sorted(pairs, reverse=True)]
    return sum(1 - sum(correct[:k]) / k for k in range(1, len(correct) + 1)) / len(correct)


def test_letter_by_hand(folder: StudyFolder) -> None:
    # 0.4 of 0.8 on A: right; 0.3 of 0.6 on C: wrong
    folder.add({"model": "m"}, "sw", [letter([0.4, 0.2, 0.1, 0.1], 0), letter([0.1, 0.1, 0.3, 0.1], 1, 1)])
    shard = only(folder)
    m = numbers(shard)
    assert (shard.language, shard.bucket, shard.benchmark, shard.protocol) == ("sw", "low", "cldr", "letter")
    assert (m.n, m["chance"], m["accuracy"]) == (2, 0.25, 0.5)
    assert m["confidence_raw"] == pytest.approx(0.35)
    assert m["confidence_renormalised"] == pytest.approx(0.5)
    assert m["gap_raw"] == pytest.approx(-0.15)
    assert m["gap_renormalised"] == pytest.approx(0.0, abs=1e-6)
    assert m["ece_raw"] == pytest.approx((0.6 + 0.3) / 2)  # 0.4 and 0.3 lie in different bins
    assert m["ece_renormalised"] == pytest.approx(0.0, abs=1e-6)
    assert m["nll"] == pytest.approx(-(math.log(0.5) + math.log(1 / 6)) / 2)
    assert m["brier"] == pytest.approx(
        ((0.25 + 1 / 16 + 2 / 64) + (1 / 36 + 25 / 36 + 0.25 + 1 / 36)) / 2, abs=1e-6
    )
    assert m["option_mass"] == pytest.approx(0.7)


def test_random_letters_against_plain_python(folder: StudyFolder) -> None:
    rows = random_letters("x", 300, 2.0, 0.5, 0.8)
    folder.add({"model": "m"}, "en", rows)
    m = numbers(only(folder))
    for name, value in by_hand(rows).items():
        assert value_of(m, name) == pytest.approx(value, abs=1e-6), name


def option_text(scores: list[float], tokens: list[int], label: int, number: int = 0) -> Prediction:
    return Prediction(f"item-{number}", "city", label, scores, None, tokens, 0, 9)


def test_option_text_is_per_token(folder: StudyFolder) -> None:
    # summed, the first option wins (-2 > -3); per token the second does (-2 against -1)
    folder.add({"model": "m"}, "en", [option_text([-2.0, -3.0], [1, 3], 1)], protocol="option_text")
    m = numbers(only(folder))
    assert m["accuracy"] == 1.0
    assert m["confidence_raw"] == pytest.approx(math.exp(-1))
    assert m["confidence_renormalised"] == pytest.approx(math.exp(-1) / (math.exp(-1) + math.exp(-2)))
    assert m["nll"] == pytest.approx(-math.log(m["confidence_renormalised"]))
    assert m.values["option_mass"] is None


def test_examples_may_differ_in_their_options(folder: StudyFolder) -> None:
    rows = [letter([0.5, 0.3, 0.1], 0), letter([0.1] * 9 + [0.05], 9, 1), letter([0.2, 0.6], 1, 2)]
    folder.add({"model": "m"}, "en", rows, benchmark="mmlu_prox")
    m = numbers(only(folder))
    assert m["chance"] == pytest.approx((1 / 3 + 1 / 10 + 1 / 2) / 3)
    for name, value in by_hand(rows).items():
        if "ece_l2" in name:  # no bin has two examples
            assert m.values[name] is None
            continue
        assert value_of(m, name) == pytest.approx(value, abs=1e-6), name


def test_first_option_wins_a_tie(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", [letter([0.2, 0.2], 0), letter([0.2, 0.2], 1, 1)])
    assert numbers(only(folder))["accuracy"] == 0.5


# --- missing
# -------------------------------------------------------------------------------------------------


def test_what_is_not_done_is_missing_not_zero(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None)
    folder.add({"model": "m"}, "de", None, failed=True)
    en, de = load_study(folder.root).shards
    assert (en.missing, de.missing) == (Missing("not done"), Missing("failed"))
    assert en.metrics is None
    assert en.bins is None


def test_parts_without_the_marker_are_missing(folder: StudyFolder) -> None:
    job_id = folder.add({"model": "m"}, "en", [letter([0.5, 0.1], 0)])
    (folder.root / "jobs" / job_id / "DONE").unlink()
    assert only(folder).missing == Missing("not done")


def test_a_torn_part_is_missing_with_its_reason(folder: StudyFolder) -> None:
    job_id = folder.add({"model": "m"}, "en", [letter([0.5, 0.1], 0)])
    (part,) = (folder.root / "jobs" / job_id / "predictions").iterdir()
    part.write_bytes(part.read_bytes()[:100])
    reason = str(only(folder).missing)
    assert reason.startswith("unreadable: ")
    assert str(folder.root) not in reason


def test_no_parts_or_foreign_parts_are_missing(folder: StudyFolder) -> None:
    one = folder.add({"model": "m"}, "en", [letter([0.5, 0.1], 0)])
    two = folder.add({"model": "m"}, "de", [letter([0.5, 0.1], 0)])
    three = folder.add({"model": "m"}, "yo", [letter([0.5, 0.1], 0)])
    jobs = folder.root / "jobs"
    shutil.rmtree(jobs / one / "predictions")
    shutil.rmtree(jobs / two / "predictions")
    shutil.copytree(jobs / three / "predictions", jobs / two / "predictions")
    no_parts, foreign, good = load_study(folder.root).shards
    assert f"jobs/{one}/predictions/part-000000-000001.parquet: is missing" in str(no_parts.missing)
    assert f"jobs/{two}/predictions/part-000000-000001.parquet: corrupted or f" in str(foreign.missing)
    assert good.missing is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (letter([0.5, 0.1], 2), "label"),
        (letter([0.5, 0.1], -1), "label"),
        (letter([0.5], 0), "two options"),
        (Prediction("a", "s", 0, [math.nan, -1.0], 1.0, None, 0, 1), "NaN"),
        (Prediction("a", "s", 0, [-math.inf, -1.0], 1.0, None, 0, 1), "infinite"),
        (Prediction("a", "s", 0, [0.7, -1.0], 1.0, None, 0, 1), "0..1"),
    ],
)
def test_impossible_records_are_missing(folder: StudyFolder, row: Prediction, reason: str) -> None:
    folder.add({"model": "m"}, "en", [row])
    assert reason in str(only(folder).missing)


@pytest.mark.parametrize("tokens", [None, [1], [0, 2]])
def test_option_text_needs_its_tokens(folder: StudyFolder, tokens: list[int] | None) -> None:
    row = Prediction("a", "s", 0, [-1.0, -2.0], None, tokens, 0, 1)
    folder.add({"model": "m"}, "en", [row], protocol="option_text")
    assert "option_num_tokens" in str(only(folder).missing)


# --- means
# ---------------------------------------------------------------------------------------------------


def test_macro_and_micro(folder: StudyFolder) -> None:
    small = random_letters("a", 40, 2.0, 0.9, 0.9)
    large = random_letters("b", 160, 2.0, 0.1, 0.9)
    folder.add({"model": "m"}, "en", small)
    folder.add({"model": "m"}, "sw", large)
    shards = load_study(folder.root).shards
    macro, micro = (summarise(shards, average) for average in ("macro", "micro"))
    one, two, both = by_hand(small), by_hand(large), by_hand(small + large)
    assert macro.metrics is not None
    assert micro.metrics is not None
    assert macro.metrics.n == micro.metrics.n == 200
    for name, value in both.items():
        if name == "n":
            continue
        mean = (one[name] + two[name]) / 2
        if "ece_l2" in name:
            mean = signed_root((one[name] * abs(one[name]) + two[name] * abs(two[name])) / 2)
        if name.startswith("au"):  # within languages
            value = (40 * one[name] + 160 * two[name]) / 200
        assert value_of(micro.metrics, name) == pytest.approx(value, abs=1e-6), name
        assert value_of(macro.metrics, name) == pytest.approx(mean, abs=1e-6), name


def test_a_mean_with_a_missing_member_is_missing(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, skip=[(0.1, 2, "sw")]).root)
    smoothed = next(cell for cell in study.groups() if cell.get("label_smoothing") == 0.1)
    everything = summarise(study.select(TEST, smoothed))
    assert everything.metrics is None
    assert str(everything.missing) == "1 of 15 missing"
    assert everything.num_seeds == 3
    swahili = summarise(study.select(TEST, smoothed, "sw"))
    assert swahili.metrics is None
    assert str(swahili.missing) == "1 of 3 missing"
    assert summarise(study.select(TEST, smoothed, "yo")).metrics is not None
    assert [shard.language for shard in study.missing] == ["sw"]


def test_mean_over_seeds(folder: StudyFolder) -> None:
    study = load_study(sweep(folder).root)
    plain = next(cell for cell in study.groups() if cell.get("label_smoothing") == 0.0)
    summary = summarise(study.select(TEST, plain, "yo"))
    assert (summary.num_seeds, summary.num_missing, summary.missing) == (3, 0, None)
    truth = [by_hand(folder.records[job_id]) for job_id in summary.job_ids]
    assert len(truth) == 3
    assert summary.metrics is not None
    assert summary.metrics.n == 60  # of one seed
    for name in ("accuracy", "confidence_raw", "ece_raw", "ece_renormalised", "nll"):
        mean = sum(each[name] for each in truth) / 3
        assert summary.metrics[name] == pytest.approx(mean, abs=1e-6)


def test_seeds_of_different_sizes_are_an_error(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, languages=["en"], seeds=2).root)
    _, one, other, *_ = study.shards
    assert other.metrics is not None
    with pytest.raises(RecordError, match="different numbers"):
        summarise([one, replace(other, metrics=replace(other.metrics, n=59))])


def test_no_shards_is_an_error() -> None:
    with pytest.raises(ValueError, match="no shards"):
        summarise([])


def test_a_single_shard_is_its_own_mean(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", random_letters("a", 50, 1.0, 0.5, 0.9))
    shard = only(folder)
    for average in ("macro", "micro"):
        mean = summarise([shard], average).metrics
        assert mean is not None
        assert mean.n == 50
        assert mean.values == pytest.approx(numbers(shard).values)


# --- the study
# -----------------------------------------------------------------------------------------------


def test_languages_go_from_rich_to_poor(folder: StudyFolder) -> None:
    for code in ("xx", "sw", "uk", "en", "yo", "de"):
        folder.add({"model": "m"}, code, None)
    study = load_study(folder.root)
    assert study.languages() == ["de", "en", "uk", "sw", "yo", "xx"]
    assert [shard.bucket for shard in study.shards] == ["other", "low", "mid", "high", "low", "high"]


def test_null_axes_are_absent(folder: StudyFolder) -> None:
    cell = {"model": "m", "dataset": None, "learning_rate": None, "label_smoothing": None, "seed": None}
    folder.add(cell, "en", None)
    shard = only(folder)
    assert shard.cell == Cell((("model", "m"),))
    assert shard.cell.is_base


def test_settings_set_smoothing_side_by_side(folder: StudyFolder) -> None:
    study = load_study(sweep(folder).root)
    (setting,) = settings(study)
    assert [item.label for item in setting.series] == ["base", "SFT ε=0", "SFT ε=0.1"]
    assert setting.label == ""
    assert constants(study) == ["cldr-tiny", "cldr-instruct", "lr=0.001"]


def test_settings_split_by_what_varies(folder: StudyFolder) -> None:
    for benchmark in ("global_mmlu", "mmlu_prox"):
        for model in ("org/a", "org/b"):
            folder.add({"model": model}, "en", None, benchmark=benchmark)
            for rate in (1e-5, 5e-6):
                cell = {
                    "model": model,
                    "dataset": "org/alpaca",
                    "learning_rate": rate,
                    "label_smoothing": 0.1,
                }
                folder.add(cell, "en", None, benchmark=benchmark)
    folder.add({"model": "org/alone"}, "en", None, benchmark="mmlu_prox")
    study = load_study(folder.root)
    found = settings(study)
    assert [setting.label for setting in found] == [
        "global_mmlu · a · lr=1e-05",
        "global_mmlu · a · lr=5e-06",
        "global_mmlu · b · lr=1e-05",
        "global_mmlu · b · lr=5e-06",
        "mmlu_prox · a · lr=1e-05",
        "mmlu_prox · a · lr=5e-06",
        "mmlu_prox · b · lr=1e-05",
        "mmlu_prox · b · lr=5e-06",
        "mmlu_prox · base models",
    ]
    assert [item.label for item in found[0].series] == ["base", "SFT ε=0.1"]
    assert [item.label for item in found[-1].series] == ["alone"]
    assert constants(study) == ["alpaca"]


def test_base_models_alone_stand_side_by_side(folder: StudyFolder) -> None:
    for model in ("org/a", "org/b"):
        folder.add({"model": model}, "en", None)
    (setting,) = settings(load_study(folder.root))
    assert [item.label for item in setting.series] == ["a", "b"]


def test_not_a_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a study"):
        load_study(tmp_path)
    plan = tmp_path / "plan.json"
    for content, reason in [
        ("{", "is not a plan"),
        ('{"schema_version": 2}', r"is not a plan \(KeyError"),
        ("[]", "is not a plan"),
        (
            json.dumps({"schema_version": 1, "jobs": [{"job_id": "0" * 16, "kind": "evaluate"}]}),
            "is not a plan of this version of calsweep; sweep the grid again$",
        ),
        (json.dumps({"schema_version": 2, "study": "s", "jobs": []}), "no evaluation"),
    ]:
        plan.write_text(content)
        with pytest.raises(UserError, match=reason):
            load_study(tmp_path)


def test_records_of_another_protocol_are_missing(folder: StudyFolder) -> None:
    job_id = folder.add({"model": "m"}, "en", [letter([0.5, 0.1], 0)])
    predictions = folder.root / "jobs" / job_id / "predictions"
    shutil.rmtree(predictions)
    info = ShardInfo(job_id, "m", "cldr", "en", "test", "option_text")
    write_part(predictions, 0, [letter([0.5, 0.1], 0)], info)
    folder.write_done(job_id)
    assert "option_text" in str(only(folder).missing)
