"""The dashboard in a real browser: drawn without complaint, filtered, linked to, read by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from analysis.dashboard.page import write_dashboard
from study.languages import LANGUAGES as TABLE
from tests.analysis.browser import CHROMIUM
from tests.analysis.opened_dashboard import COUNT, Opened, open_grid, short, tips
from tests.analysis.studies import LANGUAGES, StudyFolder, random_letters

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with open_grid(tmp_path_factory) as found:
        yield found


def test_it_is_drawn_without_complaint_or_request(opened: Opened) -> None:
    opened.tab.requests.clear()
    opened.show()
    opened.unfold()
    assert opened.tab.complaints == []
    asked = {url for url in opened.tab.requests if not url.startswith("data:image/png")}
    assert asked - {"about:blank"} == {opened.url}
    for place in ("slopes", "dots", "reliability", "small", "heat", "by-rate", "by-smoothing"):
        assert len([tip for tip in tips(opened.traces(place)) if "<b>" in tip]) > 5, place
        label = opened.tab.run(f"document.getElementById('{place}').getAttribute('aria-label')")
        assert "5 languages" in label


def test_filters_choose_the_setting_and_the_hash_leads_back(opened: Opened) -> None:
    opened.show()
    for name, value in (("model", "large"), ("dataset", "tulu"), ("learning_rate", "5e-05")):
        opened.choose(name, value)
    cell: dict[str, Any] = {
        "model": "hub/large",
        "dataset": "tulu",
        "learning_rate": 5e-5,
        "label_smoothing": 0.1,
    }
    expected = opened.row("all", **cell)
    numbers = opened.tab.run(
        "[...document.querySelectorAll('#headline tbody tr:last-child td')].map((one) => one.firstChild.data)"
    )
    kinds = ("renormalised", "raw")
    metrics = ("accuracy", *(f"confidence_{kind}" for kind in kinds), *(f"ece_l2_{kind}" for kind in kinds))
    assert numbers == [short(expected[metric]) for metric in metrics]
    opened.tab.run("document.querySelector('#numbers tbody tr:last-child summary').click()")
    opened.tab.run("new Promise((done) => setTimeout(done, 50))")  # the event of the unfolding is a task
    ids = opened.texts("#numbers tbody tr:last-child code")
    assert sorted(ids) == sorted(expected["job_ids"])
    opened.choose("confidence", "raw")
    link = opened.tab.run("location.href")
    shown = "#results h3, #results td, #results text, #results li"
    figures = ("slopes", "dots", "reliability", "heat", "by-rate", "by-smoothing")
    before = opened.texts(shown), [opened.traces(figure) for figure in figures]
    opened.tab.open("about:blank")
    opened.tab.open(link)
    opened.tab.draw()
    assert (opened.texts(shown), [opened.traces(figure) for figure in figures]) == before
    assert opened.tab.run("document.querySelector('#filters [name=model]').value") == "large"
    assert "L2 ECE, raw" in opened.texts("#slopes .annotation-text")


@pytest.mark.parametrize(
    ("filters", "codes"),
    [
        ({"bucket": "low"}, {"sw", "yo"}),
        ({"script": "Cyrillic"}, {"uk"}),
        ({"bucket": "high", "script": "Latin"}, {"de", "en"}),
    ],
)
def test_bucket_and_script_filter_every_figure_and_the_table(
    opened: Opened, filters: dict[str, str], codes: set[str]
) -> None:
    opened.show()
    for name, value in filters.items():
        opened.choose(name, value)
    opened.unfold()
    names = {f"{TABLE[code].name} ({code})" for code in codes}
    all_names = {f"{TABLE[code].name} ({code})" for code in LANGUAGES}
    for place in ("slopes", "dots", "small", "heat"):
        assert set(opened.texts(f"#{place} text")) & all_names == names, place
    assert set(opened.texts("#numbers tbody tr:not(.mean) th")) == names
    # the mean over the chosen languages, from the rows of the tables
    chosen = [opened.row(code, model="hub/small") for code in codes]
    expected = sum(row["accuracy"] for row in chosen) / len(chosen)
    shown = opened.tab.run("document.querySelector('#headline tbody td').firstChild.data")
    assert abs(float(shown) - expected) < 6e-4
    ordered = [f"{TABLE[code].name} ({code})" for code in opened.study.languages() if code in codes]
    assert f"all shown: {', '.join(ordered)}" in opened.texts("#reliability .annotation-text")


def test_models_that_nothing_was_trained_from_have_no_slopes(opened: Opened, folder: StudyFolder) -> None:
    for model in ("a", "b"):
        for language in ("en", "sw"):
            folder.add({"model": model}, language, random_letters(model + language, 20, 2.0, 0.5, 0.9))
    opened.tab.size(1400)
    opened.tab.open(write_dashboard(folder.root).as_uri())
    opened.tab.draw()
    assert opened.tab.complaints == []
    assert opened.texts("#slopes text") == []
    assert opened.texts("#claims-scope") == [
        "Over all languages. In brackets 95% intervals, paired by question; Holm's correction runs over all "
        "languages of a comparison."
    ]
    assert opened.texts("#headline tbody th")[1].startswith("b2 shards")
    assert len(opened.texts("#heat .heatmap-label text")) == 2 * 2


def test_no_language_left_is_said(opened: Opened) -> None:
    opened.show(bucket="low", script="Cyrillic")
    assert opened.texts("#nothing") == ["No language has this script and this resource bucket."]
    opened.choose("bucket", "mid")
    assert opened.texts("#nothing") == []
    assert opened.texts("#numbers tbody tr:first-child th") == ["Ukrainian (uk)"]


def test_hover_and_arrow_keys_tell_n_interval_and_job(opened: Opened) -> None:
    opened.show()
    base = opened.row("de", model="hub/small")
    tuned = opened.row("de", model="hub/small", dataset="alpaca", learning_rate=1e-5, label_smoothing=0.1)

    def check_tooltip(row: dict[str, Any], label: str) -> None:
        (text,) = opened.texts("#tip")  # what a screen reader says
        # and what is seen, a little later: plotly draws it twenty times a second at most
        seen = "document.querySelector('#dots .hovertext text')?.textContent"
        opened.tab.until(f"{seen} === document.getElementById('tip').textContent.replaceAll('\\n', '')")
        assert text.startswith(f"German (de) · {label}")
        assert f"Accuracy: {short(row['accuracy'])} [" in text
        assert f"n = {COUNT}" in text
        assert f"job {row['job_ids'][0]}" in text

    x, y = opened.tab.run("""(() => {
      const place = document.getElementById("dots");
      const { xaxis, yaxis } = place._fullLayout;
      const { x, y } = place.data.find(({ name }) => name === "SFT ε=0.1");
      const box = place.getBoundingClientRect();
      return [box.x + xaxis._offset + xaxis.l2p(x[0]), box.y + yaxis._offset + yaxis.l2p(y[0])];
    })()""")
    opened.tab.point(x, y)
    check_tooltip(tuned, "SFT ε=0.1")
    opened.tab.run("document.getElementById('dots').focus()")
    opened.tab.press("Home")
    check_tooltip(base, "base")
    opened.tab.press("ArrowRight")
    opened.tab.press("ArrowRight")
    check_tooltip(tuned, "SFT ε=0.1")
    opened.tab.press("Escape")
    assert opened.texts("#tip") == [""]
    opened.tab.until("!document.querySelector('#dots .hovertext')")
    opened.tab.run("document.getElementById('heat').focus()")
    opened.tab.press("ArrowDown")
    assert opened.texts("#tip")[0].startswith("German (de) · base\nL2 ECE, renormalised: ")
    opened.tab.until(
        "document.querySelector('#heat .hovertext')?.textContent.startsWith('German (de) · base')"
    )
    opened.tab.press("Tab")
    assert opened.texts("#tip") == [""]


def test_the_language_that_is_pointed_at_stands_out(opened: Opened) -> None:
    opened.show()
    opened.tab.run("document.getElementById('slopes').focus()")
    opened.tab.press("Home")
    lit = {trace["meta"] for trace in opened.traces("slopes") if trace["opacity"] == 1}
    assert lit == {"de"}
    opened.tab.press("Escape")
    assert {trace["opacity"] for trace in opened.traces("slopes")} == {1}


def test_every_control_is_reached_by_tab(opened: Opened) -> None:
    opened.show()
    seen = set()
    opened.tab.run("document.body.focus()")
    for _ in range(60):
        opened.tab.press("Tab")
        seen.add(
            opened.tab.run(
                "(({ name, id, textContent }) => name || id || textContent)(document.activeElement)"
            )
        )
    assert {"model", "dataset", "benchmark", "learning_rate", "bucket", "script", "confidence"} <= seen
    assert {"slopes", "dots", "reliability", "heat", "by-rate", "word", "Accuracy"} <= seen
    opened.tab.run("document.getElementById('slopes').focus()")
    assert opened.tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_table_sorts_and_finds(opened: Opened) -> None:
    opened.show(model="small", dataset="tulu", learning_rate="5e-05")
    opened.tab.run("document.querySelectorAll('#numbers th button')[4].click()")
    opened.tab.run("document.querySelectorAll('#numbers th button')[4].click()")
    cells = opened.tab.run(
        "[...document.querySelectorAll('#numbers tbody tr')].map((row) => row.cells[4].dataset.value)"
    )
    known = [float(cell) for cell in cells if cell]
    assert known == sorted(known, reverse=True)
    assert set(cells[len(known) :]) == {""}  # what is missing comes last
    assert (
        opened.tab.run("document.querySelectorAll('#numbers th')[4].getAttribute('aria-sort')")
        == "descending"
    )
    found = "#numbers tbody th"
    opened.tab.run("document.getElementById('word').focus()")
    opened.tab.call("Input.insertText", text="yoruba")
    assert opened.texts(found) == ["Yoruba (yo)"] * 3
    job = opened.row("yo", model="hub/small")["job_ids"][0]

    def find(text: str) -> list[str]:
        opened.tab.run("document.getElementById('word').select()")
        opened.tab.call("Input.insertText", text=text)
        return opened.texts(found)

    assert find("Yoruba ε=0.1") == ["Yoruba (yo)"]
    assert find(job) == ["Yoruba (yo)", "low, macro", "all, macro"]  # the rows that it is in
    assert find(job[1:]) == find("jobs") == find("failed") == []


def test_a_name_is_no_markup_of_a_figure(opened: Opened, folder: StudyFolder) -> None:
    names = ["<i>n", "R&amp;D<br>x"]
    for model in names:
        folder.add({"model": model}, "en", random_letters(model, 20, 2.0, 0.5, 0.9))
    opened.tab.open(write_dashboard(folder.root).as_uri())
    opened.tab.draw()
    assert opened.tab.complaints == []
    assert opened.texts("#heat .xtick text") == names
    assert opened.texts("#dots .legendtext") == names
    opened.tab.run("document.getElementById('dots').focus()")
    opened.tab.press("Home")
    assert opened.texts("#tip")[0].startswith("English (en) · <i>n\n")
