"""What the figures show is what the tables hold: their rows and their bins, and nothing missing is 0."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from analysis.figures.bins import overall_accuracy
from analysis.figures.data import (
    prepare_changes,
    prepare_diagrams,
    prepare_matrix,
    prepare_responses,
)
from analysis.metrics import ece
from analysis.reading.headline import BY_NAME, HEADLINE
from analysis.reading.loading import load_study
from analysis.reading.shards import Cell, Missing, Study
from analysis.results.settings import Setting, settings
from analysis.results.table import NOT_PLANNED, Number
from analysis.tables.calibration import Fields, table_rows
from tests.analysis.studies import StudyFolder, random_letters, sweep


def only_setting(study: Study) -> Setting:
    (setting,) = settings(study)
    return setting


def rates(folder: StudyFolder, *, skip: tuple[float, float, str] | None = None, count: int = 40) -> Study:
    """Two models, three learning rates, two smoothing factors, two languages."""
    for model in ("a/llama", "b/gemma"):
        for code in ("en", "sw"):
            folder.add({"model": model}, code, random_letters(f"{model}{code}", count, 1.8, 0.5, 0.9))
            for rate in (5e-5, 1e-5, 1e-4):  # in no order
                for smoothing in (0.0, 0.1):
                    cell = {
                        "model": model, "dataset": "alpaca", "learning_rate": rate,
                        "label_smoothing": smoothing, "seed": 42,
                    }  # fmt: skip
                    rows = random_letters(f"{model}{code}{rate}{smoothing}", count, 4.0, 0.5, 0.9)
                    is_missing = skip == (rate, smoothing, code)
                    folder.add(cell, code, None if is_missing else rows)
    return load_study(folder.root)


def rows_of(study: Study, rows: list[Fields], cell: Cell, **wanted: Any) -> list[Fields]:
    """The rows of a cell that say what is wanted; of a cell without its seed those over all of its seeds."""
    seeds = len({run.get("seed") for run in study.runs() if run.without("seed") == cell})
    return [
        row
        for row in rows
        if all(row.get(axis) == value for axis, value in cell.axes)
        and (not cell.is_base or row.get("dataset") is None)
        and row["num_seeds"] == seeds
        and all(row[key] == value for key, value in wanted.items())
    ]


def check_value(value: Number, row: Fields, metric: str) -> None:
    assert (value.value, value.missing and str(value.missing)) == (row[metric], row["missing"])
    assert value.floor is None
    assert (value.low is None) == (value.high is None) == (value.value is None)
    if value.low is not None and value.high is not None and value.value is not None:
        assert value.low < value.high
        assert value.low <= value.value <= value.high


def test_a_matrix_is_the_tables_language_rows(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, seeds=2, skip=[(0.1, 1, "sw")]).root)
    setting, rows = only_setting(study), table_rows(study)
    for metric in HEADLINE:
        matrix = prepare_matrix(study, setting, metric)
        assert matrix.languages == ("de", "en", "uk", "sw", "yo")
        assert matrix.labels == ("base", "SFT ε=0", "SFT ε=0.1")
        for code, values in zip(matrix.languages, matrix.rows, strict=True):
            for item, value in zip(setting.series, values, strict=True):
                (row,) = rows_of(study, rows, item.cell, level="language", name=code)
                check_value(value, row, metric.name)
        assert str(matrix.rows[3][2].missing) == "1 of 2 missing"


def test_changes_are_differences_of_rows_and_nothing_missing_becomes_0(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, seeds=1, skip=[(0.1, 0, "sw")]).root)
    setting, rows = only_setting(study), table_rows(study)
    changes = prepare_changes(prepare_matrix(study, setting, BY_NAME["ece_raw"]))
    assert changes.labels == ("SFT ε=0", "SFT ε=0.1")
    for code, values in zip(changes.languages, changes.rows, strict=True):
        (base,) = rows_of(study, rows, setting.series[0].cell, level="language", name=code)
        for item, value in zip(setting.series[1:], values, strict=True):
            (row,) = rows_of(study, rows, item.cell, level="language", name=code)
            is_missing = item.label == "SFT ε=0.1" and code == "sw"
            assert value.value == (None if is_missing else row["ece_raw"] - base["ece_raw"])
            assert value.missing == (Missing("failed") if is_missing else None)


def test_what_was_not_asked_is_not_missing(folder: StudyFolder) -> None:
    sweep(folder, seeds=1, languages=["en"])
    folder.add({"model": "cldr-tiny"}, "sw", random_letters("x", 30, 2.0, 0.5, 0.9))
    study = load_study(folder.root)
    matrix = prepare_matrix(study, only_setting(study), BY_NAME["accuracy"])
    assert [value.missing for value in matrix.rows[1]] == [None, NOT_PLANNED.missing, NOT_PLANNED.missing]
    (_, (_, sft, _)) = prepare_diagrams(study, only_setting(study), "raw", "language").rows
    assert (sft.bins, sft.ece, sft.num_shards) == (None, None, 0)


def test_diagrams_hold_the_bins_of_the_tables(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, seeds=1).root)
    setting, rows = only_setting(study), table_rows(study)
    for kind in ("raw", "renormalised"):
        languages = prepare_diagrams(study, setting, kind, "language")
        for code, diagrams in zip(languages.names, languages.rows, strict=True):
            for item, one in zip(setting.series, diagrams, strict=True):
                (shard,) = study.select(setting.test, item.cell, code)
                assert shard.bins is not None
                assert one.bins is not None
                for name in ("lo", "hi", "count", "confidence", "accuracy"):
                    np.testing.assert_array_equal(getattr(one.bins, name), getattr(shard.bins[kind], name))
                (row,) = rows_of(study, rows, item.cell, level="language", name=code)
                assert (one.ece, one.bins.num_examples) == (row[f"ece_{kind}"], row["n"])
        buckets = prepare_diagrams(study, setting, kind, "bucket")
        assert buckets.names == ("all", "high", "mid", "low")
        for name, diagrams in zip(buckets.names, buckets.rows, strict=True):
            for item, one in zip(setting.series, diagrams, strict=True):
                (row,) = rows_of(study, rows, item.cell, name=name, average="micro")
                assert one.bins is not None
                assert one.ece == pytest.approx(row[f"ece_{kind}"], abs=1e-12)
                assert one.bins.num_examples == row["n"]
                assert overall_accuracy(one.bins) == pytest.approx(row["accuracy"], abs=1e-12)


def test_seeds_are_pooled_in_diagrams(folder: StudyFolder) -> None:
    """Against the ECE of the predictions themselves, computed from their records."""
    sweep(folder, seeds=3, languages=["en"])
    study = load_study(folder.root)
    ((_, sft, _),) = prepare_diagrams(study, only_setting(study), "raw", "language").rows
    confidence, correct = [], []
    for job in folder.jobs:
        if job["cell"].get("label_smoothing") == 0.0:
            for record in folder.records[job["job_id"]]:
                scores = np.asarray(record.scores, dtype=np.float32).astype(np.float64)
                confidence.append(float(np.exp(scores.max())))
                correct.append(bool(scores.argmax() == record.label))
    assert sft.num_seeds == 3
    assert sft.bins is not None
    assert sft.bins.num_examples == len(confidence) == 180
    assert sft.ece == pytest.approx(ece(confidence, correct), abs=1e-12)


def test_a_diagram_with_a_missing_shard_has_no_ece(folder: StudyFolder) -> None:
    study = load_study(sweep(folder, seeds=1, skip=[(0.1, 0, "sw")]).root)
    buckets = prepare_diagrams(study, only_setting(study), "raw", "bucket")
    every = dict(zip(buckets.names, buckets.rows, strict=True))
    assert [(one.ece is None, one.num_missing) for one in every["low"]] == [(False, 0), (False, 0), (True, 1)]
    assert every["low"][2].bins is not None
    assert every["high"][2].ece is not None


def test_responses_are_the_tables_macro_rows(folder: StudyFolder) -> None:
    study = rates(folder, skip=(5e-5, 0.1, "sw"))
    responses, rows = prepare_responses(study), table_rows(study)
    assert [response.label for response in responses] == ["llama", "gemma"]
    for model, response in zip(("a/llama", "b/gemma"), responses, strict=True):
        assert response.axis == "learning_rate"
        assert response.x == (1e-5, 5e-5, 1e-4)
        assert response.lines == ("SFT ε=0", "SFT ε=0.1")
        assert response.groups == ("all", "high", "low")
        for (metric, group), lines in response.values.items():
            for smoothing, values in zip((0.0, 0.1), lines, strict=True):
                for rate, value in zip(response.x, values, strict=True):
                    (row,) = (
                        row
                        for row in rows
                        if (row["model"], row["learning_rate"], row["label_smoothing"])
                        == (model, rate, smoothing)
                        and (row["name"], row["average"]) == (group, "macro")
                    )
                    check_value(value, row, metric)
            (row,) = rows_of(study, rows, Cell((("model", model),)), name=group, average="macro")
            check_value(response.base[metric, group], row, metric)
        assert response.values["ece_l2_raw", "low"][1][1].value is None
        assert response.values["ece_l2_raw", "high"][1][1].value is not None


def test_a_response_to_smoothing_alone_and_none_without_a_choice(folder: StudyFolder) -> None:
    (response,) = prepare_responses(load_study(sweep(folder, seeds=1).root))
    assert (response.axis, response.x, response.lines) == ("label_smoothing", (0.0, 0.1), ("SFT",))
    shutil.rmtree(folder.root)
    folder.root.mkdir()
    folder.jobs.clear()
    folder.add({"model": "m"}, "en", random_letters("m", 30, 2.0, 0.5, 0.9))
    assert prepare_responses(load_study(folder.root)) == []
