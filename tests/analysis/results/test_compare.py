"""`compare A B`: paired, over what both have; against means in plain Python."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import replace

import pytest

from analysis.cli import main
from analysis.results.compare import COMPARED, ComparedRow, Comparison, compare
from analysis.results.names import short, signed
from analysis.terminal.comparison import SHOWN
from study.errors import UserError
from study.records import Prediction
from tests.analysis.results.test_aggregate import by_hand, signed_root
from tests.analysis.studies import StudyFolder, letter, random_letters

CELL = {"model": "org/m", "dataset": "d", "label_smoothing": 0.1}


def like(rows: Iterable[Prediction], seed: str, sharpness: float) -> list[Prediction]:
    """The same items as another model scored them."""
    rows = list(rows)
    others = random_letters(seed, len(rows), sharpness, 0.5, 0.9)
    return [replace(other, label=row.label) for row, other in zip(rows, others, strict=True)]


def found_row(comparison: Comparison, name: str) -> ComparedRow:
    (row,) = (row for row in comparison.rows if row.name == name)
    return row


def test_by_hand(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    # .4 of .8 on the right one and .3 of .6 on a wrong one; then .8 of 1.0 and .5 of 1.0, both right
    a.add(CELL, "sw", [letter([0.4, 0.2, 0.1, 0.1], 0), letter([0.1, 0.1, 0.3, 0.1], 1, 1)])
    b.add(CELL, "sw", [letter([0.8, 0.1, 0.05, 0.05], 0), letter([0.2, 0.5, 0.2, 0.1], 1, 1)])
    found = compare(a.root, b.root)
    assert [(row.level, row.name) for row in found.rows] == [
        ("language", "sw"),
        ("bucket", "low"),
        ("all", "all"),
    ]
    truth = {
        "accuracy": (0.5, 1.0, 0.5),
        "confidence_raw": (0.35, 0.65, 0.3),
        "ece_raw": (0.45, 0.35, -0.1),  # (.6 + .3) / 2; (.2 + .5) / 2
        "confidence_renormalised": (0.5, 0.65, 0.15),
    }
    for row in found.rows:
        assert (row.n, row.num_seeds) == (2, 1)
        assert "ece_l2_raw" not in row.changes  # no bin holds two examples
        for name, numbers in truth.items():
            change = row.changes[name]
            assert (change.a, change.b, change.difference.value) == pytest.approx(numbers, abs=1e-6), name
    assert found.rest == ()


def test_means_over_seeds_then_languages(both: tuple[StudyFolder, StudyFolder]) -> None:
    """Swahili has one seed on both sides, German two: each language counts the same."""
    a, b = both
    pairs: dict[str, list[tuple[str, str]]] = {"de": [], "sw": [], "yo": []}
    for language, ours, theirs in (("de", 2, 2), ("sw", 2, 1), ("yo", 1, 1)):
        for seed in range(2):
            rows = random_letters(f"{language}{seed}", 50, 2.0, 0.6, 0.9)
            other = like(rows, f"b{language}{seed}", 4.0)
            one = a.add({**CELL, "seed": seed}, language, rows if seed < ours else None)
            two = b.add({**CELL, "seed": seed}, language, other if seed < theirs else None)
            if seed < min(ours, theirs):
                pairs[language].append((one, two))
    found = compare(a.root, b.root)

    def mean(side: int, languages: Iterable[str], name: str) -> float:
        records = (a.records, b.records)[side]
        each = [[by_hand(records[pair[side]])[name] for pair in pairs[code]] for code in languages]
        if "ece_l2" in name:  # a root mean square
            squares = [[value * abs(value) for value in seeds] for seeds in each]
            return signed_root(sum(sum(seeds) / len(seeds) for seeds in squares) / len(squares))
        return sum(sum(seeds) / len(seeds) for seeds in each) / len(each)

    all_languages = ["de", "sw", "yo"]
    assert found_row(found, "de").changes["accuracy"].difference.low is not None
    assert found_row(found, "low").changes["accuracy"].difference.low is not None
    unequal = found_row(found, "all").changes["accuracy"].difference
    assert (unequal.low, unequal.high, unequal.p_value, unequal.holm) == (None, None, None, None)
    for name, languages, num_seeds in (
        ("de", ["de"], 2),
        ("sw", ["sw"], 1),
        ("high", ["de"], 2),
        ("low", ["sw", "yo"], 1),
        ("all", all_languages, 1),
    ):
        row = found_row(found, name)
        assert (row.num_seeds, row.n) == (num_seeds, 50 * len(languages))
        assert list(zip(row.job_ids_a, row.job_ids_b, strict=True)) == [
            pair for code in languages for pair in pairs[code]
        ]
        for metric in (metric.name for metric in COMPARED):
            change = row.changes[metric]
            assert change.a == pytest.approx(mean(0, languages, metric), abs=1e-6), metric
            assert change.b == pytest.approx(mean(1, languages, metric), abs=1e-6), metric
    assert sorted(found.rest) == [
        "cldr · test · letter · m · d · ε=0.1 · seed=1: sw (B: not done)",
        "cldr · test · letter · m · d · ε=0.1 · seed=1: yo (A: not done, B: not done)",
    ]


def test_only_what_both_have(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    rows = random_letters("x", 30, 2.0, 0.6, 0.9)
    for folder, languages in ((a, ("en", "de", "yo", "sw")), (b, ("en", "uk"))):
        for language in languages:
            folder.add(CELL, language, rows)
    a.add({**CELL, "label_smoothing": 0.2}, "en", rows)
    b.add(CELL, "en", rows, protocol="option_text")
    b.add(CELL, "en", rows, split="validation")
    broken = b.add(CELL, "sw", rows)
    (b.root / "jobs" / broken / "predictions" / "part-000000-000015.parquet").write_bytes(b"PAR1")
    found = compare(a.root, b.root)
    assert [row.name for row in found.rows] == ["en", "high", "all"]
    where = "cldr · test · letter · m · d"
    *plain, unreadable = sorted(found.rest, key=lambda sentence: "unreadable" in sentence)
    assert set(plain) == {
        "cldr · test · option_text · m · d · ε=0.1: en (only in B)",
        "cldr · validation · letter · m · d · ε=0.1: en (only in B)",
        f"{where} · ε=0.1: de, yo (only in A)",
        f"{where} · ε=0.1: uk (only in B)",
        f"{where} · ε=0.2: en (only in A)",
    }
    assert unreadable.startswith(
        f"{where} · ε=0.1: sw (B: unreadable: jobs/{broken}/predictions/part-000000-"
    )


def test_the_order_of_axes_says_nothing(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    rows = random_letters("x", 30, 2.0, 0.6, 0.9)
    a.add({**CELL, "label_smoothing": 0}, "en", rows)
    b.add(dict(reversed({**CELL, "label_smoothing": 0.0}.items())), "en", rows)
    for change in found_row(compare(a.root, b.root), "en").changes.values():
        assert change.difference.value == 0.0


def test_other_items_are_refused(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    rows = random_letters("x", 6, 2.0, 0.6, 0.9)
    a.add(CELL, "en", rows)
    b.add(CELL, "en", [*rows[:5], replace(rows[5], example_id="new")])
    with pytest.raises(UserError) as refused:
        compare(a.root, b.root)
    assert str(refused.value) == (
        f"{a.root}: cldr, test, letter, en: asked other items than {b.root}: 1 only in A (item-5), "
        "1 only in B (new); compare studies of the same items of a benchmark"
    )


def test_another_right_option_is_another_item(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    rows = random_letters("x", 6, 2.0, 0.6, 0.9)
    a.add(CELL, "en", rows)
    b.add(CELL, "en", [replace(row, label=(row.label + 1) % 4) for row in rows])
    with pytest.raises(UserError, match=r"6 with another right option \(item-0, item-1, item-2, \.\.\.\)"):
        compare(a.root, b.root)


def test_the_order_of_items_says_nothing(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    rows = random_letters("x", 30, 2.0, 0.6, 0.9)
    a.add(CELL, "en", rows)
    b.add(CELL, "en", rows[::-1])
    for change in found_row(compare(a.root, b.root), "en").changes.values():
        assert change.difference.value == pytest.approx(0.0, abs=1e-12)


def test_rotated_and_plain_items_are_the_same(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    a.add(CELL, "en", [letter([0.6, 0.2], 1, 0)])
    b.add(CELL, "en", [letter([0.6, 0.2], 1, 0), replace(letter([0.6, 0.2], 0, 0), rotation=1)])
    row = found_row(compare(a.root, b.root), "en")
    assert row.n == 1
    assert row.changes["confidence_raw"].b == pytest.approx(0.4)  # each option once .6, once .2


def test_nothing_in_common(both: tuple[StudyFolder, StudyFolder]) -> None:
    a, b = both
    a.add(CELL, "en", random_letters("x", 6, 2.0, 0.6, 0.9))
    b.add(CELL, "en", None)
    with pytest.raises(UserError, match="has no result in common with"):
        compare(a.root, b.root)


# --- the command
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def swept(both: tuple[StudyFolder, StudyFolder]) -> tuple[StudyFolder, StudyFolder]:
    a, b = both
    for folder in both:
        folder.add({"model": "org/m"}, "en", random_letters("base", 40, 2.0, 0.6, 0.9))
    for language in ("en", "sw"):
        for smoothing in (0.0, 0.1):
            rows = random_letters(f"{language}{smoothing}", 40, 2.0, 0.6, 0.9)
            a.add({**CELL, "label_smoothing": smoothing}, language, rows)
            b.add({**CELL, "label_smoothing": smoothing}, language, like(rows, f"b{smoothing}", 4.0))
    a.add(CELL, "yo", None)
    return a, b


@pytest.mark.parametrize(("width", "num_tables"), [(180, 1), (110, 2), (80, 3), (48, 7)])
def test_the_command_fits_a_terminal(
    swept: tuple[StudyFolder, StudyFolder],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    num_tables: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    a, b = swept
    assert main(["compare", str(a.root), str(b.root)]) == 0
    printed = capsys.readouterr()
    assert printed.err == "not compared: cldr · test · letter · m · d · ε=0.1: yo (only in A)\n"
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= width
    titles = [line for line in lines if "letter: " in line]
    assert titles == [f"cldr, test, letter: m · {label}" for label in ("base", "SFT ε=0", "SFT ε=0.1")]
    row = found_row_of(compare(a.root, b.root), "sw", 0.1)
    expected = []
    for metric in SHOWN:
        change = row.changes[metric.name]
        expected += [short(v) for v in (change.a, change.b)]
        assert change.difference.holm is not None
        mark = "*" if change.difference.holm < 0.05 else ""
        expected.append(signed(change.difference.value) + mark)
    swahili = [line.split() for line in lines if "Swahili" in line]
    assert len(swahili) == 2 * num_tables
    assert [field for line in swahili[num_tables:] for field in line[2:]] == expected
    assert "15 bins of equal width, (lo, hi]" in " ".join(printed.out.split())


def test_many_cells_are_one_line_each(
    both: tuple[StudyFolder, StudyFolder], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for folder in both:
        for rate in (1e-6, 5e-6, 1e-5, 5e-5, 1e-4):
            rows = random_letters("x", 6, 2.0, 0.6, 0.9)
            folder.add({"model": "org/[bold]m", "dataset": "d", "learning_rate": rate}, "en", rows)
    a, b = both
    assert main(["compare", str(a.root), str(b.root)]) == 0
    printed = capsys.readouterr().out
    assert "cldr, test, letter: all languages, macro" in printed
    assert (
        printed.count("[bold]m · lr=5e-06 · SFT") == 4
    )  # in 80 columns: two numbers, and one in the last table
    assert "English" not in printed


def found_row_of(comparison: Comparison, name: str, smoothing: float) -> ComparedRow:
    (row,) = (
        row for row in comparison.rows if row.name == name and row.cell.get("label_smoothing") == smoothing
    )
    return row


def test_csv_has_it_in_full(
    swept: tuple[StudyFolder, StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = swept
    assert main(["compare", str(a.root), str(b.root), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * (2 + 2 + 1) + (1 + 1 + 1)
    assert {read["dataset"] for read in rows if not read["label_smoothing"]} == {""}
    for read in rows:
        if not read["label_smoothing"]:
            continue
        row = found_row_of(compare(a.root, b.root), read["name"], float(read["label_smoothing"]))
        assert (int(read["n"]), read["level"]) == (row.n, row.level)
        for metric, change in row.changes.items():
            assert float(read[f"{metric}_a"]) == change.a
            assert float(read[f"{metric}_difference"]) == pytest.approx(change.b - change.a)
            for name in ("low", "high", "p_value", "holm"):
                number = getattr(change.difference, name)
                assert read[f"{metric}_{name}"] == ("" if number is None else str(number))
                assert (number is None) == (
                    metric.startswith(("ece_ren", "ece_raw")) or (name == "holm" and row.level != "language")
                )
        assert read["job_ids_a"].split() == row.job_ids_a
        assert read["job_ids_b"].split() == row.job_ids_b


def test_csv_has_a_column_for_what_some_cells_lack(
    both: tuple[StudyFolder, StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    """Raw confidence has no calibration under option_text; where all are right there is no AUROC."""
    for folder in both:
        for split, protocol in (("a", "option_text"), ("b", "letter")):
            rows = [letter([0.5, 0.1], int(split == "b" and number > 3), number) for number in range(6)]
            if protocol == "option_text":
                rows = [replace(row, option_mass=None, option_num_tokens=[1, 1]) for row in rows]
            folder.add(CELL, "en", rows, split=split, protocol=protocol)
    a, b = both
    assert main(["compare", str(a.root), str(b.root), "--format", "csv"]) == 0
    rows_read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for name in ("ece_l2_raw_a", "gap_raw_difference", "gap_raw_low", "auroc_raw_b"):
        assert [row[name] != "" for row in rows_read] == [False] * 3 + [True] * 3, name


def test_a_mistake_is_a_sentence(
    both: tuple[StudyFolder, StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = both
    a.add(CELL, "en", None)
    assert main(["compare", str(a.root), str(b.root)]) == 2
    assert capsys.readouterr().err == (
        f"analysis: {b.root}: is not a study (no plan.json); give the folder <outputs>/<study>\n"
    )
