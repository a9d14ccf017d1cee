"""One array on SLURM: its folder, its batch script, and the call that hands it over.

Everything a task reads lies in the folder before sbatch is called, so that an array whose launcher was killed
in that moment runs like any other. What is only known then (dependency, token) goes on the command line: the
script is the same in a dry run, byte for byte.
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
GOES_ON = 75
"""How `launcher.going_on` ends when another job will make the tables."""
_FULL = re.compile(r"MaxSubmit|GrpSubmit", re.IGNORECASE)


class QueueFullError(CalsweepError):
    """SLURM takes no more jobs of this user now."""


@dataclass(frozen=True)
class Batch:
    """Tasks of one kind with the same resources, behind the same unfinished jobs: one sbatch call."""

    kind: Kind
    tasks: Sequence[Task]
    resources: Resources
    needs: frozenset[str]


def script(
    batch: Batch, number: int, paths: StudyPaths, profile: ClusterProfile, code: Path, *, study: str
) -> str:
    """The batch script of an array."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = paths.submission(number)
    python = profile.python or shlex.quote(sys.executable)
    resources = batch.resources
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
        map_count=len(batch.tasks),
        job_name=f"{study}-{batch.kind}",
        time=resources.time_min,
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        cpus_per_task=resources.cpus_per_task,
        mem=f"{math.ceil(resources.mem_gib * 1024)}M",  # 0M would ask for the whole node
        array_parallelism=profile.array_parallelism,
        # a warning that comes at once would be no warning
        signal_delay_s=min(profile.warn_before_s, time_s // 3),
        # one dead rank ends the others, which would wait for it until the time limit
        srun_args=list(dict.fromkeys(["--kill-on-bad-exit=1", "--open-mode=append", *profile.srun_args])),
        setup=[
            *_setup(folder, profile, code),
            *(_going_on(paths, python) if batch.kind == "analyse" else []),
        ],
        # a step that failed is looked at from outside: killed for its memory it could not tell
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
        # the job starts in the snapshot, and the snapshot comes before what is installed or on the path
        f"cd {shlex.quote(str(code))}",
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        # submitit looks for a file named by the task's id; what a killed attempt left would stop it
        f"rm -f {task}_*_result.pkl*",
        f"ln -sfn submitted.pkl {task}_submitted.pkl",
    ]


def _going_on(paths: StudyPaths, python: str) -> list[str]:
    """The analysis begins by going on with the study; while that is not over, it makes no tables."""
    # from the script, not from a step of srun: a step would hand its own variables to sbatch
    return [f"{python} -m launcher.going_on {shlex.quote(str(paths.root))}", f"[ $? = {GOES_ON} ] && exit 0"]


def submit(
    batch: Batch,
    dependency: str,
    paths: StudyPaths,
    profile: ClusterProfile,
    code: Path,
    *,
    study: str,
    lock: int | None,
    begin: str | None = None,
) -> Submission:
    """Hand an array to SLURM and note it in the ledger, before and after.

    dependency: `afterok:...`, or empty. lock: the study's lock, which sbatch inherits: whoever starts next
    waits until this call has arrived, even when its launcher is killed now. begin: earliest start.
    Raises QueueFullError when the user's limit is reached, UserError when sbatch refuses.
    """
    number = ledger.next_number(ledger.read(paths.ledger))
    entry = ledger.new_intent(number, batch.kind, "slurm", [task.job_ids for task in batch.tasks])
    folder = paths.submission(number)
    _write_folder(folder, entry, script(batch, number, paths, profile, code, study=study), paths)
    ledger.write_intent(paths.ledger, entry)
    options = [f"--comment=calsweep:{entry.token}"]
    if dependency:
        options += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
    if begin:
        options.append(f"--begin={begin}")
    array = _call(["sbatch", *options, str(folder / SCRIPT)], entry, lock)
    return ledger.write_array(paths.ledger, entry, array)


def _write_folder(folder: Path, entry: Submission, text: str, paths: StudyPaths) -> None:
    from submitit.core.utils import DelayedSubmission

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "packs.json", entry.packs)
    DelayedSubmission(run_task, str(paths.root), entry.number).dump(folder / "submitted.pkl")
    write_atomic(folder / SCRIPT, text)


def _call(command: Sequence[str], entry: Submission, lock: int | None) -> str:
    """The id of the array. A call that got no answer may have arrived: the queue is asked before the next."""
    for attempt in range(len(scheduler.BACKOFF_S) + 1):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=300, pass_fds=() if lock is None else (lock,)
            )
        except OSError as error:  # not on the PATH, or not for compute nodes to run
            raise UserError(
                f"sbatch cannot be run ({error.strerror})",
                where="cluster",
                remedy="run this on a login node, or cluster=local",
            ) from None
        except subprocess.TimeoutExpired:
            problem = "no answer in 300 s"
        else:
            found = re.search(r"job (\d+)", done.stdout)
            if done.returncode == 0 and found:
                return found.group(1)
            if _FULL.search(done.stderr):
                raise QueueFullError(scheduler.last_line(done.stderr))
            problem = scheduler.last_line(done.stderr)
            if not scheduler.is_busy(done.stderr):
                break
        if attempt < len(scheduler.BACKOFF_S):
            scheduler.pause(attempt)
            array = scheduler.ask_queue().array_of(entry.token)
            if array is not None:
                return array
    raise UserError(f"sbatch refused ({problem})", where=f"{entry.kind} jobs", remedy="see the profile")


def clean_environment() -> None:
    """Forget an enclosing SLURM job: its variables would override what a nested sbatch asks for."""
    for key in [k for k in os.environ if k.startswith(("SLURM_", "SBATCH_")) and k != "SLURM_CONF"]:
        del os.environ[key]
