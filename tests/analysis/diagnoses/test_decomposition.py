"""tables/decomposition.csv: by hand, adding up, and marked where a cell has nothing to be compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.diagnoses.diagnose import diagnose
from analysis.diagnoses.rows import Row
from analysis.results.table import summarise
from study.records import Prediction
from tests.analysis.studies import StudyFolder, letter, sweep
from tests.analysis.validation_studies import trained


def find(rows: list[Row], **wanted: object) -> Row:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def certain(confidence: float, correct: list[int]) -> list[Prediction]:
    """Of two options the first is right, and predicted or not."""
    rest = (1.0 - confidence) / 4
    return [letter([confidence, rest][:: 1 if hit else -1], 0, k) for k, hit in enumerate(correct)]


def test_by_hand(folder: StudyFolder) -> None:
    """One bin: |.5 - .95|, then |.75 - .99|; the two other corners are |.5 - .99| and |.75 - .95|."""
    base = folder.add({"model": "m"}, "en", certain(0.95, [1, 1, 0, 0]))
    tuned = folder.add(trained(), "en", certain(0.99, [1, 1, 1, 0]))
    rows = diagnose(folder.root).rows["decomposition"]
    ece = find(rows, metric="ece", confidence="raw", name="en")
    assert (ece["compared_with"], ece["n"], ece["job_ids"]) == ("base", 4, [tuned, base])
    assert ece["before"] == pytest.approx(0.45, abs=1e-6)
    assert ece["after"] == pytest.approx(0.24, abs=1e-6)
    assert ece["change"] == pytest.approx(-0.21, abs=1e-6)
    assert ece["from_confidence"] == pytest.approx(0.04, abs=1e-6)
    assert ece["from_accuracy"] == pytest.approx(-0.25, abs=1e-6)
    gap = find(rows, metric="gap", confidence="raw", name="en")
    assert gap["from_confidence"] == pytest.approx(0.04, abs=1e-6)
    assert gap["from_accuracy"] == pytest.approx(-0.25, abs=1e-6)


def test_rows_add_up_and_agree_with_the_calibration_table(folder: StudyFolder) -> None:
    sweep(folder, seeds=2)
    diagnosis = diagnose(folder.root)
    study, rows = diagnosis.study, diagnosis.rows["decomposition"]
    for row in rows:
        assert row["missing"] is None
        assert row["from_confidence"] + row["from_accuracy"] == pytest.approx(row["change"], abs=1e-12)
        assert row["after"] - row["before"] == pytest.approx(row["change"], abs=1e-12)
    smoothed = next(cell for cell in study.groups() if cell.get("label_smoothing") == 0.1)
    plain = next(cell for cell in study.groups() if cell.get("label_smoothing") == 0.0)
    base = next(cell for cell in study.groups() if cell.is_base)
    test = study.tests()[0]
    for name, before in (("label_smoothing=0", plain), ("base", base)):
        for metric in ("ece", "gap"):
            chosen = [row for row in rows if row["label_smoothing"] == 0.1 and row["num_seeds"] == 2]
            row = find(chosen, compared_with=name, metric=metric, confidence="raw", name="all")
            for column, cell in (("before", before), ("after", smoothed)):
                mean = summarise(study.select(test, cell))
                assert row[column] == pytest.approx(mean.value(f"{metric}_raw"), abs=1e-12)
    assert {row["compared_with"] for row in rows if row["label_smoothing"] == 0.0} == {"base"}


def test_what_has_nothing_to_be_compared_with_is_marked(folder: StudyFolder) -> None:
    records = certain(0.9, [1, 0, 1])
    folder.add({"model": "m"}, "en", records)
    folder.add({"model": "m"}, "sw", None)
    for language in ("en", "sw", "yo"):
        folder.add(trained(), language, records)
        folder.add(trained(label_smoothing=0.1), language, None if language == "yo" else records, failed=True)
    rows = diagnose(folder.root).rows["decomposition"]
    reasons = {
        (row["label_smoothing"], row["compared_with"], row["name"]): row["missing"]
        for row in rows
        if (row["metric"], row["confidence"]) == ("ece", "raw")
    }
    assert reasons[0.0, "base", "en"] is None
    assert reasons[0.0, "base", "sw"] == "base: not done"
    assert reasons[0.0, "base", "yo"] == "base: not planned"
    assert reasons[0.0, "base", "low"] == "2 of 2 missing"
    assert reasons[0.1, "label_smoothing=0", "sw"] is None
    assert reasons[0.1, "label_smoothing=0", "yo"] == "failed"
    assert all(row["change"] is None for row in rows if row["missing"])


def test_other_items_are_not_compared(folder: StudyFolder) -> None:
    records = certain(0.9, [1, 0, 1])
    folder.add({"model": "m"}, "en", records)
    other = [replace(record, example_id=f"other {record.example_id}") for record in records]
    folder.add(trained(seed=0), "en", other)
    rows = diagnose(folder.root).rows["decomposition"]
    assert rows
    assert all("other items" in row["missing"] for row in rows)


def test_the_order_of_items_says_nothing(folder: StudyFolder) -> None:
    """Right on other items before and after: paired by place, everything would change."""
    before = [letter([p, 0.5], 0, k) for k, p in enumerate((0.9, 0.8, 0.1, 0.2, 0.7))]
    after = [letter([p, 0.4], 0, k) for k, p in enumerate((0.95, 0.3, 0.35, 0.5, 0.6))]
    folder.add({"model": "m"}, "en", before)
    shuffled = [after[k] for k in (2, 0, 4, 3, 1)]
    for seed, records in enumerate((after, shuffled)):
        folder.add(trained(seed=seed), "en", records)
    rows = diagnose(folder.root).rows["decomposition"]
    for name in ("before", "after", "change", "from_confidence", "from_accuracy"):
        ours, theirs = ([row[name] for row in rows if row["seed"] == seed] for seed in (0, 1))
        assert theirs == pytest.approx(ours, abs=1e-12), name


def test_a_study_of_base_models_has_no_such_table(folder: StudyFolder) -> None:
    table = folder.root / "tables" / "decomposition.csv"
    table.parent.mkdir()
    table.write_text("of an earlier plan")
    folder.add({"model": "m"}, "en", certain(0.9, [1, 0, 1]))
    assert diagnose(folder.root).rows["decomposition"] == []
    assert not table.exists()
