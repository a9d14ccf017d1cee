"""The dashboard: self-contained, complete, and drawn by a real browser where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.aggregate import load_study
from analysis.dashboard import findings, render, write_dashboard
from analysis.diagrams import error_figure, level_figure
from analysis.labels import settings
from analysis.metrics import ece
from analysis.reliability import reliability_figure
from analysis.tables import table_rows
from study.errors import UserError

from .studies import StudyFolder, letter, sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "input", "br", "link", "img", "hr"}


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


def page_of(folder: StudyFolder) -> Page:
    return Page(write_dashboard(folder.root).read_text(encoding="utf-8"))


def figures_of(folder: StudyFolder) -> list[dict[str, Any]]:
    study = load_study(folder.root)
    (setting,) = settings(study)
    return [make(study, setting) for make in (level_figure, error_figure, reliability_figure)]


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
    own = [script for script in page.scripts if "Plotly.react" in script and len(script) < 20_000]
    assert len(own) == 1
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", own[0])
    policy = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy
    assert policy[0].startswith("default-src 'none'")


def test_numbers_are_on_the_page(folder: StudyFolder) -> None:
    page = page_of(sweep(folder))
    text = " ".join(" ".join(page.text).split())
    assert "A synthetic study, for tests." in text
    assert "All 35 shards are complete." in text
    assert "15 bins of equal width, (lo, hi]" in text
    for row in table_rows(load_study(folder.root)):
        shown = row["seed"] is None and row["average"] != "micro"
        if shown:
            for name in ("accuracy", "confidence_raw", "confidence_renormalised", "ece_raw", "nll", "brier"):
                assert f"{row[name]:.3f}" in text
    for job_id in folder.records:
        assert job_id in text


def test_what_is_missing_is_listed(folder: StudyFolder) -> None:
    page = page_of(sweep(folder, skip=[(0.1, 0, "sw"), (0.0, 1, "de")]))
    text = " ".join(" ".join(page.text).split())
    assert "2 of 35 shards are missing" in text
    assert "cldr-tiny · cldr-instruct · lr=0.001 · ε=0.1 · seed=0 Swahili (sw) failed" in text
    assert "cldr-tiny · cldr-instruct · lr=0.001 · ε=0 · seed=1 German (de) not done" in text
    assert "1 of 15 missing" in text
    assert "1 of 3 missing" in text


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
    (data,) = (script for script in page.scripts if script.startswith("[{"))
    assert "&lt;b&gt;m" in json.dumps(json.loads(data))


def test_the_page_is_the_same_each_time(folder: StudyFolder) -> None:
    sweep(folder)
    assert render(load_study(folder.root)) == render(load_study(folder.root))


def test_not_a_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a study"):
        write_dashboard(tmp_path)


def test_figures_are_valid(folder: StudyFolder) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    for figure in figures_of(sweep(folder)):
        assert figure == json.loads(json.dumps(figure, allow_nan=False))
        go.Figure(json.loads(re.sub(r'"@\w+"', '"#123456"', json.dumps(figure))))


def test_figures_of_a_study_without_any_result(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None)
    for figure in figures_of(folder):
        assert not [trace for trace in figure["data"] if trace.get("hovertemplate") and trace["x"]]
    text = " ".join(page_of(folder).text)
    assert "not done" in text


def test_level_figure_shows_every_language_and_cell(folder: StudyFolder) -> None:
    levels = figures_of(sweep(folder, skip=[(0.1, 0, "sw")]))[0]
    assert levels["layout"]["yaxis"]["ticktext"] == [
        "German (de)",
        "English (en)",
        "Ukrainian (uk)",
        "Swahili (sw)",
        "Yoruba (yo)",
    ]
    heights = levels["layout"]["yaxis"]["tickvals"]
    assert heights == sorted(heights, reverse=True)
    rows = table_rows(load_study(folder.root))
    markers = [trace for trace in levels["data"] if trace["mode"] == "markers"]
    assert [trace["name"] for trace in markers[:3]] == ["base", "SFT ε=0", "SFT ε=0.1"]
    base = {row["name"]: row for row in rows if row["dataset"] is None and row["level"] == "language"}
    assert markers[0]["x"] == [base[code]["accuracy"] for code in ("de", "en", "uk", "sw", "yo")]
    assert len(markers[1]["x"]) == 5
    assert len(markers[2]["x"]) == 4  # a missing mean is no point
    for trace in markers:
        for text in trace["text"]:
            assert "n = 60" in text
            assert "job 0000" in text
    assert "seeds: " in markers[1]["text"][0]


def test_reliability_is_drawn_from_the_bins_of_the_ece(folder: StudyFolder) -> None:
    rows = [letter([0.7, 0.1], 0, i) for i in range(3)] + [letter([0.75, 0.1], 1, i) for i in range(3, 5)]
    rows += [letter([0.3, 0.2], 0, 9)]
    folder.add({"model": "m"}, "en", rows)
    reliability = figures_of(folder)[2]
    raw, renormalised = reliability["data"]
    # (0.267, 0.333] holds 0.3 (right), (0.667, 0.733] 0.7 x 3 (right), (0.733, 0.8] 0.75 x 2 (wrong)
    assert raw["x"] == pytest.approx([0.3, 0.7, 0.75], abs=1e-6)
    assert raw["y"] == [1.0, 1.0, 0.0]
    assert "3 of 6 predictions" in raw["text"][1]
    assert renormalised["x"] == pytest.approx([0.6, (3 * 0.875 + 2 * 0.75 / 0.85) / 5], abs=1e-6)
    notes = [note["text"] for note in reliability["layout"]["annotations"]]
    expected = ece([0.7] * 3 + [0.75] * 2 + [0.3], [1, 1, 1, 0, 0, 1])
    assert f"ECE of the pool {expected:.3f}" in notes


def test_an_incomplete_pool_says_so(folder: StudyFolder) -> None:
    reliability = figures_of(sweep(folder, skip=[(0.1, 0, "sw")]))[2]
    notes = [note["text"] for note in reliability["layout"]["annotations"]]
    assert notes.count("14 of 15 shards") == 2


def test_findings_count_languages(folder: StudyFolder) -> None:
    sure, unsure = [letter([0.9, 0.05], 1)], [letter([0.5, 0.4], 1)]
    for language in ("en", "sw"):
        folder.add({"model": "m"}, language, unsure)
        folder.add({"model": "m", "dataset": "d", "label_smoothing": 0.0}, language, sure)
    folder.add({"model": "m", "dataset": "d", "label_smoothing": 0.1}, "en", unsure)
    folder.add({"model": "m", "dataset": "d", "label_smoothing": 0.1}, "sw", None)
    study = load_study(folder.root)
    sentences = findings(study, settings(study)[0])
    assert sentences[0].startswith(
        "SFT ε=0 against base. Confidence, raw: rose in 2 of 2 languages, +0.400 on average;"
    )
    assert sentences[1] == "SFT ε=0 against base. Accuracy: rose in 0 of 2 languages, +0.000 on average."
    assert sentences[3].startswith(
        "SFT ε=0.1 against SFT ε=0. ECE, raw: fell in 1 of 1 languages, -0.400 on average;"
    )


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_it_without_complaint(folder: StudyFolder, tmp_path: Path) -> None:
    page = write_dashboard(sweep(folder, skip=[(0.1, 0, "sw")]).root)
    # then use it: sort by accuracy, twice, and filter
    actions = """
      const heads = [...document.querySelectorAll('table.sortable th')];
      const button = heads.find((head) => head.textContent === 'Accuracy').querySelector('button');
      button.click(); button.click();
      const input = document.querySelector('input.filter');
      input.value = 'ε=0.1'; input.dispatchEvent(new Event('input'));
      const rows = [...document.querySelectorAll('table.sortable tbody tr')];
      const shown = rows.filter((row) => !row.hidden);
      const list = shown.map((row) => row.cells[4].dataset.value).join(' ');
      document.title = 'sorted ' + list;
    """
    html = page.read_text(encoding="utf-8").replace("</body>", f"<script>{actions}</script></body>")
    used = tmp_path / "used.html"
    used.write_text(html, encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--enable-logging=stderr", "--window-size=1200,900", "--virtual-time-budget=10000",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", used.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.stdout.count('class="main-svg"') >= 3
    assert "Swahili (sw)" in done.stdout
    assert "@ink" not in re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    title = re.search(r"<title>sorted ([^<]*)</title>", done.stdout)
    assert title is not None
    values = [float(value) for value in title[1].split()]
    assert len(values) == 6  # 4 languages, 2 buckets; Swahili, its bucket and the total are missing
    assert values == sorted(values, reverse=True)
