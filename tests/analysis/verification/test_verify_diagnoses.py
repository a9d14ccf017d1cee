"""`verify` on what `diagnose` writes, and the bins and records that its rows name."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from analysis.diagnoses.diagnose import FILES, diagnose
from analysis.reading.loading import load_study
from analysis.tables.files import write_tables
from analysis.verification.table_diff import key_columns, same
from analysis.verification.verify import verify
from study.files import digest
from tests.analysis.studies import StudyFolder, random_letters, sweep
from tests.analysis.validation_studies import trained, with_validation
from tests.analysis.verification.test_verify import edit_csv

BINS = {"num_bins": "15", "bin_scheme": "equal_width", "bin_edges": "(lo, hi]"}
CSV = [name for name in FILES if name.endswith(".csv")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with seeds and a shard that failed, with its tables as CSV and its diagnoses."""
    root = tmp_path_factory.mktemp("made") / "tiny"
    root.mkdir()
    sweep(StudyFolder(root), languages=["en", "sw", "yo"], count=30, seeds=2, skip=[(0.1, 0, "sw")])
    study = diagnose(root).study
    write_tables(root, formats=["csv"], study=study)
    return root


@pytest.fixture
def diagnosed(made: Path, tmp_path: Path) -> StudyFolder:
    return StudyFolder(Path(shutil.copytree(made, tmp_path / "tiny")))


def rows_of(folder: StudyFolder, name: str) -> list[dict[str, str]]:
    with (folder.root / "tables" / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def without_manifest(folder: StudyFolder) -> list[str]:
    """The differences but those of the manifest, which has the SHA-256 of every table."""
    differences = verify(folder.root).differences
    return [sentence for sentence in differences if not sentence.startswith("manifest.json")]


def test_what_was_written_is_right(diagnosed: StudyFolder) -> None:
    result = verify(diagnosed.root)
    assert result.differences == ()
    tables = ["calibration.csv", "differences.csv", *FILES, "manifest.json"]
    assert [path.name for path in result.files] == tables
    assert result.num_rows == sum(len(rows_of(diagnosed, name)) for name in tables if name.endswith(".csv"))


def test_a_changed_number_is_found_and_its_row_named(diagnosed: StudyFolder) -> None:
    """One number is changed in each table, and only these are found."""
    columns = {"temperature.csv": "ece_after", "correlations.csv": "mean_H"}
    columns |= dict.fromkeys(("decomposition.csv", "multiverse.csv"), "change")
    expected = []
    for name in CSV:
        rows, column = rows_of(diagnosed, name), columns.get(name, "accuracy")
        place = next(i for i in reversed(range(len(rows))) if rows[i][column])
        edit_csv(diagnosed.root / "tables" / name, place, column, "0.111")
        keys = [key for key in key_columns(list(rows[0])) if rows[place][key] not in ("", "none")]
        named = " ".join(f"{key}={rows[place][key]}" for key in keys)
        expected.append(f"{name}: {named}: {column} is 0.111, the records give {rows[place][column]}")
    expected += [
        f"manifest.json: {name} has changed: its SHA-256 is not the one in the manifest" for name in CSV
    ]
    assert sorted(verify(diagnosed.root).differences) == sorted(expected)


def test_a_row_is_named_by_its_keys_alone(diagnosed: StudyFolder) -> None:
    contents = {name: (diagnosed.root / "tables" / name).read_text(encoding="utf-8") for name in CSV}
    for name, content in contents.items():
        rows = rows_of(diagnosed, name)
        keys = key_columns(list(rows[0]))
        assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows)
        header, first, *rest = content.splitlines(keepends=True)
        (diagnosed.root / "tables" / name).write_text("".join([header, *rest, first]), encoding="utf-8")
    assert without_manifest(diagnosed) == []  # the order of rows says nothing
    for name, content in contents.items():
        header, _, *rest = content.splitlines(keepends=True)
        (diagnosed.root / "tables" / name).write_text("".join([header, *rest]), encoding="utf-8")
    sentences = without_manifest(diagnosed)
    assert sorted(sentence.split(":")[0] for sentence in sentences) == sorted(CSV)
    assert all(sentence.endswith(": the row is missing") for sentence in sentences)


def test_the_table_for_people_is_compared_by_line(diagnosed: StudyFolder) -> None:
    path = diagnosed.root / "tables" / "temperature.md"
    path.write_text(path.read_text(encoding="utf-8").replace("| all | base | 0.", "| all | base | 9."))
    (sentence,) = without_manifest(diagnosed)
    assert "is '| all | base | 9." in sentence
    assert "the records give '| all | base | 0." in sentence


