"""What the dashboard's figures draw is what the tables say: plotly's traces against the tables' rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from analysis.dashboard.page import write_dashboard
from tests.analysis.browser import CHROMIUM
from tests.analysis.opened_dashboard import SMOOTHING, Opened, open_grid, short, tips
from tests.analysis.studies import LANGUAGES, StudyFolder, random_letters

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with open_grid(tmp_path_factory) as found:
        yield found


def close_to(values: list[float]) -> Any:
    """The page has six decimals."""
    return pytest.approx(values, abs=5e-7)


def test_the_figures_are_the_tables(opened: Opened) -> None:
    opened.show()
    metrics = ("accuracy", "confidence_renormalised", "ece_l2_renormalised")
    axes: list[dict[str, Any]] = [{"model": "hub/small"}]
    axes += [axes[0] | {"dataset": "alpaca", "learning_rate": 1e-5, "label_smoothing": e} for e in SMOOTHING]
    labels = ("base", "SFT ε=0", "SFT ε=0.1")
    codes = [code for code in opened.study.languages() if code in LANGUAGES]
    rows = {
        label: [opened.row(code, **cell) for code in codes] for label, cell in zip(labels, axes, strict=True)
    }

    drawn = opened.traces("slopes")
    slopes = [trace for trace in drawn if trace["meta"] in codes and trace["name"] != "names"]
    assert len(slopes) == len(metrics) * len(codes)
    for number, trace in enumerate(slopes):
        metric, place = metrics[number // len(codes)], number % len(codes)
        assert trace["meta"] == codes[place]
        assert trace["y"] == close_to([rows[label][place][metric] for label in labels])
    means = [trace for trace in drawn if trace["name"] == "mean"]
    panels = [(metric, bucket) for metric in metrics for bucket in ("high", "mid", "low")]
    for (metric, bucket), trace in zip(panels, means, strict=True):
        assert trace["y"] == close_to([opened.row(bucket, **cell)[metric] for cell in axes])

    for label in labels:
        for metric, trace in zip(metrics, opened.traces("dots", label), strict=True):
            assert trace["x"] == close_to([row[metric] for row in rows[label]])
            bars = trace["error_x"]
            low = [x - d for x, d in zip(trace["x"], bars["arrayminus"], strict=True)]
            high = [x + d for x, d in zip(trace["x"], bars["array"], strict=True)]
            assert low == pytest.approx([row[f"{metric}_low"] for row in rows[label]], abs=2e-6)
            assert high == pytest.approx([row[f"{metric}_high"] for row in rows[label]], abs=2e-6)

    ece, _, change, _ = opened.traces("heat")
    assert [line[0] for line in ece["z"]] == close_to([row["ece_l2_renormalised"] for row in rows["base"]])
    found = [line[1] for line in change["z"]]
    name = metrics[-1]
    wanted = [b[name] - a[name] for a, b in zip(rows["base"], rows["SFT ε=0.1"], strict=True)]
    assert found == pytest.approx(wanted, abs=2e-6)

    for metric, trace in zip(metrics, opened.traces("by-smoothing", "lr=5e-05"), strict=True):
        cells = [axes[1] | {"learning_rate": 5e-5, "label_smoothing": e} for e in SMOOTHING]
        assert trace["y"] == close_to([opened.row("all", **cell)[metric] for cell in cells])


def test_the_ece_of_a_pool_is_the_micro_ece(opened: Opened) -> None:
    opened.show()
    notes = [
        text for text in opened.texts("#reliability .annotation-text") if text.startswith("ECE of the pool")
    ]
    expected = [
        short(opened.row(name, "micro", model="hub/small", **axes)["ece_renormalised"])
        for name in ("all", "high", "mid", "low")
        for axes in (
            {},
            *({"dataset": "alpaca", "learning_rate": 1e-5, "label_smoothing": e} for e in SMOOTHING),
        )
    ]
    assert [note.split()[-1] for note in notes] == expected


def test_missing_is_marked_with_its_reason_and_never_zero(opened: Opened) -> None:
    opened.show(model="small", dataset="tulu", learning_rate="5e-05")
    ece, crosses, change, more_crosses = opened.traces("heat")
    job = next(shard.job_id for shard in opened.study.shards if shard.missing)
    for heat, marks, columns in ((ece, crosses, 9), (change, more_crosses, 8)):
        assert [len(line) for line in heat["z"]] == [columns] * 5
        missing = [
            (x, y, heat["hovertext"][y][x])
            for y, line in enumerate(heat["z"]) for x, value in enumerate(line) if value is None
        ]  # fmt: skip
        ((x, y, tip),) = missing
        assert tip == f"<b>Swahili (sw) · tulu · lr=5e-05 · SFT ε=0.1</b><br>missing: failed<br>job {job}"
        assert (marks["x"], marks["y"]) == ([x], [y])
    for figure, expected in (("dots", 3), ("slopes", 0), ("by-rate", 3), ("by-smoothing", 3)):
        tooltips = [tip for tip in tips(opened.traces(figure, "missing")) if tip]
        assert len(tooltips) == expected, figure
        assert all("<br>missing: " in tip for tip in tooltips)
        # what stands there is the word: a mark among the values could be taken for one
        assert opened.texts(f"#{figure} .textpoint text").count("missing") == expected
    assert opened.texts("#numbers tbody td.warn") == ["failed", "1 of 2 missing", "1 of 5 missing"]
    assert "of 5 missing" in " ".join(opened.texts("#headline td"))
    assert opened.texts("#reliability .annotation-text").count("4 of 5 shards") == 1


def test_slopes_name_the_outermost_and_list_what_is_missing(opened: Opened) -> None:
    opened.show(model="small", dataset="tulu", learning_rate="5e-05")
    named = {(trace["yaxis"], trace["meta"]): trace["y"] for trace in opened.traces("slopes", "names")}
    assert {code for _, code in named} == set(LANGUAGES) - {"sw"}
    cell: dict[str, Any] = {
        "model": "hub/small", "dataset": "tulu", "learning_rate": 5e-5, "label_smoothing": 0.1,
    }  # fmt: skip
    for (axis, code), (start, _, _) in named.items():
        metric = ("accuracy", "confidence_renormalised", "ece_l2_renormalised")[(int(axis[1:] or 1) - 1) // 3]
        assert start == close_to(opened.row(code, **cell)[metric])
    said = [text for text in opened.texts("#slopes .annotation-text") if "missing" in text]
    assert said == ["Swahili (sw): missing at SFT ε=0.1"] * 3


def test_rare_bins_are_faint_and_there(opened: Opened) -> None:
    opened.show()
    opened.unfold()
    for figure in ("reliability", "small"):
        curves = [t for t in opened.traces(figure) if t.get("mode") == "lines+markers"]
        rare = 0
        for complete, frequent in zip(curves[::2], curves[1::2], strict=True):
            assert (complete["opacity"], frequent.get("opacity", 1)) == (0.25, 1)
            for y, strong, *said in zip(
                complete["y"], frequent["y"], complete["hovertext"], frequent["hovertext"], strict=True
            ):
                (text,) = filter(None, said)
                count, n = (int(word) for word in text.split("<br>")[-1].split() if word.isdigit())
                assert strong == (y if count >= 0.01 * n else None)
                rare += strong is None
        assert rare > 0 or figure == "small"


def test_rates_have_one_form(opened: Opened, folder: StudyFolder) -> None:
    for rate in (1e-4, 2.5e-4, 5e-6):
        for smoothing in (0.0, 0.1):
            cell = {"model": "m", "learning_rate": rate, "label_smoothing": smoothing}
            folder.add(cell, "en", random_letters(f"{cell}", 20, 2.0, 0.5, 0.9))
    opened.tab.open(write_dashboard(folder.root).as_uri())
    opened.tab.draw()
    forms = ["5e-06", "0.0001", "0.00025"]
    assert opened.texts("#by-rate .xtick text") == forms
    assert opened.texts("#by-smoothing .legendtext") == [f"lr={form}" for form in forms]
    assert set(opened.texts("#filters [name=learning_rate] option")) == set(forms)
    # what is drawn leaves no hole: the room for it is kept until then
    heights = (
        "[...document.querySelectorAll('.plot')].filter((one) => one.data && one.checkVisibility())"
        ".map((one) => one.clientHeight - one.layout.height)"
    )
    assert max(opened.tab.run(heights)) < 1
