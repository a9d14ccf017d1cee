"""A headline metric is added by one function and one entry in `analysis/reading/headline.py`, nothing else.

The steps of CONTRIBUTING.md, followed in a copy of the packages: the metric then has its value and interval
in every view, and `verify` computes it again.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from study.records import Prediction
from tests.analysis.studies import StudyFolder, sweep
from tests.recipes import copy_project, follow
from tests.waiting import HANG_S

REPORT = """
import sys
from pathlib import Path
from analysis.exchange.publish import markdown_table
from analysis.reading.loading import load_study
from analysis.results.settings import settings
study = load_study(Path(sys.argv[1]))
print(markdown_table(study, settings(study)[0]))
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python in a copy of the packages that has the new metric; gives what it printed."""
    copy = copy_project(tmp_path_factory.mktemp("copy") / "calsweep")
    follow("Add a headline metric", copy)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=copy, capture_output=True, text=True, timeout=HANG_S,
            env={"PYTHONPATH": str(copy), "COLUMNS": "140", "OMP_NUM_THREADS": "1", "PATH": ""}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    root = tmp_path_factory.mktemp("study") / "tiny"
    root.mkdir()
    return sweep(StudyFolder(root), seeds=1, languages=["en", "sw"], count=40)


def by_hand(records: list[Prediction]) -> float:
    """The mean probability of the right option among the options."""
    shares = [[math.exp(score) for score in record.scores] for record in records]
    return sum(p[r.label] / sum(p) for p, r in zip(shares, records, strict=True)) / len(records)


def short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def test_a_metric_with_its_interval_in_every_view(run: Run, study: StudyFolder) -> None:
    root = str(study.root)
    printed = run("-m", "analysis", "tables", root)
    tables = study.root / "tables"
    rows = list(csv.DictReader(io.StringIO((tables / "calibration.csv").read_text())))
    (row,) = (row for row in rows if row["name"] == "sw" and not row["dataset"])
    value, low, high = (float(row[f"probability{end}"]) for end in ("", "_low", "_high"))
    assert value == pytest.approx(by_hand(study.records[row["job_ids"]]), abs=1e-6)
    assert 0.0 < low < value < high < 1.0
    columns = list(rows[0])
    assert columns[columns.index("probability") :][:4] == [
        "probability", "probability_low", "probability_high", "nll",
    ]  # fmt: skip

    pq = pytest.importorskip("pyarrow.parquet")
    stored = pq.read_table(tables / "calibration.parquet")
    assert str(stored.schema.field("probability_low").type) == "double"
    assert stored["probability"].to_pylist() == [float(row["probability"]) for row in rows]

    text = f"{short(value)} [{short(low)}, {short(high)}]"
    for suffix in ("md", "tex"):
        written = (tables / f"calibration.{suffix}").read_text()
        assert "prob." in written
        assert (text if suffix == "md" else text.replace("[", "{[}")) in written
        assert "prob." in (tables / f"differences.{suffix}").read_text()
    changes = list(csv.DictReader(io.StringIO((tables / "differences.csv").read_text())))
    (change,) = (
        one
        for one in changes
        if (one["metric"], one["name"], one["contrast"]) == ("probability", "all", "SFT ε=0 - base")
    )
    assert float(change["low"]) < float(change["value"]) < float(change["high"])

    (swahili,) = (line for line in printed.splitlines() if "Swahili" in line)
    assert swahili.split()[2 + 5] == short(value)  # behind accuracy, two confidences and two ECEs
    assert [line.split()[6] for line in printed.splitlines() if line.startswith(" language")] == ["pro"]
    assert run("-m", "analysis", "verify", root).startswith("right: ")
    assert "figures/slopes.png" in run("-m", "analysis", "figures", root, "--format", "png")


def test_the_page_the_report_and_a_comparison_have_it(run: Run, study: StudyFolder) -> None:
    root = str(study.root)
    run("-m", "analysis", "dashboard", root)
    html = (study.root / "dashboard.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    assert [metric["title"] for metric in data["headlines"]][-1] == "Probability"
    assert '<th scope="col">Probability</th>' in html
    assert ["probability", "Prob."] in data["columns"]
    place = data["metrics"].index("probability")
    base = data["results"][0]["0"]["languages"]["sw"]
    value, (low, high) = base["values"][place], base["ranges"][place]
    assert value == pytest.approx(by_hand(study.records[base["jobs"][0]]), abs=1e-6)
    assert low < value < high
    assert any("Probability " in said for said in data["settings"][0]["claims"][0]["levels"]["all"])

    head, _, *lines = run("-c", REPORT, root).splitlines()
    assert head.endswith("| Probability |")
    (line,) = (line for line in lines if line.startswith("| sw Swahili | base |"))
    assert line.endswith(f"| {value:.3f} [{low:.3f}, {high:.3f}] |")

    (row, *_) = csv.DictReader(io.StringIO(run("-m", "analysis", "compare", root, root, "--format", "csv")))
    assert float(row["probability_a"]) == float(row["probability_b"])
    assert [row[f"probability_{what}"] for what in ("difference", "low", "high")] == ["0.0"] * 3
    assert "prob." in run("-m", "analysis", "compare", root, root)