def test_records_that_came_later(diagnosed: StudyFolder) -> None:
    done = next((diagnosed.root / "jobs").glob("*/DONE"))
    content = done.read_text()
    done.unlink()
    for name in ("calibration.csv", "differences.csv"):
        (diagnosed.root / "tables" / name).unlink()
    diagnose(diagnosed.root)
    assert verify(diagnosed.root).is_right  # without the tables of `tables` too
    done.write_text(content)
    names = {sentence.split(":")[0] for sentence in verify(diagnosed.root).differences}
    assert names == {*FILES, "manifest.json"}


def test_tables_that_are_gone_are_missed(diagnosed: StudyFolder) -> None:
    folder = diagnosed.root / "tables"
    rows = len(rows_of(diagnosed, "slices.csv"))
    before = verify(diagnosed.root).num_rows
    (folder / "slices.csv").unlink()
    result = verify(diagnosed.root)
    (sentence,) = result.differences
    assert sentence.startswith("manifest.json: slices.csv no longer exists; write them again: ")
    assert result.num_rows == before - rows
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tables": {}}))
    (sentence,) = verify(diagnosed.root).differences
    assert sentence.startswith("manifest.json: tables does not name what diagnose writes; ")


# --- the manifest
# --------------------------------------------------------------------------------------------------


def test_the_manifest_is_compared_whatever_chose(folder: StudyFolder) -> None:
    cells = [{"model": "m"}, trained(), trained(learning_rate=1e-4)]
    with_validation(folder, cells=cells, count=20, skip=["yo"])
    diagnose(folder.root, select_by="english")
    assert verify(folder.root).differences == ()
    path = folder.root / "tables" / "manifest.json"
    text = path.read_text(encoding="utf-8")
    for one, other in {
        f'"job_id": "{json.loads(text)["records"][0]["job_id"]}"': '"job_id": "eeeeeeeeeeeeeeee"',
        '"learning_rate": 1e-05': '"learning_rate": 2e-05',
        "(lo, hi]": "[lo, hi)",
        '"folds": null': '"folds": 5',
    }.items():
        assert one in text
        text = text.replace(one, other, 1)
    path.write_text(text, encoding="utf-8")
    again = f"is not what the records give; write them again: calsweep analyse diagnose {folder.root}"
    assert verify(folder.root).differences == tuple(
        f"manifest.json: {name} {again}" for name in ("bins", "temperature", "records", "learning_rates")
    )
    path.write_text(text[:-9], encoding="utf-8")
    (sentence,) = verify(folder.root).differences
    assert sentence.startswith("manifest.json: is not a manifest (")


# --- tables of an earlier version
# ---------------------------------------------------------------------------------------------------


def drop(path: Path, *columns: str) -> None:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [{k: v for k, v in row.items() if k not in columns} for row in csv.DictReader(stream)]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_tables_of_another_version_are_told_in_a_sentence_each(diagnosed: StudyFolder) -> None:
    """Tables from before rows said which bins and records they belong to."""
    tables = diagnosed.root / "tables"
    write_tables(diagnosed.root)
    drop(tables / "metrics.csv", "bin_scheme", "bin_edges", "record_hash")
    drop(tables / "differences.csv", *BINS, "record_hash_a", "record_hash_b")
    for name in ("differences.md", "differences.tex"):
        text = (tables / name).read_text(encoding="utf-8")
        (tables / name).write_text(text.replace("Bins of the ECE: ", "Bins: ").replace("records ", "jobs "))
    again = f"write them again: calsweep analyse {{}} {diagnosed.root}"
    tables_again, diagnose_again = (again.format(name) for name in ("tables", "diagnose"))
    other = "was written by another version"
    note = f"{other}, or has another note; {tables_again}"
    bins = "num_bins, bin_scheme, bin_edges"
    lacks = f"{other} (lacks the columns {bins}, record_hash_a, record_hash_b); {tables_again}"
    assert without_manifest(diagnosed) == [
        f"differences.csv: {lacks}",
        f"differences.md: {note}",
        f"differences.tex: {note}",
        f"metrics.csv: {other} (lacks the columns bin_scheme, bin_edges, record_hash); {diagnose_again}",
    ]


def test_a_table_of_an_earlier_plan(folder: StudyFolder) -> None:
    for code in ("en", "de"):
        folder.add({"model": "m"}, code, random_letters(code, 20, 1.0, 0.5, 0.9))
    diagnose(folder.root)
    (folder.root / "tables" / "decomposition.csv").write_text("benchmark,missing\ncldr,\n")
    (sentence,) = verify(folder.root).differences
    assert sentence.startswith(
        "decomposition.csv: belongs to an earlier plan or version, the records give no such"
    )


