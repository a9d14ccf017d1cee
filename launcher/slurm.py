"""Tasks on a SLURM cluster through submitit: arrays with dependencies, submitted up front, detached."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher import ledger
from launcher.cluster import ClusterProfile, Site
from launcher.tasks import Task, by_need
from launcher.work import run_job
from study.errors import UserError
from study.job import KINDS
from study.paths import StudyPaths
from study.specs import Resources


def submit(tasks: Sequence[Task], paths: StudyPaths, site: Site, code: Path) -> dict[str, str]:
    """Submit every task, each array behind what it needs; returns job id -> cluster task.

    Raises UserError when sbatch refuses.
    """
    profile = site.profile
    assert profile is not None
    if shutil.which("sbatch") is None:
        raise UserError(
            "sbatch is not on the PATH", where="cluster", remedy="run this on a login node, or cluster=local"
        )
    placed = queued_tasks(paths)
    for kind in KINDS:
        of_kind = [task for task in tasks if task.kind == kind]
        for dependency, group in by_need(of_kind, lambda needs, kind=kind: _dependency(kind, needs, placed)):  # type: ignore[misc]
            for start in range(0, len(group), profile.max_array_size):
                chunk = group[start : start + profile.max_array_size]
                placed.update(_submit_array(chunk, dependency, paths, site, code))
    return placed


def queued_tasks(paths: StudyPaths) -> dict[str, str]:
    """Jobs that the cluster still holds, queued or running: job id -> cluster task. Empty without squeue."""
    tasks = ledger.task_of([entry for entry in ledger.read(paths.ledger) if entry.cluster == "slurm"])
    if not tasks or shutil.which("squeue") is None:
        return {}
    states = task_states(sorted({task.split("_")[0] for task in tasks.values()}))
    return {job: task for job, task in tasks.items() if states.get(task) in ("queued", "running")}


def task_states(array_ids: Sequence[str]) -> dict[str, str]:
    """One squeue call for all arrays: cluster task -> queued | running. Tasks that ended are absent.

    Raises UserError when squeue does not answer: not knowing is not the same as ended.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "--me"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"squeue failed ({error})", where="cluster", remedy="try again when SLURM answers"
        ) from None
    if done.returncode != 0:
        problem = done.stderr.strip().splitlines()
        raise UserError(
            f"squeue failed ({problem[-1] if problem else 'no message'})",
            where="cluster",
            remedy="try again when SLURM answers",
        )
    wanted = set(array_ids)
    result = {}
    for line in done.stdout.splitlines():
        task, _, state = line.strip().partition(" ")
        if task.split("_")[0] in wanted and state in _ALIVE:
            result[task] = _ALIVE[state]
    return result


_ALIVE = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_HOLD": "queued",
    "REQUEUE_FED": "queued",
    "RESV_DEL_HOLD": "queued",
    "SPECIAL_EXIT": "queued",
    "SUSPENDED": "queued",
    "RUNNING": "running",
    "COMPLETING": "running",
    "STOPPED": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
}


def cancel(tasks: Sequence[str]) -> None:
    """scancel tasks, in one call."""
    if tasks:
        try:
            subprocess.run(["scancel", *sorted(set(tasks))], check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"scancel failed ({error})", where="cluster", remedy="try again") from None


def _dependency(kind: str, needs: frozenset[str], placed: dict[str, str]) -> str:
    waits = sorted({placed[need] for need in needs if need in placed})
    if not waits:
        return ""
    if (
        kind == "analyse"
    ):  # runs whatever became of them, and says what is missing; whole arrays keep the line short
        return "afterany:" + ":".join(sorted({task.split("_")[0] for task in waits}))
    return "afterok:" + ":".join(waits)


def _submit_array(
    tasks: Sequence[Task], dependency: str, paths: StudyPaths, site: Site, code: Path
) -> dict[str, str]:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    kind = tasks[0].kind
    number = ledger.next_number(paths.ledger)
    packs = [task.job_ids for task in tasks]
    # a folder of its own for each submission: a cluster that restarts its ids must not find old pickles
    executor = SlurmExecutor(folder=paths.submissions / f"{number:04d}" / "%j")
    assert site.profile is not None
    executor.update_parameters(
        **parameters(kind, tasks[0], dependency, paths, site.profile, site.resources[kind], code)
    )
    ledger.write_intent(paths.ledger, number, kind, "slurm", packs)
    try:
        with executor.batch():
            jobs = [executor.submit(run_job, str(paths.root), *pack) for pack in packs]
    except (FailedSubmissionError, FailedJobError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"sbatch refused ({_last_line(error)})", where=f"{kind} jobs", remedy="see the profile"
        ) from None
    tasks_by_id = {job.job_id: pack for job, pack in zip(jobs, packs, strict=True)}
    ledger.write_ids(paths.ledger, number, kind, "slurm", tasks_by_id)
    return {job_id: task for task, pack in tasks_by_id.items() for job_id in pack}


def parameters(
    kind: str,
    task: Task,
    dependency: str,
    paths: StudyPaths,
    profile: ClusterProfile,
    resources: Resources,
    code: Path,
) -> dict[str, Any]:
    """submitit's parameters for an array of one kind of job."""
    exports = [f"export {key}={shlex.quote(str(value))}" for key, value in profile.env.items()]
    values: dict[str, Any] = {
        "job_name": f"{paths.root.name}-{kind}",
        "comment": f"calsweep:{paths.root.name}:{kind}",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": resources.time_min,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus_per_task,
        "mem": f"{math.ceil(resources.mem_gib * 1024)}M",  # 0M would ask for the whole node
        "gpus_per_node": resources.gpus_per_node or None,
        "array_parallelism": profile.array_parallelism,
        "dependency": dependency or None,
        # one dead rank ends the others, which would wait for it until the time limit
        "srun_args": list(dict.fromkeys(["--kill-on-bad-exit=1", *profile.srun_args])),
        # the job starts in the snapshot, and the snapshot comes before what is installed
        "setup": [
            *profile.setup,
            *exports,
            f"cd {shlex.quote(str(code))}",
            f"export PYTHONPATH={shlex.quote(str(code))}",
        ],
        "additional_parameters": {**({"kill-on-invalid-dep": "yes"} if dependency else {}), **profile.sbatch},
    }
    return {key: value for key, value in values.items() if value is not None}


def _last_line(error: Exception) -> str:
    lines = [line for line in re.split(r"[\r\n]+", str(error)) if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def clean_environment() -> None:
    """Forget an enclosing SLURM job: its variables would override what a nested sbatch asks for."""
    for key in [k for k in os.environ if k.startswith(("SLURM_", "SBATCH_")) and k != "SLURM_CONF"]:
        del os.environ[key]
