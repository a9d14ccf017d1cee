"""The testbed is a real SLURM: everything that the launcher relies on works there."""

from __future__ import annotations

import operator
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from submitit import SlurmExecutor

from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

# Jobs run functions of the standard library: this module cannot be imported where a job runs.


def executor(folder: Path, **parameters: Any) -> SlurmExecutor:
    made = SlurmExecutor(folder=folder / "%j")
    made.update_parameters(**{"time": 5, "mem": "500M", "srun_args": ["--kill-on-bad-exit=1"], **parameters})
    return made


def state_of(cluster: SlurmCluster, job_id: str) -> str:
    return cluster.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}")


def wait_until_ended(cluster: SlurmCluster, job_id: str) -> str:
    """The state in which a job ended."""
    going_on = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
    eventually(lambda: state_of(cluster, job_id) not in going_on, f"job {job_id} ends")
    return state_of(cluster, job_id)


def test_nodes_are_up(slurm_cluster: SlurmCluster) -> None:
    listed = slurm_cluster.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
    assert listed.splitlines() == [f"{node} idle" for node in slurm_cluster.nodes]


def test_a_job_returns_its_result(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    job = executor(tmp_path).submit(operator.add, 40, 2)
    assert job.result() == 42


def test_an_array_returns_its_results_in_order(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    jobs = executor(tmp_path, array_parallelism=2).map_array(operator.mul, [1, 2, 3], [10, 10, 10])
    assert [job.result() for job in jobs] == [10, 20, 30]
    assert len({job.job_id.split("_")[0] for job in jobs}) == 1


def test_two_nodes_run_one_task_each(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    job = executor(tmp_path, nodes=2, ntasks_per_node=1).submit(os.getenv, "SLURMD_NODENAME")
    assert set(job.results()) == set(slurm_cluster.nodes)


def test_gpus_are_handed_out(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    job = executor(tmp_path, gpus_per_node=2).submit(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert job.result() == "0,1"


def test_a_chain_waits_for_its_upstream(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    upstream = executor(tmp_path).submit(time.sleep, 2)
    downstream = executor(tmp_path, dependency=f"afterok:{upstream.job_id}").submit(operator.add, 1, 1)
    assert state_of(slurm_cluster, downstream.job_id) == "PENDING"
    assert downstream.result() == 2
    assert state_of(slurm_cluster, upstream.job_id) == "COMPLETED"


def test_a_chain_ends_cancelled_when_its_upstream_fails(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    upstream = executor(tmp_path).submit(operator.truediv, 1, 0)
    chained = {"dependency": f"afterok:{upstream.job_id}", "kill-on-invalid-dep": "yes"}
    downstream = executor(tmp_path, additional_parameters=chained).submit(operator.add, 1, 1)
    assert wait_until_ended(slurm_cluster, upstream.job_id) == "FAILED"
    assert wait_until_ended(slurm_cluster, downstream.job_id) == "CANCELLED"
    assert "ZeroDivisionError" in str(upstream.exception())


def test_sacct_answers(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    if not slurm_cluster.accounting:
        pytest.skip("this testbed runs without accounting")
    job = executor(tmp_path).submit(operator.add, 1, 1)
    assert wait_until_ended(slurm_cluster, job.job_id) == "COMPLETED"
    command = f"sacct --noheader --allocations --parsable2 --format=State --jobs={job.job_id}"
    # the database lags behind the controller
    eventually(lambda: slurm_cluster.run(*command.split()) == "COMPLETED", "sacct knows of the job's end")
