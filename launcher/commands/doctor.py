"""`calsweep doctor loss`: does the installed stack compute the loss, and its gradient, that a study needs?"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.planning.plan import SCRATCH, build_plan
from launcher.planning.sites import load_site
from study.errors import JobError, UserError
from study.grid.config import load_grid
from study.grid.sources import embedded_source
from study.grid.yaml_files import telling_lines
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.jobs.resources import Resources
from study.jobs.specs import ARCHITECTURES, DTYPES, Hyperparameters, Scratch, TrainSpec
from study.paths import StudyPaths
from study.terminal import make_console, print_json

RANKS = (1, 2)
TIMEOUT_MIN = 30


Found: TypeAlias = list[dict[str, Any]] | str
"""A case's checks as JSON values; or why it cannot be checked."""


class Case(NamedTuple):
    """What is checked once: a model, and how it is trained. model_path: where `training.model` finds it."""

    name: str
    spec: TrainSpec
    model_path: str
    resources: Resources


def doctor(options: argparse.Namespace) -> int:
    """Check the loss for each model and dtype of a study, or for the built-in architectures.

    Returns 0 when every check passed, 1 otherwise, also where a model cannot be checked.
    """
    # the loss is all that it looks at, so it need not be named
    rest = options.items[1:] if options.items[0] == "loss" else options.items
    if len(rest) > 1:
        raise UserError(
            "is unknown", where=f"doctor {' '.join(options.items)}", remedy="write: doctor loss GRID"
        )
    cases = _of_a_study(Path(rest[0])) if rest else list(_built_in())
    console = make_console(stderr=options.json)
    results = _check(cases, console)
    if options.json:
        print_json(results)
    else:
        _print(results, console)
    return int(not all(result["passed"] for result in results))


def certify(cases: Sequence[Case]) -> list[Found]:
    """What `training.certificate` finds for each case; every rank of a task runs this."""
    from training import certificate, model
    from training.engine import zero

    world = zero.join()
    found: list[Found] = []
    try:
        for case in cases:
            try:
                config = model.config_of(case.spec, case.model_path)
                checks = certificate.certify(config, case.spec.hyper, case.resources, world)
            except JobError as error:  # of the model, and so on every rank; the next may be well
                found.append(str(error))
            else:
                found.append([certificate.to_dict(check) for check in checks])
    finally:
        zero.leave()
    return found


def _built_in() -> Iterator[Case]:
    for architecture in ARCHITECTURES:
        for dtype in DTYPES:
            spec = TrainSpec(
                SCRATCH,
                embedded_source("cldr-pretrain"),
                Hyperparameters(dtype=dtype, label_smoothing=0.1),
                Scratch(architecture=architecture),
            )
            yield Case(architecture, spec, "", Resources())


def _of_a_study(file: Path) -> list[Case]:
    """Each model as it is trained: dtype, cap and temperature, and the largest smoothing factor there is."""
    if file.is_dir():
        file = StudyPaths(file).grid
    with telling_lines(file, ()):
        grid = dataclasses.replace(load_grid(file), only_looked_at=True)
        plan, site = build_plan(grid), load_site(grid)
    found: dict[tuple[Any, ...], Case] = {}
    for job in (job for job in plan.jobs if isinstance(job.spec, TrainSpec)):
        spec, model_path = _weights(job, plan)
        hyper = spec.hyper
        key = (spec.model, spec.scratch, hyper.dtype, hyper.logit_softcap, hyper.logit_temperature)
        if key not in found or found[key].spec.hyper.label_smoothing < hyper.label_smoothing:
            found[key] = Case(str(job.cell["model"]), spec, model_path, site.resources[job.kind])
    if not found:
        raise UserError("trains nothing", where=str(file), remedy="give a grid with a dataset")
    return list(found.values())


def _weights(job: Job, plan: Plan) -> tuple[TrainSpec, str]:
    """What a job trains, and where it is; a model that the plan prepares is built as that job builds it."""
    spec = job.spec
    assert isinstance(spec, TrainSpec)
    if spec.model.kind == "job":
        (maker,) = [other for other in plan.jobs if other.job_id == spec.model.name]
        assert isinstance(maker.spec, TrainSpec)
        spec = dataclasses.replace(maker.spec, hyper=spec.hyper)
    return spec, spec.model.name


