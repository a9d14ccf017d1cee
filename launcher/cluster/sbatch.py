"""One array on SLURM: its folder, its batch script, and the sbatch call.

Everything that a task reads is in the folder before sbatch is called, so that an array runs even if its
launcher is killed right after the call. What is known only at that time (dependency, token) is passed on the
command line, so that a dry run shows the batch script byte for byte.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.cluster import ledger, scheduler
from launcher.cluster.ledger import Submission
from launcher.job.work import run_task
from launcher.planning.sites import ClusterProfile
from launcher.planning.tasks import Task
from study.errors import CalsweepError, UserError
from study.files import write_atomic, write_json
from study.jobs.job import Kind
from study.jobs.resources import Resources
from study.paths import StudyPaths

SCRIPT = "submission.sh"
CONTINUED = 75
"""Exit code of `launcher.going_on` when a later job will make the tables."""
_FULL = re.compile(r"MaxSubmit|GrpSubmit", re.IGNORECASE)


class QueueFullError(CalsweepError):
    """SLURM accepts no more jobs of this user now."""


@dataclass(frozen=True)
class TaskArray:
    """Tasks of one kind with the same resources and needs, submitted by one sbatch call.

    needs: ids of the unfinished jobs that all of them wait for.
    """

    kind: Kind
    tasks: Sequence[Task]
    resources: Resources
    needs: frozenset[str]


def script(
    array: TaskArray, number: int, paths: StudyPaths, profile: ClusterProfile, code: Path, *, study: str
) -> str:
    """The batch script of an array.

    number: of its submission. code: the snapshot that its jobs run from.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    folder = paths.submission(number)
    python = profile.python or shlex.quote(sys.executable)
    resources = array.resources
    time_s = resources.time_min * 60
    asks: dict[str, Any] = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "gpus_per_node": ":".join(filter(None, [profile.gpu_type, str(resources.gpus_per_node)]))
        if resources.gpus_per_node
        else None,
    }
    text: str = _make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}",
        folder=folder,
        map_count=len(array.tasks),
        job_name=f"{study}-{array.kind}",
        time=resources.time_min,
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        cpus_per_task=resources.cpus_per_task,
        mem=f"{math.ceil(resources.mem_gib * 1024)}M",  # 0M would ask for the whole node
        array_parallelism=profile.array_parallelism,
        # under a short limit the warning must not come at the start
        signal_delay_s=min(profile.warn_before_s, time_s // 3),
        # a dead rank ends the others, which would otherwise wait for it until the time limit
        srun_args=list(dict.fromkeys(["--kill-on-bad-exit=1", "--open-mode=append", *profile.srun_args])),
        setup=[
            *_setup(folder, profile, code),
            *(_continuation(paths, python) if array.kind == "analyse" else []),
        ],
        # a process that was killed for its memory cannot report it, so a failed step is examined afterwards
        teardown=[
            "code=$?",
            f"[ $code = 0 ] || {python} -m launcher.aftermath {shlex.quote(str(paths.root))} {number} $code",
            "exit $code",
        ],
        additional_parameters={"requeue": True, **profile.sbatch},
        **{key: value for key, value in asks.items() if value is not None},
    )
    return text


def _setup(folder: Path, profile: ClusterProfile, code: Path) -> list[str]:
    task = f"{shlex.quote(str(folder))}/${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    return [
        *profile.setup,
        *(f"export {key}={shlex.quote(str(value))}" for key, value in profile.env.items()),
        # the job starts in the snapshot, which comes before anything installed or on PYTHONPATH
        f"cd {shlex.quote(str(code))}",
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        # submitit reads a file named by the task's id, and refuses to start beside an earlier result
        f"rm -f {task}_*_result.pkl*",
        f"ln -sfn submitted.pkl {task}_submitted.pkl",
    ]


def _continuation(paths: StudyPaths, python: str) -> list[str]:
    """The analysis first submits what can be submitted by now, and makes tables only when nothing is left."""
    # in the script, not in a step of srun, whose variables would override the options of sbatch
    return [
        f"{python} -m launcher.going_on {shlex.quote(str(paths.root))}",
        f"[ $? = {CONTINUED} ] && exit 0",
    ]


def submit(
    array: TaskArray,
    dependency: str,
    paths: StudyPaths,
    profile: ClusterProfile,
    code: Path,
    *,
    study: str,
    lock: int,
    begin: str | None = None,
) -> Submission:
    """Submit an array to SLURM; the ledger has a line before the call and another one after it.

    dependency: `afterok:...`, or empty. lock: the descriptor of the study's lock. sbatch inherits it, so that
    the next launcher waits for the end of this call even if this launcher is killed. begin: earliest start.
    Raises QueueFullError when the user's limit is reached, UserError when sbatch refuses.
    """
    submission = ledger.write_intent(
        paths.ledger, array.kind, "slurm", [task.job_ids for task in array.tasks]
    )
    folder = paths.submission(submission.number)
    text = script(array, submission.number, paths, profile, code, study=study)
    _write_folder(folder, submission, text, paths)
    options = [f"--comment=calsweep:{submission.token}"]
    if dependency:
        options += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
    if begin:
        options.append(f"--begin={begin}")
    array_id = _call(["sbatch", *options, str(folder / SCRIPT)], submission, lock)
    return ledger.write_array(paths.ledger, submission, array_id)


def _write_folder(folder: Path, submission: Submission, text: str, paths: StudyPaths) -> None:
    from submitit.core.utils import DelayedSubmission

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "packs.json", submission.packs)
    DelayedSubmission(run_task, str(paths.root), submission.number).dump(folder / "submitted.pkl")
    write_atomic(folder / SCRIPT, text)


def _call(command: Sequence[str], submission: Submission, lock: int) -> str:
    """Call sbatch; returns the id of the array.

    A call without an answer may have submitted the array: the queue is searched for it before the next try.
    """
    for attempt in range(len(scheduler.BACKOFF_S) + 1):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, pass_fds=(lock,))
        except OSError as error:  # not on the PATH, or not executable on compute nodes
            raise UserError(
                f"sbatch cannot be run ({error.strerror})",
                where="cluster",
                remedy="run this on a login node, or use cluster=local",
            ) from None
        except subprocess.TimeoutExpired:
            problem = "no answer in 300 s"
        else:
            answer = re.search(r"job (\d+)", done.stdout)
            if done.returncode == 0 and answer:
                return answer.group(1)
            if _FULL.search(done.stderr):
                raise QueueFullError(scheduler.last_line(done.stderr))
            problem = scheduler.last_line(done.stderr)
            if not scheduler.is_busy(done.stderr):
                break
        if attempt < len(scheduler.BACKOFF_S):
            scheduler.pause(attempt)
            array_id = scheduler.ask_queue().array_of(submission.token)
            if array_id is not None:
                return array_id
    where = f"{submission.kind} jobs"
    raise UserError(f"sbatch refused ({problem})", where=where, remedy="correct the cluster profile")


def clean_environment() -> None:
    """Remove the variables of an enclosing SLURM job: they would override the options of a nested sbatch."""
    for key in [k for k in os.environ if k.startswith(("SLURM_", "SBATCH_")) and k != "SLURM_CONF"]:
        del os.environ[key]
