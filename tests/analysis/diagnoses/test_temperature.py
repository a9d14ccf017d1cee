"""tables/temperature.*: known temperatures come back, and nothing of the test split enters a fitted one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from analysis.diagnoses.diagnose import diagnose
from analysis.diagnoses.rows import Row
from analysis.diagnoses.temperature import CROSS_FITTED
from analysis.reading.loading import load_study
from analysis.reading.shards import BUCKETS
from study.languages import LANGUAGES
from tests.analysis.studies import StudyFolder, letter
from tests.analysis.validation_studies import TRUE, drawn, plain_ece, trained, with_validation

special = pytest.importorskip("scipy.special")


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
    cells = [{"model": "m"}] + [
        trained(label_smoothing=eps, seed=seed) for eps in (0.0, 0.1) for seed in (0, 1)
    ]
    for place, cell in enumerate(cells):
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
    assert [line[1] for line in lines] == ["base", "SFT ε=0", "SFT ε=0.1"]
    assert lines[2][2:] == [f"{rows[-1]['ece_before']:.3f}", f"{rows[-1]['ece_after']:.3f}"]
    assert load_study(folder.root).tests() == [("cldr", "test", "letter")]
