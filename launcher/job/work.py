"""The function that a cluster task runs. Its arguments are plain, so that pickles hold no types of ours."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.job import attempts, causes
from study import stopping
from study.errors import CalsweepError, JobError, Stopped
from study.files import locked, read_json, write_json
from study.grid.config import TrackingConfig
from study.grid.sources import content_revision
from study.jobs.job import Job, job_from
from study.jobs.resources import Resources
from study.jobs.specs import EvalSpec, Source, TrainSpec
from study.paths import ROOT, JobPaths, StudyPaths

VERSIONS_OF = (
    "torch",
    "transformers",
    "deepspeed",
    "datasets",
    "submitit",
    "wandb",
    "numpy",
    "pyarrow",
    "babel",
)
POLL_S = 0.1
STOPPED, TERMINATED = 75, 143
"""Exit codes of a task that has saved its work: after a warning, for the batch script to requeue it; after
SLURM's TERM, which ends the task in any case.
"""


def run_task(study_dir: str, number: int) -> None:
    """Run the jobs of this task, by its index in the array. number: of the submission."""
    packs = read_json(StudyPaths(Path(study_dir)).submission(number) / "packs.json")
    run_job(study_dir, *packs[int(os.environ["SLURM_ARRAY_TASK_ID"])])


def run_job(study_dir: str, *job_ids: str) -> None:
    """Run one job, or several evaluations of one model. Every rank of the task calls this.

    Complete jobs are skipped. A failure is recorded in each unfinished job's FAILED file and raised. After a
    signal to stop, rank 0 exits with STOPPED or TERMINATED, and the others with 0: srun would take another
    code for a failure, and kill rank 0 before it has recorded its end.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # before anything else: submitit's handler would save and requeue from rank 0 alone, at any moment
    stopping.listen()
    paths = StudyPaths(Path(study_dir))
    rank, task, attempt = place()
    print(f"{causes.ATTEMPT_BEGINS}{attempt}", file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        if rank == 0:
            for job_id in job_ids:
                # an attempt whose launcher was killed may still run: wait, then see whether it is complete
                stack.enter_context(locked(paths.job(job_id).lock))
        else:
            _wait_for_rank_0(paths.job(job_ids[0]), attempt)
        to_run = [job_id for job_id in job_ids if not paths.job(job_id).done.is_file()]
        if not to_run:
            return
        try:
            if rank == 0:
                for job_id in to_run:
                    _begin(paths.job(job_id), task, attempt)
            _run(paths, [job_from(read_json(paths.job(job_id).spec)) for job_id in to_run])
        except Stopped as stop:
            logging.getLogger(__name__).warning("%s", stop)
            if rank != 0:
                sys.exit(0)
            _end(paths, to_run, attempt, "stopped" if stopping.warned() else "terminated")
            sys.exit(STOPPED if stopping.warned() else TERMINATED)
        except BaseException as error:
            for job_id in to_run:  # the first rank that fails reports; the others fail because it is gone
                _report(paths.job(job_id), error)
            if rank == 0:
                _end(paths, to_run, attempt, "failed")
            if isinstance(error, CalsweepError):
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            raise
        if rank == 0:
            _end(paths, to_run, attempt, "done")


def _run(paths: StudyPaths, jobs: list[Job]) -> None:
    # torch is imported here and below, not at the top, because the launcher imports this module
    if jobs[0].kind == "analyse":
        _analyse(paths, jobs[0])
        return
    folder = paths.job(jobs[0].job_id)
    execution = read_json(folder.execution)
    resources, tracking = Resources(**execution["resources"]), TrackingConfig(**execution["tracking"])
    spec = jobs[0].spec
    assert isinstance(spec, TrainSpec | EvalSpec)
    model_path, revision = _weights(paths, spec.model)
    if isinstance(spec, TrainSpec):
        _require_unchanged(spec.dataset)
        from training.train import train

        train(
            jobs[0],
            folder,
            model_path=model_path,
            tokens=paths.tokens,
            resources=resources,
            tracking=tracking,
        )
    else:
        from evaluation.shard import evaluate

        pairs = [(job, paths.job(job.job_id)) for job in jobs]
        failures = evaluate(
            pairs,
            model_path=model_path,
            revision=revision,
            items=paths.items,
            batch_tokens=resources.batch_tokens,
            tracking=tracking,
            check=_require_unchanged,  # one at a time: a task may have several benchmarks
        )
        for job, error in failures:
            _report(paths.job(job.job_id), error)
        if failures:
            job, error = failures[0]
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise JobError(f"{job.name}: {error}{more}")


def _analyse(paths: StudyPaths, job: Job) -> None:
    from analysis.dashboard.page import write_dashboard
    from analysis.diagnoses.diagnose import diagnose, read_study
    from analysis.tables.files import write_tables

    read = read_study(paths.root)
    study = read.study
    write_tables(paths.root, study=study)
    write_dashboard(paths.root, study=study)
    diagnose(paths.root, read=read)
    missing = [need for need in job.needs if not paths.job(need).done.is_file()]
    if missing:
        raise JobError(f"{len(missing)} of {len(job.needs)} evaluations are missing; the tables say which")
    refused = [shard for shard in study.missing if shard.is_refused]
    if refused:
        raise JobError(f"{len(refused)} evaluations cannot be read, the first: {refused[0].missing}")
    write_json(paths.job(job.job_id).done, {"evaluations": len(job.needs)})


def _weights(paths: StudyPaths, source: Source) -> tuple[str, str | None]:
    """Folder or hub id of a model, and its revision on the hub."""
    if source.kind == "job":
        folder = paths.job(source.name)
        if not folder.done.is_file():
            raise JobError(f"job {source.name}, whose model this one needs, is not complete")
        return str(folder.model), None
    _require_unchanged(source)
    return source.name, source.revision if source.kind == "hub" else None


def _require_unchanged(source: Source) -> None:
    """Raise JobError if a local source no longer has the content that is in the job's identity."""
    if source.kind != "local":
        return
    if not Path(source.name).exists():  # transformers would take it for a hub id
        raise JobError(f"{source.name} does not exist: restore it, or change it in the grid")
    if content_revision(Path(source.name)) != source.revision:
        raise JobError(f"{source.name} has changed since it was planned: sweep again, or restore it")


def place() -> tuple[int, str, str]:
    """(rank, cluster task, attempt) of this process. The attempt is the same on all ranks of one start."""
    env = os.environ
    # a local job may run inside a SLURM allocation, whose variables are not those of this task
    if env.get("SUBMITIT_EXECUTOR") == "local":
        task = env["SUBMITIT_LOCAL_JOB_ID"]
        return int(env["SUBMITIT_LOCAL_GLOBALID"]), task, task
    if "SLURM_ARRAY_JOB_ID" in env:
        task = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        return int(env.get("SLURM_PROCID", "0")), task, f"{task}.{env.get('SLURM_RESTART_COUNT', '0')}"
    return 0, "direct", "direct"


def _wait_for_rank_0(folder: JobPaths, attempt: str) -> None:
    """Return when rank 0 has begun this attempt, or when the job is complete.

    Without this, the ranks would wait for rank 0 in the process group, and time out if it does not join.
    """
    while not folder.done.is_file():
        if folder.env.is_file() and read_json(folder.env)["attempt"] == attempt:
            return
        time.sleep(POLL_S)


def _begin(folder: JobPaths, task: str, attempt: str) -> None:
    folder.failed.unlink(missing_ok=True)
    attempts.begin(folder, attempt, task, platform.node())
    for stream, log in _logs():
        link = folder.logs / f"{task}.{stream}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(log, link.parent))
    variables = {
        k: v for k, v in os.environ.items() if k.startswith(("SLURM_JOB", "SLURM_ARRAY", "SLURM_NNODES"))
    }
    snapshot = ROOT / "snapshot.json"
    write_json(  # written last: the other ranks wait for it
        folder.env,
        {
            "attempt": attempt,
            "host": platform.node(),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
            "slurm": variables,
            "code": read_json(snapshot) if snapshot.is_file() else None,
        },
    )


def _end(paths: StudyPaths, job_ids: list[str], attempt: str, outcome: str) -> None:
    """Record how the attempt ended for each job; complete jobs are done even if others of the task failed."""
    for job_id in job_ids:
        folder = paths.job(job_id)
        cause = read_json(folder.failed)["cause"] if folder.failed.is_file() else None
        attempts.end(folder, attempt, "done" if folder.done.is_file() else outcome, cause)


def _logs() -> Iterator[tuple[str, Path]]:
    """The files that submitit sends this task's output to; none if standard output is not a file."""
    for stream, descriptor in (("out", 1), ("err", 2)):
        target = Path(f"/proc/self/fd/{descriptor}").resolve()
        if target.is_file():
            yield stream, target


def _report(folder: JobPaths, error: BaseException) -> None:
    cause, message = causes.of_exception(error), str(error).strip() or "no message"
    if folder.done.is_file():
        return
    # reported already, by the shard itself or another rank; only the report of a lost rank is replaced
    if folder.failed.is_file() and (
        cause == causes.KILLED or read_json(folder.failed)["cause"] != causes.KILLED
    ):
        return
    if cause == causes.KILLED:
        message = f"another rank was lost: {message}"
    report: dict[str, Any] = {"cause": cause, "error": type(error).__name__, "message": message}
    if not isinstance(error, CalsweepError):
        report["traceback"] = "".join(traceback.format_exception(error))
    write_json(folder.failed, {**report, "logs": [str(log) for _, log in _logs()]})
