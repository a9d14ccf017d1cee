"""The tables: the same rows in every format, and the summary for the terminal."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.aggregate import load_study
from analysis.measure import METRIC_NAMES
from analysis.tables import print_summary, table_rows, write_tables
from study.errors import UserError
from study.records import ShardInfo, write_part

from .studies import StudyFolder, letter, random_letters, sweep
from .test_aggregate import by_hand


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
        assert {row[name] for name in METRIC_NAMES} == {None}
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
    assert {name: path.name for name, path in written.items()} == {
        "csv": "calibration.csv",
        "markdown": "calibration.md",
        "latex": "calibration.tex",
        "parquet": "calibration.parquet",
    }
    assert sorted(path.name for path in (folder.root / "tables").iterdir()) == sorted(
        path.name for path in written.values()
    )
    before = {name: path.read_bytes() for name, path in written.items()}
    write_tables(folder.root)
    assert {name: path.read_bytes() for name, path in written.items()} == before


def test_one_format_alone(folder: StudyFolder) -> None:
    sweep(folder, seeds=1)
    assert list(write_tables(folder.root, formats=["latex"])) == ["latex"]
    assert [path.name for path in (folder.root / "tables").iterdir()] == ["calibration.tex"]


def test_csv_gives_the_rows_back(folder: StudyFolder) -> None:
    rows = rows_of(sweep(folder, skip=[(0.0, 2, "de")]))
    text = write_tables(folder.root)["csv"].read_text(encoding="utf-8")
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(rows)
    for row, back in zip(rows, read, strict=True):
        assert list(back) == list(row)
        assert back["job_ids"].split() == row["job_ids"]
        for name in ("accuracy", "ece_raw", "seed", "missing"):
            assert back[name] == ("" if row[name] is None else str(row[name]))


def test_parquet_gives_the_rows_back(folder: StudyFolder) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    rows = rows_of(sweep(folder, skip=[(0.0, 2, "de")]))
    table = pq.read_table(write_tables(folder.root)["parquet"])
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
    table = pq.read_table(write_tables(folder.root)["parquet"])
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["accuracy"], types["option_mass"], types["n"]) == ("double", "double", "int64")
    assert types["template"] == "string"  # 1 and tulu
    assert table["accuracy"].null_count == table.num_rows


def test_markdown(folder: StudyFolder) -> None:
    folder.description = "One | two\nthree"
    sweep(folder, skip=[(0.0, 2, "de")])
    text = write_tables(folder.root)["markdown"].read_text(encoding="utf-8")
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
            for heading, name in (("accuracy", "accuracy"), ("ECE raw", "ece_raw"), ("NLL", "nll")):
                assert shown[heading] == ("-" if row[name] is None else f"{row[name]:.3f}")
            assert shown["missing"] == (row["missing"] or "-")
            found.append(int(shown["row"]))
    assert sorted(found) == list(range(1, len(rows) + 1))
    assert "| 1 of 3 missing |" in sections[2]


def test_latex(folder: StudyFolder) -> None:
    folder.add({"model": "org/under_score&50%"}, "en", random_letters("a", 20, 1.0, 0.5, 0.9))
    folder.add({"model": "org/b#{}~^\\"}, "en", None)
    text = write_tables(folder.root)["latex"].read_text(encoding="utf-8")
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
    lines = write_tables(folder.root)["latex"].read_text(encoding="utf-8").splitlines()
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


# --- the summary
# ---------------------------------------------------------------------------------------------


def printed(folder: StudyFolder, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_summary(folder.root, console)
    return console.export_text()


def test_summary_of_the_demo_fits_100_columns(folder: StudyFolder) -> None:
    sweep(folder)
    text = printed(folder)
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert lines[0].strip() == "tiny · cldr-tiny · cldr-instruct · lr=0.001"
    (header,) = (line for line in lines if "SFT" in line)
    assert header.split() == "base SFT ε=0 (3 seeds) SFT ε=0.1 (3 seeds)".split()

    rows = rows_of(folder)
    expected = []
    for smoothing in (None, 0.0, 0.1):
        row = find(rows, label_smoothing=smoothing, seed=None, level="language", name="sw")
        names = ("accuracy", "confidence_raw", "confidence_renormalised", "ece_raw", "ece_renormalised")
        expected += [f"{row[name]:.3f}".lstrip("0") for name in names]
    (swahili,) = (line for line in lines if "Swahili" in line)
    assert swahili.split() == ["sw", "Swahili", *expected]
    totals = [
        line.strip().split("  ")[0] for line in lines if line.startswith((" high", " mid", " low", " all"))
    ]
    assert totals == ["high (2)", "mid (1)", "low (2)", "all (5)"]
    assert "n = 60 a language" in text
    assert "0 of 35 shards missing." in " ".join(text.split())


def test_summary_says_what_is_missing(folder: StudyFolder) -> None:
    sweep(folder, skip=[(0.1, 0, "sw"), (0.1, 1, "sw"), (0.0, 1, "de")])
    text = " ".join(printed(folder).split())
    assert "2 of 3 missing" in text
    assert "2 of 15 missing" in text
    assert "3 of 35 shards missing (2 not done, 1 failed)." in text


def test_summary_breaks_into_tables_where_the_terminal_is_narrow(folder: StudyFolder) -> None:
    sweep(folder)
    text = printed(folder, width=50)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 50
    assert sum("Swahili" in line for line in text.splitlines()) == 3


def test_summary_of_many_settings_is_one_line_a_cell(folder: StudyFolder) -> None:
    for rate in (1e-6, 5e-6, 1e-5, 5e-5, 1e-4):
        cell = {"model": "org/[bold]m", "dataset": "d", "learning_rate": rate, "label_smoothing": 0.0}
        folder.add(cell, "en", random_letters(f"{rate}", 20, 1.0, 0.5, 0.9))
    text = printed(folder)
    assert "lr=5e-06" in text
    assert text.count("SFT ε=0") == 5
    assert "[bold]m" in text
    assert "English" not in text
