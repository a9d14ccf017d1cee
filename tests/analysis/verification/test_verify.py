"""`verify`: what was written follows from the records, or the cell that does not is named."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from analysis.cli import main
from analysis.reading.loading import load_study
from analysis.tables import differences
from analysis.tables.calibration import table_rows
from analysis.tables.files import write_tables
from analysis.verification.verify import verify
from study.errors import UserError
from study.records import ShardInfo, write_part
from tests.analysis.studies import StudyFolder, random_letters, sweep

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CELL = "benchmark=cldr split=test protocol=letter model=cldr-tiny dataset=cldr-instruct learning_rate=0.001"


NAMES = [
    f"{table}.{end}" for table in ("calibration", "differences") for end in ("csv", "md", "tex", "parquet")
]


def parts_of(folder: StudyFolder, job_id: str) -> list[Path]:
    return sorted((folder.root / "jobs" / job_id / "predictions").iterdir())


def job_of(folder: StudyFolder, language: str, smoothing: float, seed: int) -> str:
    (job_id,) = (
        shard.job_id
        for shard in load_study(folder.root).shards
        if (shard.language, shard.cell.get("label_smoothing"), shard.cell.get("seed"))
        == (language, smoothing, seed)
    )
    return job_id


def edit_csv(path: Path, row: int, column: str, value: str) -> None:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    rows[row][column] = value
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_what_was_written_is_right(written: StudyFolder) -> None:
    result = verify(written.root)
    assert result.is_right
    assert (result.num_shards, result.num_missing, result.num_refused) == (25, 2, 0)
    study = load_study(written.root)
    assert result.num_rows == len(table_rows(study)) + len(differences.table_rows(study))
    assert [path.name for path in result.files] == NAMES


def test_every_number_of_a_row_is_compared(written: StudyFolder) -> None:
    """Each column is changed in its last places, in one row after the other; exactly these are found."""
    path = written.root / "tables" / "calibration.csv"
    rows = table_rows(load_study(written.root))
    trained = [i for i, row in enumerate(rows) if row["label_smoothing"] is not None]
    complete = iter([i for i in trained if rows[i]["missing"] is None])
    truth = []
    for column, value in rows[0].items():
        if isinstance(value, float):
            place = next(complete)
            row = rows[place]
            edit_csv(path, place, column, repr(row[column] + 1e-9))
            average = "" if row["average"] == "none" else f" average={row['average']}"
            seed = "" if row["seed"] is None else f" seed={row['seed']}"
            truth.append(
                f"calibration.csv: {CELL} label_smoothing={row['label_smoothing']}{seed} "
                f"level={row['level']} name={row['name']}{average}: {column} is {row[column] + 1e-9!r}, "
                f"the records give {row[column]!r}"
            )
    # accuracy, NLL, Brier score, option mass; confidence, gap, L2 ECE, AUROC, AURC
    with_interval = 4 + 2 * 5
    assert len(truth) == 1 + 2 * 2 + 3 * with_interval  # chance, and the ECEs with their floors
    assert sorted(verify(written.root).differences) == sorted(truth)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("n", "61"),
        ("num_bins", "10"),
        ("bin_scheme", "equal_mass"),
        ("record_hash", "0" * 16),
        ("missing", "failed"),
    ],
)
def test_what_is_no_metric_is_compared_too(written: StudyFolder, column: str, value: str) -> None:
    edit_csv(written.root / "tables" / "calibration.csv", 0, column, value)
    (sentence,) = verify(written.root).differences
    assert f"level=language name=de: {column} is {value}, the records give" in sentence


def test_a_zero_for_what_is_missing_is_a_difference(written: StudyFolder) -> None:
    rows = table_rows(load_study(written.root))
    place = next(i for i, row in enumerate(rows) if row["missing"] == "failed")
    edit_csv(written.root / "tables" / "calibration.csv", place, "accuracy", "0.0")
    (sentence,) = verify(written.root).differences
    assert "name=sw: accuracy is 0.0, the records give none" in sentence


def test_rows_that_are_lost_or_too_many(written: StudyFolder) -> None:
    path = written.root / "tables" / "calibration.csv"
    header, first, second, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([header, second, second, *rest]), encoding="utf-8")
    doubled, lost = verify(written.root).differences
    assert "level=language name=en: is not a row of this study, or occurs twice" in doubled
    assert "level=language name=de: the row is missing" in lost
    path.write_text("".join([header, *rest, second, first]), encoding="utf-8")
    assert verify(written.root).is_right  # the order of rows says nothing


def test_parquet_is_compared_by_field(written: StudyFolder) -> None:
    path = written.root / "tables" / "calibration.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[3]["nll"] += 1e-6
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    (sentence,) = verify(written.root).differences
    assert sentence.startswith("calibration.parquet: benchmark=cldr ")
    assert ": nll is " in sentence


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_tables_for_people_are_compared_by_line(written: StudyFolder, suffix: str) -> None:
    path = written.root / "tables" / f"calibration.{suffix}"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if "cldr-instruct" in line and " sw " in line)
    right = lines[place].rstrip("\n")
    lines[place] = right.replace(".", ",", 1) + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    (sentence,) = verify(written.root).differences
    wrong = lines[place].rstrip("\n")
    assert sentence == f"{path.name}: line {place + 1} is '{wrong}', the records give '{right}'"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_that_is_none(written: StudyFolder, name: str) -> None:
    (written.root / "tables" / name).write_bytes(b"\xff\xfe a,b\n1")
    differences = verify(written.root).differences
    assert len(differences) == 1
    assert differences[0].startswith(f"{name}: is not a table (")


def test_tables_written_before_the_rest_was_done(written: StudyFolder) -> None:
    job_id = job_of(written, "sw", 0.1, 0)
    written.records[job_id] = random_letters("late", 60, 1.0, 0.5, 0.9)
    info = ShardInfo(job_id, "cldr-tiny", "cldr", "sw", "test", "letter")
    write_part(written.root / "jobs" / job_id / "predictions", 0, written.records[job_id], info)
    written.write_done(job_id)
    result = verify(written.root)
    assert not result.is_right
    assert result.num_missing == 1
    cell = f"calibration.csv: {CELL} label_smoothing=0.1 seed=0 level=language name=sw: missing is failed,"
    assert any(sentence.startswith(cell) for sentence in result.differences)
    write_tables(written.root)
    assert verify(written.root).is_right


# --- records
# -------------------------------------------------------------------------------------------------


def test_one_changed_byte_is_named_and_its_cells_too(
    written: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = job_of(written, "uk", 0.0, 1)
    part = parts_of(written, job_id)[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert main(["verify", str(written.root)]) == 1
    printed = capsys.readouterr().out
    first, *_, last = printed.splitlines()
    assert first == (
        f"unreadable: jobs/{job_id}/predictions/{part.name}: corrupted or foreign, its SHA-256 is not the "
        "one in DONE"
    )
    assert (
        f"{CELL} label_smoothing=0.0 seed=1 level=language name=uk: missing is empty, the records" in printed
    )
    assert last.startswith("WRONG: ")
    assert last.endswith("of 25 shards 2 are missing and 1 unreadable")

    # written again, the tables refuse it, and verify goes on telling
    assert main(["tables", str(written.root), "--format", "csv"]) == 0
    assert part.name in capsys.readouterr().err
    shutil.rmtree(written.root / "tables")
    write_tables(written.root)
    result = verify(written.root)
    assert result.differences == ()
    assert not result.is_right


def test_a_part_of_another_job_is_named(written: StudyFolder) -> None:
    damaged, other = job_of(written, "uk", 0.0, 1), job_of(written, "uk", 0.0, 0)
    part = parts_of(written, damaged)[0]
    shutil.copyfile(parts_of(written, other)[0], part)
    (sentence,) = verify(written.root).refused
    assert f"jobs/{damaged}/predictions/{part.name}: corrupted or foreign" in sentence


def test_a_part_too_many_or_too_few_is_named(written: StudyFolder) -> None:
    job_id = job_of(written, "uk", 0.0, 1)
    _, last = parts_of(written, job_id)
    moved = last.with_name("other.parquet")
    shutil.copyfile(last, moved)
    (sentence,) = verify(written.root).refused
    assert sentence == f"unreadable: jobs/{job_id}/predictions/other.parquet: is not in DONE"
    moved.unlink()
    last.unlink()
    (sentence,) = verify(written.root).refused
    assert sentence == f"unreadable: jobs/{job_id}/predictions/{last.name}: is missing"


def test_records_and_done_of_another_job_are_named(written: StudyFolder) -> None:
    damaged, other = job_of(written, "uk", 0.0, 1), job_of(written, "uk", 0.0, 0)
    jobs = written.root / "jobs"
    shutil.rmtree(jobs / damaged)
    shutil.copytree(jobs / other, jobs / damaged)
    (sentence,) = verify(written.root).refused
    assert sentence == f"unreadable: jobs/{damaged}/DONE: belongs to job {other}"
    written.records[damaged] = written.records[other]
    written.write_done(damaged)
    (sentence,) = verify(written.root).refused
    assert f"predictions: records of job {other}, cldr, test, letter, uk" in sentence


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"job_id": "x"}', '{"job_id": "x", "parts": 3}'])
def test_a_done_that_lists_no_parts_is_named(written: StudyFolder, content: str) -> None:
    job_id = job_of(written, "uk", 0.0, 1)
    (written.root / "jobs" / job_id / "DONE").write_text(content)
    (sentence,) = verify(written.root).refused
    assert sentence == f"unreadable: jobs/{job_id}/DONE: does not say which parts the job wrote"


def test_records_exchanged_with_their_done_differ_by_their_hash(written: StudyFolder) -> None:
    """Somebody made the same numbers of other files: the table came from what was there before."""
    job_id = job_of(written, "uk", 0.0, 1)
    predictions = written.root / "jobs" / job_id / "predictions"
    shutil.rmtree(predictions)
    info = ShardInfo(job_id, "cldr-tiny", "cldr", "uk", "test", "letter")
    write_part(predictions, 0, written.records[job_id], info)
    written.write_done(job_id)
    result = verify(written.root)
    assert result.refused == ()
    rows = [sentence for sentence in result.differences if sentence.startswith("calibration.csv")]
    assert len(rows) == 2 * (1 + 2 + 2)  # of its seed and of the mean: language, bucket, all
    assert all("record_hash is " in sentence for sentence in rows)
    assert not any("accuracy" in sentence for sentence in rows)
    rows = [sentence for sentence in result.differences if sentence.startswith("differences.csv")]
    # two contrasts; of the third and of buckets with a shard that is missing there is no hash
    assert {re.search(r"name=(\w+)", sentence)[1] for sentence in rows} == {"uk", "mid", "all"}  # type: ignore[index]
    assert all(re.search(r": record_hash_[ab] is \w{16}, the records give \w{16}$", s) for s in rows)


# --- the command
# ---------------------------------------------------------------------------------------------


def test_the_command(written: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(written.root)]) == 0
    assert capsys.readouterr().out == (
        f"right: {91 + 3 * 15 * 10} rows in {', '.join(NAMES)}; "
        "0 differ from the records; of 25 shards 2 are missing and 0 unreadable\n"
    )
    edit_csv(written.root / "tables" / "calibration.csv", 0, "accuracy", "1.0")
    assert main(["verify", str(written.root)]) == 1
    sentence, last = capsys.readouterr().out.splitlines()
    assert "level=language name=de: accuracy is 1.0, the records give 0." in sentence
    assert last.startswith("WRONG: 541 rows in calibration.csv, ")
    assert "; 1 differ from the records; " in last


def test_many_differences_are_counted(written: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("calibration.md", "differences.md"):
        path = written.root / "tables" / name
        path.write_text(path.read_text(encoding="utf-8").replace("|", "!"), encoding="utf-8")
    assert main(["verify", str(written.root)]) == 1
    *named, more, last = capsys.readouterr().out.splitlines()
    assert len(named) == 100
    assert int(more.split()[2]) + 100 == int(last.split(";")[1].split()[0])


def test_no_tables(folder: StudyFolder) -> None:
    sweep(folder, seeds=1)
    with pytest.raises(UserError, match="has no tables to verify; write them: calsweep analyse tables"):
        verify(folder.root)


def test_nothing_done_yet(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None)
    write_tables(folder.root)
    result = verify(folder.root)
    assert result.is_right
    assert (result.num_shards, result.num_missing) == (1, 1)
    assert json.dumps(table_rows(load_study(folder.root))[0]["accuracy"]) == "null"


def test_an_axis_with_whole_and_broken_numbers(folder: StudyFolder) -> None:
    """In Parquet 0 beside 0.1 is 0.0."""
    for smoothing in (0, 0.1):
        cell = {"model": "m", "dataset": "d", "label_smoothing": smoothing}
        folder.add(cell, "en", random_letters(f"{smoothing}", 20, 1.0, 0.5, 0.9))
    write_tables(folder.root)
    assert verify(folder.root).is_right
