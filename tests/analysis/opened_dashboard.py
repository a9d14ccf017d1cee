"""A dashboard in a browser, of a grid on every axis, with the tables' rows to hold it against."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from analysis.dashboard.page import write_dashboard
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.tables.calibration import table_rows
from tests.analysis.browser import Tab, chromium
from tests.analysis.studies import LANGUAGES, StudyFolder, random_letters

MODELS, DATASETS, RATES, SMOOTHING = ("hub/small", "hub/large"), ("alpaca", "tulu"), (1e-5, 5e-5), (0.0, 0.1)
MISSING = ("hub/small", "tulu", 5e-5, 0.1, "sw")
COUNT = 40
TEXT = """
[...document.querySelectorAll({selector!r})].filter((one) => !one.closest("[hidden]"))
  .map((one) => one.textContent)
"""
AXES = ("model", "dataset", "learning_rate", "label_smoothing")


@dataclass(frozen=True)
class Opened:
    tab: Tab
    url: str
    study: Study
    rows: list[dict[str, Any]]

    def show(self, **state: str) -> None:
        """Open the page at a state of its hash."""
        self.tab.media()
        self.tab.size(1400)
        self.tab.open("about:blank")
        self.tab.open(self.url + ("#" + "&".join(f"{k}={v}" for k, v in state.items()) if state else ""))
        self.tab.draw()

    def choose(self, name: str, value: str) -> None:
        self.tab.run(
            f"(() => {{ const box = document.querySelector('#filters [name={name}]'); box.value = {value!r};"
            " box.dispatchEvent(new Event('change')); })()"
        )
        self.tab.draw()

    def unfold(self) -> None:
        """Show the diagrams of each language."""
        self.tab.run("document.getElementById('each').open = true")
        self.tab.draw()

    def traces(self, figure: str, name: str | None = None) -> list[dict[str, Any]]:
        """What plotly was given to draw."""
        data: list[dict[str, Any]] = self.tab.run(f"document.getElementById({figure!r}).data")
        return [trace for trace in data if name is None or trace["name"] == name]

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.tab.run(TEXT.format(selector=selector))
        return found

    def row(self, name: str, average: str = "macro", **axes: Any) -> dict[str, Any]:
        """The tables' row."""
        (found,) = (
            row
            for row in self.rows
            if row["name"] == name and row["average"] in (average, "none")
            and all(row[axis] == axes.get(axis) for axis in AXES)
        )  # fmt: skip
        return found


@contextmanager
def open_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The dashboard of two models x two datasets x two learning rates x two factors, one shard failed."""
    root = tmp_path_factory.mktemp("study") / "grid"
    root.mkdir()
    folder = StudyFolder(root)
    for language in LANGUAGES:
        for model in MODELS:
            folder.add({"model": model}, language, random_letters(f"{language}{model}", COUNT, 1.8, 0.5, 0.9))
            for dataset in DATASETS:
                for rate in RATES:
                    for smoothing in SMOOTHING:
                        cell = {
                            "model": model,
                            "dataset": dataset,
                            "learning_rate": rate,
                            "label_smoothing": smoothing,
                        }
                        is_missing = (*cell.values(), language) == MISSING
                        rows = random_letters(
                            str((language, *cell.values())), COUNT, 4.0 - 10 * smoothing, 0.5, 0.95
                        )
                        folder.add(cell, language, None if is_missing else rows, failed=is_missing)
    study = load_study(root)
    page = write_dashboard(root, study=study)
    with chromium(tmp_path_factory.mktemp("browser")) as tab:
        yield Opened(tab, page.as_uri(), study, table_rows(study))


def tips(traces: list[dict[str, Any]]) -> list[str]:
    """What the points tell, of a heat map too."""
    lines = [line for trace in traces for line in trace.get("hovertext", [])]
    return [tip for line in lines for tip in (line if isinstance(line, list) else [line])]


def short(value: float) -> str:
    return re.sub(r"^(−?)0\.", r"\1.", f"{value:.3f}".replace("-", "−"))