# --- where a row comes from
# ---------------------------------------------------------------------------------------------------


def test_every_row_says_its_bins_and_its_records(diagnosed: StudyFolder) -> None:
    """The hash by hand: of one job its own, of several that of the sorted pairs."""
    of_job = {shard.job_id: shard.record_hash for shard in load_study(diagnosed.root).shards}
    for table, row in [(name, row) for name in CSV for row in rows_of(diagnosed, name)]:
        if table != "multiverse.csv":  # other bins are what it is about
            assert BINS.items() <= row.items()
        jobs = row["job_ids"].split()
        there = sorted([job, hash_] for job in jobs if (hash_ := of_job[job]))
        if row["missing"] and len(there) < len(jobs):
            assert row["record_hash"] == ""
        else:
            assert row["record_hash"] == (there[0][1] if len(there) == 1 else digest(there))


def test_the_same_records_have_the_same_hash_in_every_table(diagnosed: StudyFolder) -> None:
    def jobs(row: dict[str, str], column: str = "job_ids") -> frozenset[str]:
        return frozenset(row[column].split())

    hashes = {jobs(row): row["record_hash"] for row in rows_of(diagnosed, "calibration.csv")}
    result = rows_of(diagnosed, "metrics.csv")
    assert {jobs(row) for row in result} == set(hashes)
    assert all(row["record_hash"] == hashes[jobs(row)] for row in result)
    differences = rows_of(diagnosed, "differences.csv")
    for row in differences:
        assert BINS.items() <= row.items()
        for side in ("a", "b"):
            assert row[f"record_hash_{side}"] == hashes[jobs(row, f"job_ids_{side}")]
    assert any(row["missing"] for row in differences)


def test_a_row_that_lacks_english_alone_says_its_own_records(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None)
    folder.add({"model": "m"}, "sw", random_letters("x", 20, 1.0, 0.5, 0.9))
    diagnose(folder.root)
    english, swahili = rows_of(folder, "diagnostics.csv")
    assert (english["name"], english["record_hash"]) == ("en", "")
    assert swahili["accuracy"]
    assert swahili["record_hash"] == load_study(folder.root).shards[1].record_hash


# --- tolerances
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "column", "is_same"),
    [
        ("9e-13", "3e-40", "p_value", False),
        ("9e-13", "3e-40", "holm", False),
        ("9e-13", "0.0", "p_value", False),
        ("3e-40", "3.1e-40", "p_value", False),
        ("3e-40", "3.00000000001e-40", "p_value", True),
        ("5e-324", "0.0", "p_value", True),
        ("0.04", "0.04000001", "holm", False),
        ("0.04", "0.04000001", "equivalence", False),
        ("0.04", "0.04000001", "false_discovery", False),
        ("0.5", "0.5000000000001", "ece", True),
        ("0.5", "0.50000000001", "ece", False),
        ("-1e-17", "0.0", "gap", True),
        ("1234.5", "1234.5000000001", "nll", True),
        ("1.5", "1.5000000001", "temperature", True),
        ("1.5", "1.50000001", "temperature", False),
        ("0123", "123", "record_hash_a", False),
        ("1e5", "100000", "job_ids_b", False),
        ("", "0.0", "ece", False),
        ("nan", "nan", "ece", True),
        # squares of 1e-17 and 0, as another machine may add them up
        ("3.2e-09", "-3.2e-09", "ece_l2_raw", True),
        ("3.2e-09", "0.0", "ece_l2_renormalised_low", True),
        ("0.001", "-0.001", "ece_l2_raw", False),
        ("0.1", "0.10000000001", "ece_l2_raw_high", False),
        ("", "0.0", "ece_l2_raw", False),
    ],
)
def test_what_is_the_same(one: str, other: str, column: str, is_same: bool) -> None:
    assert same(one, other, column) is is_same
    assert same(other, one, column) is is_same


def test_a_difference_of_roots_is_as_uncertain_as_they_are() -> None:
    for column in ("value", "low", "high", "equivalence"):
        assert same("0.1000000032", "0.1", column, "ece_l2_raw")
        assert not same("0.1000000032", "0.1", column, "ece_raw")
        assert not same("0.10001", "0.1", column, "ece_l2_raw")
    assert not same("0.1000000032", "0.1", "p_value", "ece_l2_raw")
