"""tables/temperature.*: known temperatures come back, and nothing of the test split enters a fitted one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.diagnoses.diagnose import diagnose
from analysis.diagnoses.rows import Row
from analysis.diagnoses.temperature import CROSS_FITTED, uncalibrated_bases
from analysis.reading.loading import load_study
from analysis.reading.shards import BUCKETS
from study.languages import LANGUAGES
from tests.analysis.studies import StudyFolder, letter
from tests.analysis.validation_studies import BASE, TRUE, drawn, plain_ece, trained, with_validation

special, stats = pytest.importorskip("scipy.special"), pytest.importorskip("scipy.stats")


def rows_of(folder: StudyFolder) -> dict[tuple[str, str], Row]:
    """The rows of a study with one cell, by scheme and name."""
    return {(row["scheme"], row["name"]): row for row in diagnose(folder.root).rows["temperature"]}


def test_temperatures_that_made_the_labels_are_found(folder: StudyFolder) -> None:
    rows = rows_of(with_validation(folder))
    assert {row["fitted_on"] for row in rows.values()} == {"validation"}
    for language, true in TRUE.items():
        assert rows["per_language", language]["temperature"] == pytest.approx(true, rel=0.12)
        assert rows["english", language]["temperature"] == pytest.approx(TRUE["en"], rel=0.12)
    together = {rows["global", language]["temperature"] for language in TRUE}
    assert len(together) == 1
    assert 1.2 < together.pop() < 3.5
    swahili = rows["per_language", "sw"]
    assert swahili["ece_after"] < 0.05 < 0.2 < swahili["ece_before"]
    assert (
        rows["per_language", "sw"]["nll_after"] < rows["english", "sw"]["nll_after"] < swahili["nll_before"]
    )


def test_the_numbers_are_those_of_plain_python_and_scipy(folder: StudyFolder) -> None:
    rows = rows_of(with_validation(folder, count=300))
    records = folder.records[folder.jobs[2]["job_id"]]  # sw, test
    row = rows["english", "sw"]
    scores = np.array([record.scores for record in records], dtype=np.float32).astype(np.float64)
    label = [record.label for record in records]
    for when, temperature in (("before", 1.0), ("after", row["temperature"])):
        log_probs = special.log_softmax(scores / temperature, axis=1)
        correct = [int(one) == y for one, y in zip(log_probs.argmax(axis=1), label, strict=True)]
        confidence = np.exp(log_probs.max(axis=1)).tolist()
        nll = -math.fsum(log_probs[k, y] for k, y in enumerate(label)) / len(label)
        assert row[f"nll_{when}"] == pytest.approx(nll, abs=1e-9)
        assert row[f"ece_{when}"] == pytest.approx(plain_ece(confidence, correct), abs=1e-9)
        assert row[f"confidence_{when}"] == pytest.approx(math.fsum(confidence) / 300, abs=1e-9)
    assert row["accuracy"] == sum(correct) / 300
    jobs = {"test": folder.jobs[2], "validation of en": folder.jobs[1]}
    assert row["job_ids"] == [job["job_id"] for job in jobs.values()]


def test_buckets_are_means_of_their_languages(folder: StudyFolder) -> None:
    rows = rows_of(with_validation(folder, count=200))
    for scheme in ("global", "english", "per_language"):
        low = [rows[scheme, code] for code in TRUE if LANGUAGES[code].bucket == "low"]
        assert len(low) == 2
        mean = rows[scheme, "low"]
        for column in ("ece_before", "ece_after", "nll_after", "accuracy"):
            assert mean[column] == pytest.approx((low[0][column] + low[1][column]) / 2)
        assert mean["temperature"] == pytest.approx(math.sqrt(low[0]["temperature"] * low[1]["temperature"]))
        assert (mean["n"], rows[scheme, "all"]["n"], mean["average"]) == (400, 600, "macro")
    assert not {name for _, name in rows} & (set(BUCKETS) - {"high", "low"})


def test_labels_of_the_test_split_do_not_touch_a_fitted_temperature(tmp_path: Path) -> None:
    results = []
    for name, shifted in (("a", False), ("b", True)):
        folder = StudyFolder(tmp_path / name)
        folder.root.mkdir()
        results.append(rows_of(with_validation(folder, count=200, test_labels_shifted=shifted)))
    plain, shifted_labels = results
    assert {key: row["temperature"] for key, row in plain.items()} == {
        key: row["temperature"] for key, row in shifted_labels.items()
    }
    assert plain["global", "all"]["accuracy"] != shifted_labels["global", "all"]["accuracy"]


def test_without_a_validation_split_it_is_cross_fitted(folder: StudyFolder) -> None:
    for place, (language, true) in enumerate(TRUE.items()):
        folder.add({"model": "m"}, language, drawn(place, 1500, true))
    rows = rows_of(folder)
    assert {row["fitted_on"] for row in rows.values()} == {CROSS_FITTED}
    assert rows["per_language", "sw"]["temperature"] == pytest.approx(4.0, rel=0.12)
    assert rows["english", "yo"]["temperature"] == pytest.approx(2.0, rel=0.12)


def test_a_validation_split_that_is_planned_and_missing_is_not_replaced(folder: StudyFolder) -> None:
    rows = rows_of(with_validation(folder, count=60, skip=["sw"]))
    assert rows["global", "en"]["missing"] == "validation split: no records of sw to fit on"
    assert rows["global", "en"]["temperature"] is None
    assert rows["per_language", "sw"]["missing"] == "validation split: no records of sw to fit on"
    assert rows["per_language", "low"]["missing"] == "1 of 2 missing"
    assert rows["per_language", "en"]["missing"] is None
    assert rows["english", "all"]["missing"] is None


def test_a_question_in_both_splits_is_not_fitted_on(folder: StudyFolder) -> None:
    rows = rows_of(with_validation(folder, count=30, prefix="q"))
    assert rows["global", "all"]["missing"] == "3 of 3 missing"
    assert (
        rows["english", "sw"]["missing"] == "validation split: 30 examples are in both splits, such as 'q-0'"
    )


def test_what_is_missing_is_marked_when_cross_fitted(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None, failed=True)
    folder.add({"model": "m"}, "sw", drawn(1, 60, 1.0))
    folder.add({"model": "m"}, "yo", [letter([0.5, 0.2], 0)])
    rows = rows_of(folder)
    assert rows["global", "en"]["missing"] == "failed"
    for scheme in ("global", "english"):
        assert rows[scheme, "sw"]["missing"] == "no records of en to fit on"
    assert rows["per_language", "sw"]["missing"] is None
    assert rows["per_language", "yo"]["missing"] == "per_language temperatures need examples of yo"
    assert rows["per_language", "low"]["ece_after"] is None


def test_smoothing_stands_beside_it_and_seeds_are_averaged(folder: StudyFolder) -> None:
    planned = [{"model": "m"}] + [
        trained(label_smoothing=eps, seed=seed) for eps in (0.0, 0.1) for seed in (0, 1)
    ]
    for place, cell in enumerate(planned):
        for number, language in enumerate(TRUE):
            folder.add(cell, language, drawn(number, 80, 1.0 + place))
    diagnosis = diagnose(folder.root)
    rows = [row for row in diagnosis.rows["temperature"] if (row["scheme"], row["name"]) == ("global", "all")]
    assert [(row["label_smoothing"], row["seed"], row["num_seeds"]) for row in rows] == [
        (None, None, 1), (0.0, 0, 1), (0.1, 0, 1), (0.0, 1, 1), (0.1, 1, 1), (0.0, None, 2), (0.1, None, 2),
    ]  # fmt: skip
    assert rows[-1]["ece_after"] == pytest.approx((rows[2]["ece_after"] + rows[4]["ece_after"]) / 2)
    assert rows[-1]["n"] == 240
    text = (folder.root / "tables" / "temperature.md").read_text(encoding="utf-8")
    lines = [line.split(" | ")[:4] for line in text.splitlines() if line.startswith("| all")]
    cells = ["base", "SFT ε=0", "SFT ε=0.1"]
    assert [line[1] for line in lines] == [*cells, *cells, *cells[1:]]  # scaling, its gain, without labels
    assert lines[2][2:] == [f"{rows[-1]['ece_before']:.3f}", f"{rows[-1]['ece_after']:.3f}"]
    assert load_study(folder.root).tests() == [("cldr", "test", "letter")]


# --- what scaling gains
# ---------------------------------------------------------------------------------------------------


def test_the_gain_has_scipys_interval_and_languages_share_their_questions(folder: StudyFolder) -> None:
    """sw and yo answer alike, question by question, so the mean over both is known no better than each."""
    for language, seed in (("sw", 1), ("yo", 1), ("en", 2)):
        folder.add(BASE, language, drawn(seed, 200, 3.0))
    rows = rows_of(folder)
    own, low = rows["per_language", "sw"], rows["per_language", "low"]
    for row in (own, low):
        assert row["nll_change"] == pytest.approx(row["nll_after"] - row["nll_before"])
        assert row["ece_change"] == pytest.approx(row["ece_after"] - row["ece_before"])
        assert row["nll_change_high"] < 0.0
    assert [own["nll_change_low"], low["nll_change_low"]] == pytest.approx([low["nll_change_low"]] * 2)
    # T is nearly the same in each fold: by hand, at the mean T
    records = folder.records[folder.jobs[0]["job_id"]]
    scores = np.array([record.scores for record in records])
    label = [record.label for record in records]
    before, after = (
        special.log_softmax(scores / at, axis=1)[np.arange(200), label] for at in (1, own["temperature"])
    )
    expected = stats.norm.interval(0.95, np.mean(before - after), stats.sem(before - after))
    assert [own["nll_change_low"], own["nll_change_high"]] == pytest.approx(expected, rel=0.1)


def test_the_gains_of_seeds_are_averaged_with_their_spread(folder: StudyFolder) -> None:
    for seed, true in ((0, 2.0), (1, 3.0), (2, 3.5)):
        folder.add(trained(seed=seed), "en", drawn(1, 200, true))
    rows = [row for row in diagnose(folder.root).rows["temperature"] if row["name"] == "en"]
    *seeds, mean = [row for row in rows if row["scheme"] == "global"]
    values = [row["nll_change"] for row in seeds]
    assert mean["nll_change"] == pytest.approx(np.mean(values))
    half = np.mean([row["nll_change_high"] - row["nll_change_low"] for row in seeds]) / 2
    of_seeds = stats.t.ppf(0.975, 2) * stats.sem(values)
    reach = (mean["nll_change_high"] - mean["nll_change_low"]) / 2
    assert reach == pytest.approx(math.hypot(half, of_seeds))


# --- without labels
# ---------------------------------------------------------------------------------------------------


def test_without_labels_the_base_gives_the_temperature(folder: StudyFolder) -> None:
    """The trained model is the base, sharper by a known factor, and chooses otherwise on 20 items."""
    for place, (language, true) in enumerate(TRUE.items()):
        base = drawn(place, 300, 1.0)
        folder.add(BASE, language, base)
        after = [replace(row, scores=[score * true for score in row.scores]) for row in base]
        other = [replace(row, scores=[*row.scores[1:], row.scores[0]]) for row in after[:20]]
        folder.add(trained(), language, [*after[:19:-1], *other])  # in another order
    diagnosis = diagnose(folder.root)
    rows = {(row["scheme"], row["name"]): row for row in diagnosis.rows["temperature"] if row["dataset"]}
    for language, true in TRUE.items():
        row = rows["per_language", language]
        assert row["agreeing"] == 280
        assert row["temperature_label_free"] == pytest.approx(true, rel=1e-6)
        assert rows["english", language]["temperature_label_free"] == pytest.approx(TRUE["en"], rel=1e-6)
        of_base = next(row for row in diagnosis.rows["temperature"] if row["name"] == language)
        assert row["base_ece"] == of_base["ece_before"]
        assert row["base_ece_floor"] == pytest.approx(0.06, abs=0.02)
    swahili = rows["per_language", "sw"]
    records = folder.records[folder.jobs[3]["job_id"]]
    probs = special.softmax(np.array([record.scores for record in records]) / 4.0, axis=1)
    correct = [int(p) == record.label for p, record in zip(probs.argmax(axis=1), records, strict=True)]
    assert swahili["ece_after_label_free"] == pytest.approx(plain_ece(probs.max(axis=1), correct), abs=1e-6)
    everywhere = rows["global", "all"]
    assert (everywhere["agreeing"], everywhere["n"]) == (840, 900)
    assert 1.0 < everywhere["temperature_label_free"] < 4.0
    of_languages = [rows["global", language]["ece_after_label_free"] for language in TRUE]
    assert everywhere["ece_after_label_free"] == pytest.approx(np.mean(of_languages))
    assert "not calibrated itself" not in diagnosis.contents["temperature.md"]


def test_a_base_that_is_not_calibrated_is_told(folder: StudyFolder) -> None:
    for cell, true in ((BASE, 3.0), (trained(), 4.0)):
        folder.add(cell, "sw", drawn(1, 300, true))
        folder.add(cell, "en", drawn(2, 300, true / 3.0))
    rows = diagnose(folder.root).rows["temperature"]
    (base,) = (row for row in rows if (row["dataset"], row["name"], row["scheme"]) == (None, "sw", "global"))
    (text,) = uncalibrated_bases(rows)
    assert text.startswith("The base m is not calibrated itself on cldr test, letter in sw (")
    assert f"sw ({base['ece_before']:.3f}, floor " in text
    assert " en (" not in text
    assert text in (folder.root / "tables" / "temperature.md").read_text(encoding="utf-8")


def test_what_is_missing_without_labels_has_a_reason(folder: StudyFolder) -> None:
    folder.add(BASE, "sw", drawn(1, 60, 1.0))
    folder.add(BASE, "en", None, failed=True)
    for language in ("sw", "en"):
        folder.add(trained(), language, drawn(1 if language == "sw" else 2, 60, 2.0))
    folder.add({**trained(), "model": "alone"}, "sw", drawn(1, 60, 2.0))
    rows = {
        (row["model"], row["dataset"], row["scheme"], row["name"]): row
        for row in diagnose(folder.root).rows["temperature"]
    }
    own = [rows["m", "d", "per_language", name] for name in ("sw", "en", "all")]
    assert [row["label_free_missing"] for row in own] == [
        None, "no records of en of the cell or its base", "1 of 2 missing",
    ]  # fmt: skip
    assert [row["temperature_label_free"] is None for row in own] == [False, True, True]
    assert [row["agreeing"] for row in own] == [60, None, None]
    together = rows["m", "d", "global", "sw"]
    assert together["label_free_missing"] == "no records of en of the cell or its base"
    assert (together["agreeing"], together["missing"]) == (60, None)
    assert together["ece_after_label_free"] is None
    alone = rows["alone", "d", "global", "all"]["label_free_missing"]
    assert alone == "the study does not evaluate its base"
    assert rows["m", None, "per_language", "sw"]["label_free_missing"] == "is a base model"
