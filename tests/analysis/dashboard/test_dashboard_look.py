"""How the dashboard looks: legible in both themes, on paper and on a phone, with 42 languages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from analysis.dashboard.page import write_dashboard
from study.benchmarks.definition import definition_of
from study.languages import LANGUAGES
from tests.analysis.browser import CHROMIUM, Tab, chromium
from tests.analysis.studies import StudyFolder, sweep

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

CODES = definition_of("global_mmlu").languages
TEXT_COLOURS = ("ink", "muted", "warn", *(f"s{n}" for n in range(8)), "high", "mid", "low", "other")
OUTSIDE = """
[...document.querySelectorAll(".plot .svg-container")].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll(".main-svg text")].filter((text) => {
    const own = text.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1
      || own.bottom > box.bottom + 1;
  }).map((text) => `${svg.parentNode.id}: ${text.textContent}`);
})
"""
COLOURS = """
(() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const rgb = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color.match(/\\d+/g).map(Number);
  };
  const found = Object.fromEntries(%s.map((name) => [name, rgb(name)]));
  probe.remove();
  return found;
})()
"""
BOXES = """
[...document.querySelectorAll("#%s text")].map((text) => {
  const box = text.getBoundingClientRect();
  return [text.textContent, box.left, box.right, box.y];
})
"""
SCALES = """
document.getElementById("heat").data.filter(({ type }) => type === "heatmap")
  .flatMap(({ colorscale }) => colorscale.map(([at, colour]) => colour.match(/[0-9a-f]{2}/g)))
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study") / "wide"
    root.mkdir()
    folder = sweep(StudyFolder(root), languages=CODES, seeds=1, count=20, skip=[(0.1, 0, "sw")])
    return write_dashboard(folder.root)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


def show(tab: Tab, page: Path, width: int = 1400, **features: str) -> None:
    tab.media(**features)
    tab.size(width, 8000 if width > 390 else 18_000)
    tab.open(page.as_uri())
    tab.draw()


def contrast(a: list[float], b: list[float]) -> float:
    """Of two sRGB colours, 0..255, by WCAG 2."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_black_on_white() -> None:
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21.0)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(tab: Tab, page: Path, theme: str) -> None:
    show(tab, page, prefers_color_scheme=theme)
    colours: dict[str, list[float]] = tab.run(COLOURS % [*TEXT_COLOURS, "bg", "panel", "edge"])
    assert (colours["bg"][0] > 128) == (theme == "light")
    for name in TEXT_COLOURS:
        assert contrast(colours[name], colours["bg"]) >= 4.5, name
    for name in ("ink", "muted", "warn"):
        assert contrast(colours[name], colours["panel"]) >= 4.5, name
    assert contrast(colours["edge"], colours["bg"]) >= 3.0  # the border of a control
    scales: list[list[str]] = tab.run(SCALES)  # between two colours of a scale the contrast is no less
    assert len(scales) == 2 + 3
    assert min(contrast(colours["ink"], [int(part, 16) for part in end]) for end in scales) >= 4.5


@pytest.mark.parametrize("width", [1400, 900, 390])
def test_nothing_is_clipped_or_wider_than_the_page(tab: Tab, page: Path, width: int) -> None:
    show(tab, page, width)
    tab.run("document.getElementById('each').open = true")
    tab.draw()
    assert tab.run("document.querySelectorAll('.plot .svg-container').length") == 6
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert tab.run(OUTSIDE) == []


@pytest.mark.parametrize("width", [1400, 390])
def test_the_names_of_42_languages_do_not_overlap(tab: Tab, page: Path, width: int) -> None:
    show(tab, page, width)
    names = {f"{LANGUAGES[code].name} ({code})" for code in CODES}
    for figure, count in (("slopes", 18), ("dots", 42), ("heat", 42)):
        places: list[tuple[str, float, float, float]] = tab.run(BOXES % figure)
        found = [place for place in places if place[0] in names]
        # the slopes have three of each end of a bucket, which are others in each metric
        assert len({place[0] for place in found}) >= count, figure
        assert len(found) == {"slopes": 3 * count, "dots": 3 * count, "heat": 2 * count}[figure], figure
        for (one, left, right, y), (other, other_left, other_right, other_y) in combinations(found, 2):
            if left < other_right and other_left < right:
                assert abs(y - other_y) >= 11.0, (figure, one, other)  # px, the size of the letters


def test_a_resized_window_is_drawn_anew(tab: Tab, page: Path) -> None:
    show(tab, page)
    tab.size(700)
    tab.until("document.querySelector('#slopes .main-svg').getBoundingClientRect().right <= innerWidth")
    tab.draw()
    assert tab.run(OUTSIDE) == []


def test_paper_is_white_and_has_the_whole_table(tab: Tab, page: Path) -> None:
    tab.size(1400)
    tab.open(page.as_uri())
    tab.media("print", prefers_color_scheme="dark")
    colours: dict[str, list[float]] = tab.run(COLOURS % ["bg", "ink"])
    assert colours["bg"] == [255, 255, 255]
    assert contrast(colours["ink"], colours["bg"]) > 10
    assert tab.run("getComputedStyle(document.getElementById('filters')).display") == "none"
    long = "document.querySelector('.long')"
    assert tab.run(f"{long}.scrollHeight <= {long}.clientHeight + 1")
    assert tab.paper().startswith(b"%PDF-")


def test_figures_follow_the_theme_and_are_light_on_paper(tab: Tab, page: Path) -> None:
    colours = (
        "[...document.querySelectorAll('.plot')].filter((one) => one.data)"
        ".map((one) => one.layout.font.color)"
    )
    show(tab, page, prefers_color_scheme="light")
    light: list[str] = tab.run(colours)
    assert len(light) == 5
    assert len(set(light)) == 1
    tab.media(prefers_color_scheme="dark")
    tab.until(f"!{colours}.includes({light[0]!r})")
    dark: list[str] = tab.run(colours)
    assert set(dark) != set(light)
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run(colours) == light
    wide = "[...document.querySelectorAll('.plot')].map((one) => one.getBoundingClientRect().width)"
    assert max(tab.run(wide)) <= 1000
    tab.run("dispatchEvent(new Event('afterprint'))")
    assert tab.run(colours) == dark


def test_all_figures_are_on_paper_though_none_was_seen(tab: Tab, page: Path) -> None:
    tab.media()
    tab.size(1400, 300)
    tab.open(page.as_uri())
    drawn = "[...document.querySelectorAll('.plot')].filter((one) => one.data).length"
    assert tab.run(drawn) == 0
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run(drawn) == 5


def test_nothing_moves(tab: Tab, page: Path) -> None:
    show(tab, page, prefers_reduced_motion="no-preference")
    tab.run("document.getElementById('slopes').focus()")
    tab.press("Home")
    assert tab.run("document.getAnimations().length") == 0
