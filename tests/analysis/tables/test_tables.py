"""The tables: the same rows in every format, and the summary for the terminal."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.reading.headline import METRICS
from analysis.reading.loading import load_study
from analysis.tables.calibration import number_columns, table_rows
from analysis.tables.files import write_tables
from study.errors import UserError
from study.records import ShardInfo, write_part
from tests.analysis.results.test_aggregate import by_hand
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep


def rows_of(folder: StudyFolder) -> list[dict[str, Any]]:
    return table_rows(load_study(folder.root))


def find(rows: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """The one row with these values."""
    (row,) = (row for row in rows if all(row[name] == value for name, value in values.items()))
    return row


def test_rows_of_a_sweep(folder: StudyFolder) -> None:
    rows = rows_of(sweep(folder))
    # cells: the base, 2 x 3 runs, 2 means over seeds; each 5 languages, 3 buckets x 2, all x 2
    assert len(rows) == (1 + 6 + 2) * (5 + 6 + 2)
    assert len({tuple(row) for row in rows}) == 1
    assert {row["missing"] for row in rows} == {None}
    columns = list(rows[0])
    for name in (metric.name for metric in METRICS if metric.has_interval):  # right behind it
        place = columns.index(name)
        assert columns[place : place + 3] == [name, f"{name}_low", f"{name}_high"]

    run = find(rows, label_smoothing=0.1, seed=1, level="language", name="sw")
    (job_id,) = run["job_ids"]
    for name, value in by_hand(folder.records[job_id]).items():
        assert run[name] == pytest.approx(value, abs=1e-6), name
    assert (run["num_seeds"], run["num_shards"], run["average"]) == (1, 1, "none")
    assert (run["num_bins"], run["bin_scheme"], run["bin_edges"]) == (15, "equal_width", "(lo, hi]")

    mean = find(rows, label_smoothing=0.1, seed=None, level="language", name="sw")
    assert (mean["num_seeds"], mean["num_shards"], len(mean["job_ids"])) == (3, 3, 3)
    truth = [by_hand(folder.records[each]) for each in mean["job_ids"]]
    assert mean["ece_raw"] == pytest.approx(sum(t["ece_raw"] for t in truth) / 3, abs=1e-6)

    low = find(rows, dataset=None, level="bucket", name="low", average="macro")
    truth = [by_hand(folder.records[each]) for each in low["job_ids"]]
    assert (len(truth), low["n"]) == (2, 120)
    assert low["confidence_raw"] == pytest.approx(sum(t["confidence_raw"] for t in truth) / 2, abs=1e-6)

    pooled = [record for each in low["job_ids"] for record in folder.records[each]]
    micro = find(rows, dataset=None, level="bucket", name="low", average="micro")
    assert micro["ece_raw"] == pytest.approx(by_hand(pooled)["ece_raw"], abs=1e-6)


def test_missing_rows_have_a_reason_and_no_numbers(folder: StudyFolder) -> None:
    rows = rows_of(sweep(folder, skip=[(0.1, 0, "sw"), (0.1, 1, "sw")]))
    lost = find(rows, label_smoothing=0.1, seed=0, level="language", name="sw")
    assert lost["missing"] == "failed"
    later = find(rows, label_smoothing=0.1, seed=1, level="language", name="sw")
    assert later["missing"] == "not done"
    mean = find(rows, label_smoothing=0.1, seed=None, level="all", average="macro")
    assert mean["missing"] == "2 of 15 missing"
    assert (mean["num_missing"], mean["num_shards"]) == (2, 15)
    for row in (lost, later, mean):
        assert {row[name] for metric in METRICS for name in ("n", *number_columns(metric))} == {None}
    other = find(rows, label_smoothing=0.1, seed=None, level="bucket", name="high", average="macro")
    assert other["missing"] is None


def test_one_seed_has_no_mean_rows(folder: StudyFolder) -> None:
    rows = rows_of(sweep(folder, seeds=1))
    assert len(rows) == 3 * 13
    assert {row["num_seeds"] for row in rows} == {1}


def test_two_benchmarks_stay_apart(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", [letter([0.5, 0.1], 0)], benchmark="global_mmlu")
    folder.add({"model": "m"}, "en", [letter([0.5, 0.1], 1)], benchmark="mmlu_prox")
    folder.add({"model": "m"}, "en", [letter([0.5, 0.1], 1)], benchmark="mmlu_prox", split="validation")
    rows = [row for row in rows_of(folder) if row["level"] == "language"]
    assert [(row["benchmark"], row["split"], row["accuracy"]) for row in rows] == [
        ("global_mmlu", "test", 1.0),
        ("mmlu_prox", "test", 0.0),
        ("mmlu_prox", "validation", 0.0),
    ]


def test_files(folder: StudyFolder) -> None:
    sweep(folder, skip=[(0.0, 2, "de")])
    written = write_tables(folder.root)
    assert list(written) == [
        f"{table}.{end}"
        for table in ("calibration", "differences")
        for end in ("csv", "md", "tex", "parquet")
    ]
    for name, path in written.items():
        assert path.name == name
    assert sorted(path.name for path in (folder.root / "tables").iterdir()) == sorted(written)
    before = {name: path.read_bytes() for name, path in written.items()}
    write_tables(folder.root)
    assert {name: path.read_bytes() for name, path in written.items()} == before


def test_one_format_alone(folder: StudyFolder) -> None:
    sweep(folder, seeds=1)
    names = ["calibration.tex", "differences.tex"]
    assert list(write_tables(folder.root, formats=["latex"])) == names
    assert sorted(path.name for path in (folder.root / "tables").iterdir()) == names


def test_csv_gives_the_rows_back(folder: StudyFolder) -> None:
    rows = rows_of(sweep(folder, skip=[(0.0, 2, "de")]))
    text = write_tables(folder.root)["calibration.csv"].read_text(encoding="utf-8")
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(rows)
    for row, back in zip(rows, read, strict=True):
        assert list(back) == list(row)
        assert back["job_ids"].split() == row["job_ids"]
        for name in ("accuracy", "accuracy_low", "ece_raw", "ece_l2_raw_high", "seed", "missing"):
            assert back[name] == ("" if row[name] is None else str(row[name]))


def test_parquet_gives_the_rows_back(folder: StudyFolder) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    rows = rows_of(sweep(folder, skip=[(0.0, 2, "de")]))
    table = pq.read_table(write_tables(folder.root)["calibration.parquet"])
    assert table.to_pylist() == rows
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["accuracy"], types["n"], types["seed"]) == ("double", "int64", "int64")
    metadata = table.schema.metadata
    assert metadata[b"description"] == b"A synthetic study, for tests."
    assert b"15 of equal width, (lo, hi]" in metadata[b"note"]


def test_parquet_of_a_study_without_any_result(folder: StudyFolder) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    folder.add({"model": "m"}, "en", None)
    folder.add({"model": "m", "template": 1}, "en", None)
    folder.add({"model": "m", "template": "tulu"}, "en", None)
    table = pq.read_table(write_tables(folder.root)["calibration.parquet"])
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["accuracy"], types["option_mass"], types["n"]) == ("double", "double", "int64")
    assert types["template"] == "string"  # 1 and tulu
    assert table["accuracy"].null_count == table.num_rows


def test_markdown(folder: StudyFolder) -> None:
    folder.description = "One | two\nthree"
    sweep(folder, skip=[(0.0, 2, "de")])
    text = write_tables(folder.root)["calibration.md"].read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "One \\| two three" in lines
    assert "1 of 35 shards are missing." in lines
    assert "15 of equal width, (lo, hi]" in text
    rows = rows_of(folder)
    origin = f"records {rows[-1]['record_hash']} of jobs {' '.join(rows[-1]['job_ids'])}"
    assert f"- row {len(rows)}: {origin}" in lines
    found: list[int] = []
    sections = text.split("\n## ")[1:-1]
    for section, level in zip(sections, ("all", "bucket", "language"), strict=True):
        grid = [line for line in section.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in grid}) == 1
        header, _, *body = ([field.strip() for field in line.split("|")[1:-1]] for line in grid)
        for fields in body:
            shown = dict(zip(header, fields, strict=True))
            row = rows[int(shown["row"]) - 1]
            assert row["level"] == level
            if level != "all":
                assert shown[level] == row["name"]
            assert shown["NLL"] == ("-" if row["nll"] is None else f"{row['nll']:.3f}")
            for heading, name in (("accuracy", "accuracy"), ("L2 ECE raw", "ece_l2_raw")):
                ends = (name, f"{name}_low", f"{name}_high")
                texts = [
                    f"{row[end]:.3f}".replace("0.", ".", 1) if abs(row[end]) < 1 else f"{row[end]:.2f}"
                    for end in ends
                    if row[end] is not None
                ]
                assert shown[heading] == ("{} [{}, {}]".format(*texts) if texts else "-")
            assert shown["missing"] == (row["missing"] or "-")
            found.append(int(shown["row"]))
    assert sorted(found) == list(range(1, len(rows) + 1))
    assert "| 1 of 3 missing |" in sections[2]


def test_latex(folder: StudyFolder) -> None:
    folder.add({"model": "org/under_score&50%"}, "en", random_letters("a", 20, 1.0, 0.5, 0.9))
    folder.add({"model": "org/b#{}~^\\"}, "en", None)
    text = write_tables(folder.root)["calibration.tex"].read_text(encoding="utf-8")
    assert r"org/under\_score\&50\%" in text
    assert r"org/b\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{longtable}", " of jobs 0000000000000000"):
        assert part in text
    tables = text.split(r"\begin{longtable}")[1:]
    assert len(tables) == 3
    for table, title in zip(tables, ("per model", "per resource bucket", "per language"), strict=True):
        assert f"tiny, {title}." in table
        columns = table[1 : table.index("}")]
        rows = [line for line in table.splitlines() if line.endswith(r"\\") and "caption" not in line]
        assert {line.replace(r"\&", "").count("&") for line in rows} == {len(columns) - 1}


def test_latex_takes_no_row_for_an_argument(folder: StudyFolder) -> None:
    # after a row's end "[" begins its optional argument, and "*" is its star
    for model in ("[x]", "*"):
        folder.add({"model": model}, "en", random_letters("a", 20, 1.0, 0.5, 0.9))
    lines = write_tables(folder.root)["calibration.tex"].read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("[", "*"))]
    assert [line for line in lines if line.startswith("{[}x]")]


def test_each_row_says_which_records_it_came_from(folder: StudyFolder) -> None:
    sweep(folder, seeds=2, skip=[(0.0, 1, "de")])
    before = rows_of(folder)
    changed = find(before, label_smoothing=0.1, seed=1, level="language", name="sw")
    (job_id,) = changed["job_ids"]
    done = json.loads((folder.root / "jobs" / job_id / "DONE").read_text())
    canonical = json.dumps(done["parts"], sort_keys=True, separators=(",", ":"))
    assert changed["record_hash"] == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    for row in before:
        assert (row["record_hash"] is None) == (row["missing"] is not None)

    # the same records under other names and hashes are other records; who has no part in them stays as it was
    shutil.rmtree(folder.root / "jobs" / job_id / "predictions")
    info = ShardInfo(job_id, "cldr-tiny", "cldr", "sw", "test", "letter")
    write_part(folder.root / "jobs" / job_id / "predictions", 0, folder.records[job_id], info)
    folder.write_done(job_id)
    for old, new in zip(before, rows_of(folder), strict=True):
        assert old["accuracy"] == new["accuracy"]
        assert (old["record_hash"] != new["record_hash"]) == (
            job_id in old["job_ids"] and old["missing"] is None
        )


def test_not_a_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a study"):
        write_tables(tmp_path)


def test_a_single_contrast_has_its_numbers_in_a_row(folder: StudyFolder) -> None:
    """They do not vary, and are what the table is about."""
    folder.add({"model": "m"}, "en", random_letters("a", 40, 1.0, 0.5, 0.9))
    folder.add({"model": "m", "dataset": "d"}, "en", random_letters("b", 40, 3.0, 0.5, 0.9))
    text = write_tables(folder.root)["differences.md"].read_text(encoding="utf-8")
    header, _, body = [line for line in text.splitlines() if line.startswith("|")][:3]
    shown = dict(zip(header.split("|"), body.split("|"), strict=True))
    assert re.fullmatch(r" [+-]\.\d{3} \[[+-]\.\d{3}, [+-]\.\d{3}\]( \*)? ", shown[" conf. raw "])
    assert "NLL" in header


def test_questions_are_counted_once(folder: StudyFolder) -> None:
    """Two languages of the same 30 questions, and one of 10 others."""
    rows = random_letters("x", 30, 1.0, 0.5, 0.9)
    others = [replace(row, example_id=f"other {row.example_id}") for row in rows[:10]]
    for language, items in (("en", rows), ("de", rows), ("fr", others)):
        folder.add({"model": "m"}, language, items)
    by_name = {(row["name"], row["average"]): row for row in rows_of(folder)}
    assert (by_name["en", "none"]["n"], by_name["en", "none"]["num_questions"]) == (30, 30)
    for average in ("macro", "micro"):
        assert (by_name["all", average]["n"], by_name["all", average]["num_questions"]) == (70, 40)
