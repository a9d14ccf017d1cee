"""The dashboard as a file: self-contained, safe, and with the numbers of the tables in its data."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.dashboard.data import choices
from analysis.dashboard.page import render, write_dashboard
from analysis.reading.headline import CLAIMED
from analysis.reading.loading import load_study
from analysis.results.claims import findings
from analysis.results.settings import settings
from analysis.results.table import summarise
from analysis.tables.calibration import table_rows
from study.errors import UserError
from tests.analysis.studies import StudyFolder, letter, random_letters, sweep

VOID = {"meta", "input", "br", "link", "img", "hr"}
AXES = ("model", "dataset", "learning_rate", "label_smoothing")


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes, text and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)

    @property
    def data(self) -> dict[str, Any]:
        (found,) = (script for script in self.scripts if script.startswith("{"))
        data: dict[str, Any] = json.loads(found)
        return data


def page_of(folder: StudyFolder) -> Page:
    return Page(write_dashboard(folder.root).read_text(encoding="utf-8"))


def test_no_request_leaves_the_page(folder: StudyFolder) -> None:
    page = page_of(sweep(folder))
    for tag, name, value in page.attributes:
        assert name not in ("src", "srcset", "action", "data", "poster"), (tag, name)
        assert not name.startswith("on"), (tag, name)
        if name == "href":
            assert value.startswith("#")
    assert not [tag for tag, _, _ in page.attributes if tag in ("link", "img", "iframe", "object", "base")]
    html = (folder.root / "dashboard.html").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    own = [script for script in page.scripts if '"use strict";\n(() => {' in script]
    assert len(own) == 1
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|innerHTML", own[0])
    (policy,) = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'")
    allowed = {word for part in policy.split("; ") for word in part.split()[1:]}
    assert allowed == {"'none'", "'unsafe-inline'", "data:"}  # no address, and nothing is evaluated


def test_text_says_what_the_study_is(folder: StudyFolder) -> None:
    text = " ".join(" ".join(page_of(sweep(folder)).text).split())
    assert "A synthetic study, for tests." in text
    assert "All 35 shards are complete." in text
    assert "15 bins of equal width, (lo, hi]" in text
    assert "need JavaScript" in text


def test_the_data_are_the_tables(folder: StudyFolder) -> None:
    data = page_of(sweep(folder, skip=[(0.1, 0, "sw"), (0.0, 1, "de")])).data
    study = load_study(folder.root)
    cells = study.groups()
    ids: set[str] = set()
    compared = 0
    for row in table_rows(study):
        if row["seed"] is not None or (row["dataset"] is not None and row["num_seeds"] == 1):
            continue  # the page has the means over seeds
        (place,) = (n for n, cell in enumerate(cells) if all(cell.get(axis) == row[axis] for axis in AXES))
        found = data["results"][0][str(place)]
        if row["average"] == "micro":
            continue
        shown = found["languages" if row["level"] == "language" else "groups"][row["name"]]
        compared += 1
        if row["level"] == "language":
            assert shown["jobs"] == row["job_ids"]
            ids |= set(shown["jobs"])
        assert shown.get("missing") == row["missing"]
        if row["missing"]:
            assert "values" not in shown
            continue
        assert shown["n"] == row["n"]
        for metric, value in zip(data["metrics"], shown["values"], strict=True):
            assert value == pytest.approx(row[metric], abs=5e-7)
    assert compared == 3 * (5 + 3 + 1)
    assert ids == {shard.job_id for shard in study.shards}


def test_intervals_are_the_studys(folder: StudyFolder) -> None:
    data = page_of(sweep(folder)).data
    study = load_study(folder.root)
    (setting,) = settings(study)
    for item in setting.series:
        found = data["results"][0][str(study.groups().index(item.cell))]
        for shown, shards in (
            (found["languages"]["sw"], study.select(setting.test, item.cell, "sw")),
            (found["groups"]["all"], study.select(setting.test, item.cell)),
        ):
            summary = summarise(shards)
            for metric, ends in zip(data["metrics"], shown["ranges"], strict=True):
                expected = summary.interval(metric)
                assert ends == (None if expected is None else pytest.approx(list(expected), abs=5e-7))
            assert shown["ranges"][data["metrics"].index("ece_l2_raw")] is not None
            assert shown["ranges"][data["metrics"].index("ece_raw")] is None


def test_the_bins_are_those_of_the_tables_ece(folder: StudyFolder) -> None:
    data = page_of(sweep(folder, seeds=1)).data
    study = load_study(folder.root)
    for row in table_rows(study):
        if row["level"] != "all" or row["average"] != "micro":
            continue
        (place,) = (
            n for n, cell in enumerate(study.groups()) if all(cell.get(axis) == row[axis] for axis in AXES)
        )
        for kind in ("raw", "renormalised"):
            sums: dict[int, float] = {}
            n = 0
            for language in data["results"][0][str(place)]["languages"].values():
                flat = language["bins"][kind]
                for at in range(0, len(flat), 4):
                    bin_, count, correct, confidence = flat[at : at + 4]
                    sums[bin_] = sums.get(bin_, 0.0) + correct - count * confidence
                    n += count
            assert n == row["n"]
            assert sum(map(abs, sums.values())) / n == pytest.approx(row[f"ece_{kind}"], abs=2e-6)


def test_what_is_missing_is_listed(folder: StudyFolder) -> None:
    page = page_of(sweep(folder, skip=[(0.1, 0, "sw"), (0.0, 1, "de")]))
    text = " ".join(" ".join(page.text).split())
    assert "2 of 35 shards are missing" in text
    assert "cldr-tiny · cldr-instruct · lr=0.001 · ε=0.1 · seed=0 Swahili (sw) failed" in text
    assert "cldr-tiny · cldr-instruct · lr=0.001 · ε=0 · seed=1 German (de) not done" in text
    (swahili,) = (cell["languages"]["sw"] for cell in page.data["results"][0].values()
                  if "missing" in cell["languages"]["sw"])  # fmt: skip
    assert (swahili["missing"], swahili["done"], len(swahili["jobs"])) == ("1 of 3 missing", 2, 3)


def test_text_is_escaped(folder: StudyFolder) -> None:
    folder.description = "<script>alert(1)</script> & more"
    folder.add({"model": "</script><b>m"}, "en", [letter([0.5, 0.1], 0)])
    folder.add({"model": "<i>n"}, "<u>", None)
    html = render(load_study(folder.root))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "<b>m" not in html
    page = Page(html)
    assert not [tag for tag, _, _ in page.attributes if tag in ("i", "u", "b")]
    assert [label for _, label in page.data["settings"][0]["series"]] == ["script><b>m", "<i>n"]
    assert page.data["languages"]["<u>"] == {"name": "<u>", "bucket": "other", "script": "other"}


def test_the_page_is_the_same_each_time(folder: StudyFolder) -> None:
    sweep(folder)
    assert render(load_study(folder.root)) == render(load_study(folder.root))


def test_not_a_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a study"):
        write_dashboard(tmp_path)


def test_a_study_without_any_result(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None)
    page = page_of(folder)
    assert "not done" in " ".join(page.text)
    assert page.data["results"][0]["0"]["languages"]["en"] == {
        "seeds": 1, "missing": "not done", "jobs": ["0" * 16], "done": 0,
        "bins": {"raw": [], "renormalised": []},
    }  # fmt: skip


def test_choices_tell_settings_apart(folder: StudyFolder) -> None:
    rows = [letter([0.5, 0.1], 0)]
    for model in ("a/m", "b/m", "lone", "other"):
        for benchmark in ("global_mmlu", "mmlu_prox"):
            folder.add({"model": model}, "en", rows, benchmark=benchmark)
    for model in ("a/m", "b/m"):
        for rate in (1e-5, 5e-5):
            for benchmark in ("global_mmlu", "mmlu_prox"):
                cell = {"model": model, "dataset": "d", "learning_rate": rate, "label_smoothing": 0.0}
                folder.add(cell, "en", rows, benchmark=benchmark)
    study = load_study(folder.root)
    found = choices(study, settings(study))
    assert found[0] == {"model": "a/m", "dataset": "d", "benchmark": "global_mmlu", "learning_rate": "1e-05"}
    assert len({tuple(one.items()) for one in found}) == len(found) == 10
    assert [one["model"] for one in found].count("base models") == 2
    assert {one["dataset"] for one in found if one["model"] == "base models"} == {"none"}


def test_findings_say_what_changed(folder: StudyFolder) -> None:
    sweep(folder, seeds=1)
    study = load_study(folder.root)
    said = findings(study, settings(study)[0])
    assert len(said) == 3 * (len(CLAIMED) + 1)
    assert said[1].startswith("SFT ε=0 against base: Confidence (renormalised) rose by .")
    assert said[1].endswith("; significantly up in 5 of 5 (Holm, .05).")
    assert said[len(CLAIMED)].startswith("SFT ε=0 against base: One training seed: ")


def test_a_benchmark_of_one_language(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", random_letters("x", 20, 2.0, 0.5, 0.9))
    folder.add({"model": "m", "dataset": "d"}, "en", random_letters("y", 20, 4.0, 0.5, 0.9))
    study = load_study(folder.root)
    assert "in 1 language" in findings(study, settings(study)[0])[1]
