"""`calsweep power`: which changes the languages, questions and seeds of a grid can find."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.terminal.power import Forecast, forecast, print_forecasts
from launcher.cost.sizes import items
from launcher.planning.plan import build_plan
from study.errors import UserError
from study.grid.config import load_grid
from study.grid.yaml_files import errors_with_lines
from study.jobs.plan import Plan
from study.jobs.specs import VALIDATION_SPLITS, EvalSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", type=Path, help="the grid's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the grid")
    parser.add_argument(
        "--from", dest="study", type=Path, metavar="STUDY",
        help="an earlier study or a pilot: how its changes vary with questions and seeds",
    )  # fmt: skip
    parser.add_argument(
        "--change", type=float, default=0.01, help="the change for which seeds are counted, .01 by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if not 0.0 < args.change < 1.0:
        raise UserError("out of range", where="--change", remedy="give a change between 0 and 1")
    with errors_with_lines(args.grid):
        # nothing will run: revisions may stay open
        plan = build_plan(replace(load_grid(args.grid, args.overrides), only_looked_at=True))
    forecasts = [
        forecast(name, num_languages, num_items, _num_seeds(plan), args.change, args.study)
        for name, num_languages, num_items in _tests(plan)
    ]
    if not forecasts:
        raise UserError("evaluates nothing", where=str(args.grid), remedy="add evaluate.benchmarks")
    if args.json:
        print(json.dumps([_as_json(one) for one in forecasts]))
    else:
        print_forecasts(forecasts)
    return 0


def _tests(plan: Plan) -> list[tuple[str, int, float | None]]:
    """(name, languages, questions of a language, None where unknown) of each test that is reported."""
    counts: dict[str, dict[str, float | None]] = {}
    for job in plan.of_kind("evaluate"):
        spec = job.spec
        assert isinstance(spec, EvalSpec)
        if spec.benchmark.split not in VALIDATION_SPLITS:
            name = f"{spec.benchmark.name} {spec.benchmark.split} {spec.protocol}"
            languages = counts.setdefault(name, {})
            if spec.language not in languages:
                languages[spec.language] = items(spec.benchmark, spec.language)[0].value
    tests = []
    for name, languages in counts.items():
        known = [count for count in languages.values() if count is not None]
        tests.append((name, len(languages), statistics.median(known) if known else None))
    return tests


def _num_seeds(plan: Plan) -> int:
    return max(1, len({job.cell.get("seed") for job in plan.of_kind("train")}))


def _as_json(one: Forecast) -> dict[str, Any]:
    return {
        "test": one.test,
        "num_languages": one.num_languages,
        "num_items": one.num_items,
        "num_seeds": one.num_seeds,
        "components_from": one.source,
        "change": one.change,
        "metrics": [
            {
                "metric": name,
                "detectable": None if found.detectable == math.inf else found.detectable,
                "seeds_for_change": found.seeds_needed,
                "from_level": found.level,
            }
            for name, found in one.metrics.items()
        ],
    }
