"""`calsweep analyse diagnose`: files, what is printed, half-finished studies; the same bytes every time."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cli import main
from analysis.diagnoses import diagnose as diagnoses
from analysis.diagnoses.rows import Row, Table, finished, language_rows, with_macro
from analysis.reading.cell_records import UNSMOOTHED, CellRecords
from analysis.reading.loading import load_study, visit_study
from analysis.reading.shards import Cell
from analysis.results.selection import CRITERIA
from analysis.verification.verify import verify
from study.languages import LANGUAGES
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep
from tests.analysis.validation_studies import trained, with_validation
from tests.analysis.verification.test_verify import edit_csv

TABLES = (
    "correlations.csv",
    "decomposition.csv",
    "diagnostics.csv",
    "metrics.csv",
    "multiverse.csv",
    "slices.csv",
    "temperature.csv",
)


def read(folder: StudyFolder, name: str) -> list[dict[str, str]]:
    with (folder.root / "tables" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def manifest(folder: StudyFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder.root / "tables" / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_a_finished_study(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(folder, seeds=2)
    assert main(["diagnose", str(folder.root)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for words in (
        "ECE after temperature scaling",
        "cross-fitted in 5 folds",
        "SFT ε=0.1",
        "Spearman",
    ):
        assert words in " ".join(printed.out.split())
    assert "nothing was selected: 0.001 is the only learning rate (2 of 2 groups of cells)" in printed.out
    paths = [line for line in printed.out.splitlines() if line.startswith(str(folder.root))]
    assert {Path(path).name for path in paths} == {
        *TABLES,
        "multiverse.md",
        "temperature.md",
        "manifest.json",
    }
    for name in TABLES:
        rows = read(folder, name)
        assert all(row["job_ids"] for row in rows)
        assert not {"nan", "inf"} & {value for row in rows for value in row.values()}
        assert "float64" not in (folder.root / "tables" / name).read_text(encoding="utf-8")
        assert all(not row["missing"] for row in rows) or name == "slices.csv"


def test_the_manifest_says_what_entered(folder: StudyFolder) -> None:
    with_validation(
        folder, cells=[{"model": "m"}, trained(), trained(learning_rate=1e-4)], count=30, skip=["yo"]
    )
    main(["diagnose", str(folder.root)])
    found, study = manifest(folder), load_study(folder.root)
    assert {entry["job_id"]: entry["record_hash"] for entry in found["records"]} == {
        shard.job_id: shard.record_hash for shard in study.shards if not shard.missing
    }
    assert [(entry["job_id"], entry["reason"]) for entry in found["missing"]] == [
        (shard.job_id, "not done") for shard in study.missing
    ]
    assert found["bins"] == {"num_bins": 15, "bin_scheme": "equal_width", "bin_edges": "(lo, hi]"}
    assert found["temperature"]["fitted_on"] == [
        {"test": ["cldr", "test", "letter"], "validation": ["cldr", "validation", "letter"], "folds": None}
    ]
    (selection,) = found["learning_rates"]
    assert selection["chosen"] is None
    assert [one["missing"] for one in selection["candidates"]] == ["1 of 3 validation shards missing"] * 2
    assert selection["cell"] == {"model": "m", "dataset": "d", "label_smoothing": 0.0}
    for name, sha256 in found["tables"].items():
        assert hashlib.sha256((folder.root / "tables" / name).read_bytes()).hexdigest() == sha256
    assert set(found["tables"]) == {*TABLES, "multiverse.md", "temperature.md", "selection.csv"}
    main(["diagnose", str(folder.root), "--select-by", "english"])
    (selection,) = manifest(folder)["learning_rates"]
    assert selection["chosen"] == 1e-5
    assert [one["value"] for one in selection["candidates"]] == [selection["candidates"][0]["value"]] * 2


def test_the_same_records_give_the_same_bytes_anywhere(folder: StudyFolder, tmp_path: Path) -> None:
    with_validation(sweep(folder, seeds=1), count=40)
    elsewhere = tmp_path / "moved" / "deep" / folder.root.name
    shutil.copytree(folder.root, elsewhere)
    contents = []
    for root in (folder.root, elsewhere):
        assert main(["diagnose", str(root)]) == 0
        contents.append({path.name: path.read_bytes() for path in (root / "tables").iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("keep", [0, 1, 7, 14])
def test_half_finished_studies(keep: int, folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(folder, seeds=1)
    for place, job in enumerate(folder.jobs):
        if place >= keep:
            (folder.root / "jobs" / job["job_id"] / "DONE").unlink()
    assert main(["diagnose", str(folder.root)]) == 0
    assert f"{15 - keep} of 15 shards are missing" in capsys.readouterr().err
    for name in TABLES:
        if name == "multiverse.csv" and keep < 7:  # no contrast has a value
            continue
        for row in read(folder, name):
            numbers = [row[key] for key in ("n", "ece_after", "change", "accuracy") if key in row]
            if row["missing"]:
                assert set(numbers) <= {""}
            elif numbers:
                assert "" not in numbers
    assert len(manifest(folder)["records"]) == keep


def test_an_unreadable_shard_is_told(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(folder, seeds=1)
    part = next((folder.root / "jobs" / folder.jobs[3]["job_id"] / "predictions").iterdir())
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert main(["diagnose", str(folder.root)]) == 0
    assert "SHA-256" in capsys.readouterr().err
    assert "SHA-256" in manifest(folder)["missing"][0]["reason"]


def test_a_folder_that_is_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "is not a study (no plan.json)" in capsys.readouterr().err
    assert not (tmp_path / "tables").exists()


def test_only_a_validation_split(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """One may choose a learning rate before anything is tested."""
    for rate, p in ((1e-5, 0.6), (1e-4, 0.7)):
        rows = [letter([p, 1 - p], 0, k) for k in range(9)]
        folder.add(trained(learning_rate=rate), "en", rows, split="validation")
    assert main(["diagnose", str(folder.root)]) == 0
    assert "0.0001, lowest NLL over the options on the validation splits" in " ".join(
        capsys.readouterr().out.split()
    )
    assert {path.name for path in (folder.root / "tables").iterdir()} == {
        "manifest.json",
        "selection.csv",
    }


Compared = tuple[dict[str, Cell], tuple[str, ...]]


def compared(records: CellRecords) -> Compared:
    """The cells that one is compared with, and the languages of its validation split."""
    validation = records.validation
    return (
        {name: cell.cell for name, cell in records.before.items()},
        () if validation is None else tuple(validation.shards),
    )


@pytest.mark.parametrize("num_processes", [1, 2])
def test_cells_are_visited_once_and_after_what_they_are_compared_with(
    num_processes: int, folder: StudyFolder
) -> None:
    sweep(folder, seeds=2, languages=["en", "sw"], count=20)
    rows = random_letters("v", 10, 2.0, 0.6, 0.9)
    folder.add({"model": "cldr-tiny"}, "en", rows, split="validation")
    folder.add({"model": "other"}, "en", rows, benchmark="no validation")
    folder.jobs.reverse()
    folder.write_plan()
    study, visited = visit_study(folder.root, lambda planned: compared, num_processes=num_processes)
    test, alone = ("cldr", "test", "letter"), ("no validation", "test", "letter")
    cells = [cell for cell in study.runs() if cell.get("model") != "other"]
    base = next(cell for cell in cells if cell.is_base)
    expected: dict[tuple[tuple[str, str, str], Cell], Compared] = {(alone, study.runs()[0]): ({}, ())}
    for cell in cells:
        before = {} if cell.is_base else {"base": base}
        if cell.get("label_smoothing"):
            before[UNSMOOTHED] = next(
                other
                for other in cells
                if other.get("label_smoothing") == 0.0 and other.get("seed") == cell.get("seed")
            )
        expected[test, cell] = (before, ("en",) if cell.is_base else ())
    assert visited == expected
    assert not study.missing


@given(st.dictionaries(st.sampled_from([*sorted(LANGUAGES), "xx"]), st.floats(0, 1) | st.none(), min_size=1))
def test_macro_means_are_pythons(values: dict[str, float | None]) -> None:
    rows = [
        finished(
            {"level": "language", "name": code},
            "not done" if x is None else {"x": x, "n": 3},
            [code],
        )
        for code, x in values.items()
    ]
    means = {row["name"]: row for row in list(with_macro(rows, ["x", "n"]))[len(rows) :]}
    buckets = {code: LANGUAGES[code].bucket if code in LANGUAGES else "other" for code in values}
    assert set(means) == {*buckets.values(), "all"}
    for name, row in means.items():
        members = [code for code in values if name in (buckets[code], "all")]
        found = [x for code in members if (x := values[code]) is not None]
        if len(found) == len(members):
            assert row["x"] == pytest.approx(math.fsum(found) / len(found))
            assert (row["n"], row["missing"]) == (3 * len(found), None)
        else:
            assert (row["x"], row["n"]) == (None, None)
            assert row["missing"]
        assert row["job_ids"] == members


def test_a_mean_over_seeds_has_no_number_where_a_seed_is_missing() -> None:
    row = {
        "seed": 0,
        "num_seeds": 1,
        "name": "en",
        "missing": None,
        "x": 1.0,
        "num_bins": 15,
        "job_ids": ["a"],
    }
    missing_row = {**row, "seed": 1, "missing": "not done", "x": None, "job_ids": ["b"]}
    table = Table("t", ("name",), ("x",))
    assert table.with_seed_means([row, {**row, "seed": 1, "x": 2.0}], ["seed"])[-1]["x"] == 1.5
    mean = table.with_seed_means([row, missing_row], ["seed"])[-1]
    assert (mean["missing"], mean["x"], mean["num_seeds"], mean["seed"]) == ("1 of 2 missing", None, 2, None)
    assert mean["job_ids"] == ["a", "b"]


def accuracy_rows(records: CellRecords) -> list[Row]:
    return language_rows(
        records,
        {"by": "language"},
        lambda code: {"share": float(np.mean(records.answers[code].examples.correct))},
    )


def test_a_table_is_added_by_one_entry(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written, averaged over seeds, hashed, listed in the manifest, and verified."""
    table = Table("shares", ("by", "name"), ("share",), accuracy_rows, over_seeds=True)
    monkeypatch.setattr(diagnoses, "TABLES", (*diagnoses.TABLES, table))
    sweep(folder, seeds=2, count=30, skip=[(0.1, 1, "sw")])
    diagnosis = diagnoses.diagnose(folder.root)
    rows = read(folder, "shares.csv")
    accuracy = [row for row in read(folder, "diagnostics.csv") if row["label_smoothing"] == "0.0"]
    for language in ("en", "sw"):
        of_seeds = [float(row["accuracy"]) for row in accuracy if row["name"] == language]
        unsmoothed = [row for row in rows if row["label_smoothing"] == "0.0" and row["name"] == language]
        assert [row["num_seeds"] for row in unsmoothed] == ["1", "1", "2"]
        assert float(unsmoothed[-1]["share"]) == pytest.approx(sum(of_seeds) / 2)
        assert all(len(row["record_hash"]) == 16 for row in unsmoothed)
    missing = {(row["name"], row["seed"]): row["missing"] for row in rows if row["label_smoothing"] == "0.1"}
    assert (missing["sw", "1"], missing["sw", ""]) == ("not done", "1 of 2 missing")
    assert folder.root / "tables" / "shares.csv" in diagnosis.written
    assert "shares.csv" in manifest(folder)["tables"]
    assert verify(folder.root).is_right
    edit_csv(folder.root / "tables" / "shares.csv", 0, "share", "0.111")
    sentences = [text for text in verify(folder.root).differences if text.startswith("shares.csv")]
    assert len(sentences) == 1
    assert "by=language name=de: share is 0.111, the records give" in sentences[0]


def test_the_choices_of_the_command_are_those_of_the_selection() -> None:
    for name in CRITERIA:
        assert main(["diagnose", "/nowhere", "--select-by", name]) == 2
    with pytest.raises(SystemExit):
        main(["diagnose", "/nowhere", "--select-by", "best"])
