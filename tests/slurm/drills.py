"""Accidents that happen to jobs on a cluster, done to the testbed: each is real, none is simulated."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cluster import ledger
from launcher.job import attempts
from launcher.job.attempts import Attempt
from study.jobs.job import Job
from study.jobs.plan import read_plan
from study.jobs.specs import Hyperparameters, TrainSpec
from study.paths import StudyPaths
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

RESUMED = re.compile(r"resuming from the checkpoint at step (\d+) of \d+")


# ------------------------------------------------------------------------------------ processes
def rank_pids(cluster: SlurmCluster, task: str) -> dict[int, int]:
    """Process of each rank of a cluster task that runs now."""
    array, index = task.split("_")
    wanted = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index}
    return {
        int(environment["SLURM_PROCID"]): pid
        for pid, command, environment in _processes(cluster)
        if "submitit.core._submit" in command
        and not command.startswith(("srun", "/usr/bin/srun"))
        and "SLURM_PROCID" in environment
        and wanted.items() <= environment.items()
    }


# ------------------------------------------------------------------- what befalls a cluster task
def kill_rank(rank: int, cluster: SlurmCluster, task: str) -> None:
    os.kill(rank_pids(cluster, task)[rank], signal.SIGKILL)


def requeue(cluster: SlurmCluster, task: str) -> None:
    cluster.run("scontrol", "requeue", task)


def preempt(cluster: SlurmCluster, task: str) -> None:
    """Its node is needed for a job with priority. The task is paused until SLURM has preempted it."""
    os.kill(rank_pids(cluster, task)[0], signal.SIGSTOP)
    command = ("sbatch", "--partition=high", f"--nodelist={_batch_node(cluster, task)}", "--exclusive")
    cluster.run(*command, "--output=/dev/null", "--wrap=true")
    warned(cluster, task)


def shorten(cluster: SlurmCluster, task: str) -> None:
    """A minute is left, so that a warning half a minute before the end is due. But SLURM looks every half
    minute only, in which a small training would be over: it stands still until `time_is_up`.
    """
    cluster.run("scontrol", "update", f"JobId={task}", "EndTime=now+60")
    os.kill(rank_pids(cluster, task)[0], signal.SIGSTOP)


def time_is_up(cluster: SlurmCluster, task: str) -> None:
    """Wait for the warning of `shorten`. The next attempt has its time again, or a slow machine takes two."""
    warned(cluster, task, "TimeLimit=15")


def warned(cluster: SlurmCluster, task: str, *then: str) -> None:
    """Wait for the warning; then the task is updated, and goes on. SLURM lets a process go on with it, or
    seems to: nothing says that it must.
    """
    pid = rank_pids(cluster, task)[0]
    eventually(lambda: _is_pending(pid, signal.SIGUSR2) or not _stands_still(pid), "SLURM warns")
    if then:
        cluster.run("scontrol", "update", f"JobId={task}", *then)
    _send(pid, signal.SIGCONT)


def crash_node(cluster: SlurmCluster, task: str) -> None:
    """The node of its batch script is gone in a moment: its slurmd, and all that it started."""
    node = _batch_node(cluster, task)
    cluster.testbed("stop-node", node, "KILL")
    log = str(cluster.root / "log" / f"slurmd.{node}.log")
    for pid in _pids():  # first: one that outlives its processes tells of their end
        if _read(pid, "comm").strip() == "slurmstepd" and log in _open_files(pid):
            _send(pid, signal.SIGKILL)
    for pid, _, environment in _processes(cluster):
        if environment.get("SLURMD_NODENAME") == node:
            _send(pid, signal.SIGKILL)


# -------------------------------------------------------------------------------------- the cluster
def mend(cluster: SlurmCluster) -> None:
    """Restore every node, end all jobs, and wait until all nodes are idle."""
    cluster.run("scancel", "--me")
    for node in cluster.nodes:
        cluster.testbed("start-node", node)
    for node in cluster.run("sinfo", "-h", "-N", "-p", "main", "-t", "down,drain,fail", "-o", "%N").split():
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    eventually(
        lambda: set(cluster.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()) == {"idle"},
        "all nodes are idle",
    )


# ----------------------------------------------------------------------------------------- jobs
def planned(paths: StudyPaths, kind: str | None = None) -> list[Job]:
    return [job for job in read_plan(paths).jobs if kind in (None, job.kind)]


def hyper_of(training: Job) -> Hyperparameters:
    assert isinstance(training.spec, TrainSpec)
    return training.spec.hyper


def tries(paths: StudyPaths, job_id: str) -> list[Attempt]:
    return attempts.read(paths.job(job_id))


def times_submitted(paths: StudyPaths) -> dict[str, int]:
    """How often each job was submitted."""
    found: dict[str, int] = {}
    for entry in ledger.read(paths.ledger):
        for pack in entry.tasks.values():
            for job_id in pack:
                found[job_id] = found.get(job_id, 0) + 1
    return found


def resumed_at(paths: StudyPaths, job_id: str) -> list[int]:
    """The steps at which attempts of a training resumed, from their logs."""
    logs = sorted(paths.job(job_id).logs.glob("*.err"))
    return [int(step) for log in logs for step in RESUMED.findall(log.read_text())]


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _processes(cluster: SlurmCluster) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(pid, command line, environment) of the processes in jobs of this cluster."""
    for pid in _pids():
        text = _read(pid, "environ")
        environment = dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
        # another cluster may have the same job id, and a user's shell has SLURM_CONF
        if environment.get("SLURM_CONF", "").startswith(f"{cluster.root}/") and "SLURM_JOB_ID" in environment:
            yield pid, _read(pid, "cmdline").replace("\0", " "), environment


def _batch_node(cluster: SlurmCluster, task: str) -> str:
    return cluster.run("squeue", "-h", "-j", task, "-o", "%B")


def _stands_still(pid: int) -> bool:
    return "State:\tT" in _read(pid, "status")


def _is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal is pending for a paused process."""
    sets = re.findall(r"^(?:SigPnd|ShdPnd):\t(\w+)$", _read(pid, "status"), re.MULTILINE)
    return any(int(bits, 16) >> (number - 1) & 1 for bits in sets)


def _read(pid: int, name: str) -> str:
    """A file of a process; empty if it has ended."""
    try:
        return Path("/proc", str(pid), name).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def _open_files(pid: int) -> set[str]:
    try:
        return {os.readlink(link) for link in Path("/proc", str(pid), "fd").iterdir()}
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended with another process
        os.kill(pid, number)
