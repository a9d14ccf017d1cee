"""`calsweep doctor loss`: whether the installed stack computes the right loss and gradient for a study."""

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

from launcher.cluster.local import children_import_from
from launcher.planning.plan import SCRATCH, build_plan
from launcher.planning.sites import load_site
from study.axes import axis_label
from study.errors import JobError, UserError
from study.grid.config import load_grid
from study.grid.sources import embedded_source
from study.grid.yaml_files import errors_with_lines
from study.jobs.job import Job
from study.jobs.plan import Plan
from study.jobs.resources import Resources
from study.jobs.specs import ARCHITECTURES, DTYPES, Hyperparameters, Scratch, TrainSpec
from study.paths import ROOT, StudyPaths
from study.terminal import make_console, print_json

RANKS = (1, 2)
TIMEOUT_MIN = 30


Checks: TypeAlias = list[dict[str, Any]] | str
"""The checks of a case as JSON values, or why it cannot be checked."""


class Case(NamedTuple):
    """A model and how it is trained, which is checked once. model_path: as `training.model` takes it."""

    name: str
    spec: TrainSpec
    model_path: str
    resources: Resources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "items",
        nargs="+",
        metavar="loss|STUDY",
        help="for the models of a study or a grid file; without one, for small Llama, Mistral and Gemma-2",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Check the loss for each model and dtype of a study, or for the built-in architectures.

    Returns 0 if every check passed, 1 otherwise, also if a model cannot be checked.
    """
    # the word `loss` may be left out, since nothing else is checked
    rest = options.items[1:] if options.items[0] == "loss" else options.items
    if len(rest) > 1:
        raise UserError(
            "is unknown", where=f"doctor {' '.join(options.items)}", remedy="write: doctor loss GRID"
        )
    cases = _cases_of(Path(rest[0])) if rest else list(_built_in())
    console = make_console(stderr=options.json)
    results = _check(cases, console)
    if options.json:
        print_json(results)
    else:
        _print(results, console)
    return int(not all(result["passed"] for result in results))


def certify(cases: Sequence[Case]) -> list[Checks]:
    """The checks of `training.certificate` for each case; every rank of a task runs this."""
    from training import certificate, model
    from training.engine import zero

    world = zero.join()
    results: list[Checks] = []
    try:
        for case in cases:
            try:
                config = model.config_of(case.spec, case.model_path)
                checks = certificate.certify(config, case.spec.hyper, case.resources, world)
            except JobError as error:  # about the model, so every rank raises it; the next model may be fine
                results.append(str(error))
            else:
                results.append([certificate.to_dict(check) for check in checks])
    finally:
        zero.leave()
    return results


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


def _cases_of(file: Path) -> list[Case]:
    """Each model by dtype, soft-cap and temperature, with the largest smoothing factor it is trained with."""
    if file.is_dir():
        file = StudyPaths(file).grid
    with errors_with_lines(file, ()):
        grid = dataclasses.replace(load_grid(file), only_looked_at=True)
        plan, site = build_plan(grid), load_site(grid)
    cases: dict[tuple[Any, ...], Case] = {}
    for job in (job for job in plan.jobs if isinstance(job.spec, TrainSpec)):
        spec, model_path = _weights(job, plan)
        hyper = spec.hyper
        key = (spec.model, spec.scratch, hyper.dtype, hyper.logit_softcap, hyper.logit_temperature)
        if key not in cases or cases[key].spec.hyper.label_smoothing < hyper.label_smoothing:
            cases[key] = Case(str(job.cell["model"]), spec, model_path, site.resources[job.kind])
    if not cases:
        raise UserError("trains nothing", where=str(file), remedy="give a grid with a dataset")
    return list(cases.values())


def _weights(job: Job, plan: Plan) -> tuple[TrainSpec, str]:
    """What a job trains, and the path of its model; a model of a prepare job is built from its config."""
    spec = job.spec
    assert isinstance(spec, TrainSpec)
    if spec.model.kind == "job":
        (maker,) = [each.spec for each in plan.jobs if each.job_id == spec.model.name]
        assert isinstance(maker, TrainSpec)
        spec = dataclasses.replace(maker, hyper=spec.hyper)
    return spec, spec.model.name


def _check(cases: Sequence[Case], console: Console) -> list[dict[str, Any]]:
    from submitit import LocalExecutor
    from submitit.core.utils import UncompletedJobError

    changes: dict[str, Any] = {"packing": True}  # checked even if the study does not pack: it costs little
    if not os.path.exists("/dev/nvidiactl"):  # these need the kernels of a GPU
        changes |= {"attention": "sdpa", "offload_optimizer": False}
    tried = [case._replace(resources=dataclasses.replace(case.resources, **changes)) for case in cases]
    checks: list[list[dict[str, Any]]] = [[] for _ in cases]
    reasons = [""] * len(cases)
    with tempfile.TemporaryDirectory(prefix="calsweep-doctor-") as folder, children_import_from(ROOT):
        for ranks in RANKS:
            with console.status(f"{len(cases)} models on {ranks} ranks"):
                executor = LocalExecutor(folder)
                executor.update_parameters(tasks_per_node=ranks, timeout_min=TIMEOUT_MIN)
                try:
                    results: list[Checks] = executor.submit(certify, tried).results()[0]
                except UncompletedJobError as error:
                    raise UserError(
                        f"the checks fail to run on {ranks} ranks: {_reason(error)}",
                        where="doctor loss",
                        remedy="compare the installed versions with pyproject.toml",
                    ) from error
                for number, result in enumerate(results):
                    if isinstance(result, str):
                        reasons[number] = result
                    else:
                        checks[number] += result
    return [_result_json(*parts) for parts in zip(cases, checks, reasons, strict=True)]


def _reason(error: Exception) -> str:
    """The line of the last exception in a job's traceback, which submitit's message contains."""
    trace = str(error).partition("You can check full logs")[0]
    lines = [line for line in trace.splitlines() if line.strip(" -")]
    after_frames = [number for number, line in enumerate(lines, start=1) if line.startswith(" ")]
    return lines[min(after_frames[-1] if after_frames else 0, len(lines) - 1)].strip()


def _result_json(case: Case, checks: list[dict[str, Any]], cannot_be_checked: str) -> dict[str, Any]:
    hyper = case.spec.hyper
    # a study that does not pack may have a model that cannot be packed
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
    for column in ("model", "dtype", "ZeRO", axis_label("label_smoothing"), "check", "ranks"):
        table.add_column(column)
    for column in ("loss off by", "gradient off by", "tolerance"):
        table.add_column(column, justify="right")
    table.add_column("")
    for result in results:
        for number, check in enumerate(result["checks"]):
            head = [result["model"], result["dtype"], result["zero_stage"], result["label_smoothing"]]
            table.add_row(
                *([str(value) for value in head] if number == 0 else [""] * len(head)),
                check["name"],
                str(check["num_ranks"]),
                *(f"{check[key]:.1e}" for key in ("loss_difference", "gradient_difference")),
                f"{check['tolerance']:g}",
                "ok" if check["passed"] else "FAILS",
                style=None if check["passed"] else "red",
            )
    console.print(table)
    console.print(
        "Relative differences from torch in float64, an example at a time; the largest for gradients."
    )
    for result in results:
        if result["cannot_be_checked"]:
            name, why = (escape(result[key]) for key in ("model", "cannot_be_checked"))
            console.print(f"[red]{name} {result['dtype']} cannot be checked[/]: {why}", soft_wrap=True)
    if not all(result["passed"] or result["cannot_be_checked"] for result in results):
        print(
            "calsweep: the installed stack computes a wrong loss or gradient; compare its versions with "
            "pyproject.toml",
            file=sys.stderr,
        )
