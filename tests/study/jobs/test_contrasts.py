"""Contrasts that a grid declares: which cells they compare, and mistakes that planning refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.planning.plan import build_plan
from study.errors import UserError
from study.grid.config import load_grid
from study.jobs.contrasts import declared_contrasts
from study.jobs.plan import read_plan, write_plan
from study.paths import StudyPaths

GRID = """
study: tiny
grid: {model: [cldr-tiny], learning_rate: [0.001, 0.002], label_smoothing: [0.0, 0.1], seed: [0, 1]}
prepare: {cldr-tiny: {dataset: cldr-pretrain}}
train: {dataset: cldr-instruct}
evaluate: {benchmarks: [{name: cldr, languages: [en]}BENCHMARKS]}
contrasts: CONTRASTS
"""


def planned(folder: Path, contrasts: str, benchmarks: str = "") -> Any:
    path = folder / "grid.yaml"
    path.write_text(GRID.replace("CONTRASTS", contrasts).replace("BENCHMARKS", benchmarks))
    return build_plan(load_grid(path))


def test_they_change_no_id_and_come_back_from_the_plan(tmp_path: Path) -> None:
    plain = planned(tmp_path, "[]")
    smoothing = "{name: x, a: {label_smoothing: 0.1}, b: {label_smoothing: 0.0}}"
    declared = planned(tmp_path, f"[{smoothing}, {{a: {{label_smoothing: 0.1}}, b: base}}]")
    assert [job.job_id for job in declared.jobs] == [job.job_id for job in plain.jobs]
    write_plan(declared, "", StudyPaths(tmp_path))
    assert read_plan(StudyPaths(tmp_path)).contrasts == declared.contrasts
    write_plan(plain, "", StudyPaths(tmp_path))
    assert read_plan(StudyPaths(tmp_path)).contrasts == ()
    assert "contrasts" not in StudyPaths(tmp_path).plan.read_text()


def test_the_margin_of_equivalence(tmp_path: Path) -> None:
    plain, wide = planned(tmp_path, "[]"), planned(tmp_path, "[]\nequivalence_margin: 0.02")
    assert [job.job_id for job in wide.jobs] == [job.job_id for job in plain.jobs]
    write_plan(wide, "", StudyPaths(tmp_path))
    assert read_plan(StudyPaths(tmp_path)).equivalence_margin == 0.02
    with pytest.raises(UserError, match="equivalence_margin: out of range; give a change between 0 and 1"):
        planned(tmp_path, "[]\nequivalence_margin: 0")


@pytest.mark.parametrize(
    ("contrasts", "sentence"),
    [
        ("[0.1]", "contrasts[0]: not a contrast; give a: and b:, each axes with a value"),
        ("[{a: {label_smoothing: 0.1}}]", "contrasts[0].b: is not a side of a contrast"),
        ("[{a: base, b: base}]", "contrasts[0]: compares cells with themselves"),
        ("[{a: base, c: base}]", "contrasts[0].c: unknown key; valid: a, b, name"),
        ("[{a: {smoothing: 0.1}, b: base}]", "contrasts[0].a.smoothing: unknown axis"),
        ("[{a: {label_smoothing: 0.3}, b: base}]", "contrasts[0]: compares no two cells of this grid"),
        ("[{a: {label_smoothing: chosen}, b: base}]", "only a learning rate is chosen"),
        ("[{a: {learning_rate: chosen}, b: base}]", "no validation split is evaluated that could choose"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, contrasts: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        planned(tmp_path, contrasts)
    assert sentence in str(refused.value)


def test_a_validation_split_may_choose(tmp_path: Path) -> None:
    sides = (
        f"{side}: {{learning_rate: chosen, label_smoothing: {e}}}" for side, e in (("a", 0.1), ("b", 0.0))
    )
    chosen = f"[{{{', '.join(sides)}}}]"
    plan = planned(tmp_path, chosen, ", {name: cldr, split: validation, languages: [en]}")
    assert len(plan.contrasts) == 1


def test_axes_that_no_side_names_are_equal() -> None:
    cells = [{"model": "m"}] + [
        {"model": "m", "dataset": "d", "learning_rate": rate, "label_smoothing": smoothing}
        for rate in (1e-5, 5e-5)
        for smoothing in (0.0, 0.1)
    ]
    (contrast,) = declared_contrasts([{"a": {"label_smoothing": 0.1}, "b": {"label_smoothing": 0.0}}], "")
    assert list(contrast.pairs(cells)) == [(2, 1), (4, 3)]
    (contrast,) = declared_contrasts([{"a": {"label_smoothing": 0.1}, "b": "base"}], "")
    assert list(contrast.pairs(cells)) == [(2, 0), (4, 0)]
    own = {"learning_rate": "chosen"}
    (contrast,) = declared_contrasts(
        [{"a": {"label_smoothing": 0.1, **own}, "b": {"label_smoothing": 0.0, **own}}], ""
    )
    assert list(contrast.pairs(cells, [cells[4], cells[1]])) == [(4, 1)]
