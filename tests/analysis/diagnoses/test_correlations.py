"""tables/correlations.csv: against SciPy, with the numbers of the calibration table."""

from __future__ import annotations

import pytest

from analysis.diagnoses.correlations import METRICS
from analysis.diagnoses.diagnose import diagnose
from analysis.diagnoses.rows import Row
from analysis.reading.shards import Shard
from analysis.results.table import summarise
from study.languages import LANGUAGES
from tests.analysis.studies import LANGUAGES as CODES
from tests.analysis.studies import StudyFolder, letter, sweep

stats = pytest.importorskip("scipy.stats")


def test_it_is_scipys_and_means_are_by_hand(folder: StudyFolder) -> None:
    sweep(folder, seeds=2)
    diagnosis = diagnose(folder.root)
    study, rows = diagnosis.study, diagnosis.rows["correlations"]
    test = study.tests()[0]
    assert len(rows) == len(METRICS) * (1 + 2 * 4 + 2 * 2)  # the base; 4 runs and 2 means, and their changes
    for cell in [*study.runs(), *study.groups()]:
        for metric in METRICS:
            values, bases = (
                [_value(study.select(test, one, code), metric) for code in CODES]
                for one in (cell, study.groups()[0])
            )
            num_seeds = 1 if cell.is_base or cell.get("seed") is not None else 2
            chosen = [
                row
                for row in rows
                if (row["label_smoothing"], row["seed"], row["num_seeds"], row["metric"])
                == (cell.get("label_smoothing"), cell.get("seed"), num_seeds, metric)
            ]
            changes = [one - base for one, base in zip(values, bases, strict=True)]
            _check(chosen[0], values)
            if cell.is_base:
                assert [row["quantity"] for row in chosen] == ["value"]
            else:
                assert [row["quantity"] for row in chosen] == ["value", "change against base"]
                _check(chosen[1], changes)


def _value(shards: list[Shard], metric: str) -> float:
    metrics = summarise(shards).metrics
    assert metrics is not None
    return metrics[metric]


def _check(row: Row, values: list[float]) -> None:
    truth = stats.spearmanr([LANGUAGES[code].joshi for code in CODES], values)
    assert row["spearman_joshi"] == pytest.approx(truth.statistic, abs=1e-9)
    assert 0.0 < row["p_value"] <= 1.0
    kinds = {code: LANGUAGES[code].translation for code in CODES}
    assert kinds["en"] == "orig"
    for kind in ("orig", "H", "B", "M"):
        members = [value for code, value in zip(CODES, values, strict=True) if kinds[code] == kind]
        assert row[f"num_languages_{kind}"] == (len(members) or None)
        expected = pytest.approx(sum(members) / len(members)) if members else None
        assert row[f"mean_{kind}"] == expected


def test_a_correlation_over_fewer_languages_than_planned_is_missing(folder: StudyFolder) -> None:
    sweep(folder, seeds=1, skip=[(0.1, 0, "sw")])
    rows = diagnose(folder.root).rows["correlations"]
    for row in rows:
        is_missing = row["label_smoothing"] == 0.1
        assert row["missing"] == ("1 of 5 languages missing" if is_missing else None)
        assert (row["spearman_joshi"] is None) == is_missing


def test_few_or_alike_languages_have_no_correlation(folder: StudyFolder) -> None:
    records = [letter([0.5, 0.2], 0, k) for k in range(3)]
    for code in ("de", "en", "fr"):
        folder.add({"model": "m"}, code, records)
    reasons = {row["missing"] for row in diagnose(folder.root).rows["correlations"]}
    assert reasons == {"3 languages, a correlation needs 4"}
    folder.add({"model": "m"}, "es", records)
    rows = diagnose(folder.root).rows["correlations"]
    assert {row["missing"] for row in rows} == {"all languages are of one Joshi class"}
    assert {row["mean_H"] for row in rows if row["metric"] == "accuracy"} == {1.0}
    folder.add({"model": "m"}, "sw", records)
    reasons = {row["missing"] for row in diagnose(folder.root).rows["correlations"]}
    assert reasons == {"the numbers are all equal"}
