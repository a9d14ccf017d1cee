"""Grids to plan, shared by the tests of plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.errors import UserError
from study.jobs.plan import Plan
from tests.grids import plan_of

GRID = """
study: golden
prepare:
  tiny: {dataset: cldr-pretrain, num_steps: 25, learning_rate: 2.5e-3, template: plain, dtype: fp32}
grid:
  model: [tiny]
  dataset: [cldr-instruct]
  label_smoothing: [0.0, 0.1]
  seed: [0, 1]
train: {num_steps: 8, template: plain, dtype: fp32}
evaluate:
  benchmarks: [{name: cldr_lite, languages: [sw, en]}]
"""


BASE_ALONE = "study: s\ngrid: {model: [m]}\nevaluate: {benchmarks: [{name: cldr_lite, languages: [low]}]}\n"


def ids(plan: Plan) -> list[str]:
    return [job.job_id for job in plan.jobs]


def mistake(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        plan_of(folder, text, *overrides)
    return str(caught.value)