def _check(cases: Sequence[Case], console: Console) -> list[dict[str, Any]]:
    from submitit import LocalExecutor
    from submitit.core.utils import UncompletedJobError

    # packed always: it costs nothing to know; without a GPU there are no kernels of one
    here: dict[str, Any] = (
        {} if os.path.exists("/dev/nvidiactl") else {"attention": "sdpa", "offload_optimizer": False}
    )
    tried = [
        case._replace(resources=dataclasses.replace(case.resources, packing=True, **here)) for case in cases
    ]
    checks: list[list[dict[str, Any]]] = [[] for _ in cases]
    reasons = [""] * len(cases)
    with tempfile.TemporaryDirectory(prefix="calsweep-doctor-") as folder:
        for ranks in RANKS:
            with console.status(f"{len(cases)} models on {ranks} ranks"):
                executor = LocalExecutor(folder)
                executor.update_parameters(tasks_per_node=ranks, timeout_min=TIMEOUT_MIN)
                try:
                    results: list[Found] = executor.submit(certify, tried).results()[0]
                except UncompletedJobError as error:
                    raise UserError(
                        f"the checks break down on {ranks} ranks: {_reason(error)}",
                        where="doctor loss",
                        remedy="compare versions",
                    ) from error
                for number, found in enumerate(results):
                    if isinstance(found, str):
                        reasons[number] = found
                    else:
                        checks[number] += found
    return [_result(*of_case) for of_case in zip(cases, checks, reasons, strict=True)]


def _reason(error: Exception) -> str:
    """From a job's traceback, within what submitit says, the line of its last exception."""
    trace = str(error).partition("You can check full logs")[0]
    lines = [line for line in trace.splitlines() if line.strip(" -")]
    behind = [number for number, line in enumerate(lines, start=1) if line.startswith(" ")]
    return lines[min(behind[-1] if behind else 0, len(lines) - 1)].strip()


def _result(case: Case, checks: list[dict[str, Any]], cannot_be_checked: str) -> dict[str, Any]:
    hyper = case.spec.hyper
    # a model that cannot be packed is no trouble to a study that does not pack
    counted = [check for check in checks if check["name"] != "packing" or case.resources.packing]
    return {
        "model": case.name,
        "dtype": hyper.dtype,
        "zero_stage": case.resources.zero_stage,
        "label_smoothing": hyper.label_smoothing,
        "logit_softcap": hyper.logit_softcap,
        "logit_temperature": hyper.logit_temperature,
        "passed": not cannot_be_checked and all(check["passed"] for check in counted),
        "cannot_be_checked": cannot_be_checked or None,
        "checks": checks,
    }


def _print(results: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("model", "dtype", "ZeRO", "smoothing", "check", "ranks"):
        table.add_column(column)
    for column in ("loss off by", "gradient off by", "tolerance"):
        table.add_column(column, justify="right")
    table.add_column("")
    for result in results:
        for number, check in enumerate(result["checks"]):
            head = [result["model"], result["dtype"], result["zero_stage"], result["label_smoothing"]]
            table.add_row(
                *([str(cell) for cell in head] if number == 0 else [""] * len(head)),
                check["name"],
                str(check["num_ranks"]),
                *(f"{check[key]:.1e}" for key in ("loss_difference", "gradient_difference")),
                f"{check['tolerance']:g}",
                "ok" if check["passed"] else "FAILS",
                style=None if check["passed"] else "red",
            )
    console.print(table)
    console.print(
        "Relative differences from plain float64 torch, each example alone; of gradients, the worst.",
        highlight=False,
    )
    for result in results:
        if result["cannot_be_checked"]:
            name, why = (escape(result[key]) for key in ("model", "cannot_be_checked"))
            text = f"[red]{name} {result['dtype']} cannot be checked[/]: {why}"
            console.print(text, highlight=False, soft_wrap=True)
    if not all(result["passed"] or result["cannot_be_checked"] for result in results):
        print("calsweep: this stack does not compute what it should; compare versions", file=sys.stderr)
