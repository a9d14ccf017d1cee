"""tables/slices.csv: by hand, over the items' tables that evaluation writes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.diagnoses.diagnose import diagnose
from evaluation.items.item import Item
from evaluation.shard import _write_items
from study.jobs.specs import Benchmark, EvalSpec, Source, to_dict
from tests.analysis.studies import StudyFolder, letter
from tests.analysis.validation_studies import plain_ece

BENCHMARK = Benchmark("my bench/1", Source("embedded", "cldr", "0123456789ab"), "global_mmlu")
CERTAIN = [0.9, 0.05], [0.8, 0.1], [0.6, 0.3], [0.3, 0.4]
LABELS = (0, 1, 0, 1)
SUBJECTS, SENSITIVITY = ("law", "art", "law", "art"), ("CS", None, "CA", "CS")


def item(number: int) -> Item:
    return Item(
        f"item-{number}",
        SUBJECTS[number],
        "Why?",
        ("x", "y"),
        LABELS[number],
        category="all",
        cultural_sensitivity=SENSITIVITY[number],
    )


def add(
    folder: StudyFolder, language: str, *, answers: Sequence[int] | None = range(4), items: bool = True
) -> str:
    rows = None if answers is None else [letter(CERTAIN[k], LABELS[k], k) for k in answers]
    job_id = folder.add({"model": "m"}, language, rows, benchmark=BENCHMARK.name)
    spec = EvalSpec(Source("hub", "m", "0123456789ab"), BENCHMARK, language)
    folder.jobs[-1]["spec"] = {k: v for k, v in to_dict(spec).items() if k != "model"}
    folder.write_plan()
    if items:
        _write_items(folder.root / "items", spec, [item(k) for k in range(4)])
    return job_id


def slices(folder: StudyFolder) -> list[dict[str, Any]]:
    diagnose(folder.root)
    with (folder.root / "tables" / "slices.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_by_hand(folder: StudyFolder) -> None:
    job_id = add(folder, "en")
    rows = {(row["sliced_by"], row["slice"]): row for row in slices(folder) if row["level"] == "language"}
    assert set(rows) == {
        ("subject", "art"), ("subject", "law"), ("category", "all"),
        ("cultural_sensitivity", "CA"), ("cultural_sensitivity", "CS"),
    }  # fmt: skip
    members = {
        ("subject", "art"): [1, 3],
        ("cultural_sensitivity", "CS"): [0, 3],
        ("category", "all"): [0, 1, 2, 3],
    }
    for key, chosen in members.items():
        row = rows[key]
        raw = [max(CERTAIN[k]) for k in chosen]
        renormalised = [max(CERTAIN[k]) / sum(CERTAIN[k]) for k in chosen]
        correct = [CERTAIN[k][LABELS[k]] == max(CERTAIN[k]) for k in chosen]
        assert (row["n"], row["missing"], row["job_ids"]) == (str(len(chosen)), "", job_id)
        assert float(row["accuracy"]) == sum(correct) / len(chosen)
        assert float(row["confidence_raw"]) == pytest.approx(sum(raw) / len(chosen), abs=1e-6)
        assert float(row["ece_raw"]) == pytest.approx(plain_ece(raw, correct), abs=1e-6)
        assert float(row["ece_renormalised"]) == pytest.approx(plain_ece(renormalised, correct), abs=1e-6)
    # two examples in two bins: E|c - y| by the normal approximation, sqrt(2 c (1 - c) / pi) each
    floor = sum((2 / 3.141592653589793 * c * (1 - c)) ** 0.5 for c in (0.9, 0.4)) / 2
    assert float(rows["cultural_sensitivity", "CS"]["ece_floor_raw"]) == pytest.approx(floor, abs=1e-6)


def test_means_over_languages(folder: StudyFolder) -> None:
    add(folder, "sw")
    add(folder, "yo", answers=(0, 3, 1, 2))
    rows = [row for row in slices(folder) if row["slice"] == "CS"]
    assert [row["name"] for row in rows] == ["sw", "yo", "low", "all"]
    assert [row["n"] for row in rows] == ["2", "2", "4", "4"]
    assert len({row["ece_raw"] for row in rows}) == 1


def test_a_language_that_is_missing_takes_the_means_with_it(folder: StudyFolder) -> None:
    add(folder, "en")
    add(folder, "sw", answers=None)
    rows = slices(folder)
    marked = [row for row in rows if row["level"] == "language" and row["missing"]]
    assert [(row["name"], row["sliced_by"], row["missing"]) for row in marked] == [("sw", "", "not done")]
    means = {row["name"]: row for row in rows if row["slice"] == "CS" and row["level"] != "language"}
    assert means["high"]["missing"] == ""
    assert (means["low"]["missing"], means["low"]["n"]) == ("not done", "")
    assert (means["all"]["missing"], means["all"]["accuracy"]) == ("1 of 2 missing", "")


def test_without_an_items_table_there_are_the_subjects_of_the_records(folder: StudyFolder) -> None:
    add(folder, "en", items=False)
    rows = slices(folder)
    assert rows[0]["missing"].startswith("no items table")
    assert {(row["sliced_by"], row["slice"]) for row in rows[1:]} == {("subject", "capital")}
    assert {row["n"] for row in rows[1:]} == {"4"}


def test_an_item_that_the_table_lacks_is_refused_in_one_sentence(folder: StudyFolder, tmp_path: Path) -> None:
    from study.errors import RecordError

    add(folder, "en", items=False)
    spec = EvalSpec(Source("hub", "m", "0123456789ab"), BENCHMARK, "en")
    _write_items(folder.root / "items", spec, [item(k) for k in range(3)])
    with pytest.raises(RecordError, match=r"en\.parquet: there is no item 'item-3'"):
        diagnose(folder.root)
