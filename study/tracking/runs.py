"""W&B, one run per job: its failures never fail a job, and can delay it only at its end, by a limited time.

The run id is the job id, so that a requeued job continues its run instead of starting a second one.

Nothing of the SDK runs in a job's main thread. `log`, `save` etc. put a call into a queue and return; a
daemon thread starts the run and makes the calls in order. The job waits for W&B only in `finish`, at most
FINISH_LIMIT_S (OFFLINE_LIMIT_S without a server, STOPPED_LIMIT_S after a request to stop). After that the
SDK's service process is killed, which frees a thread that hangs in it (within KILLED_LIMIT_S), so that W&B
cannot delay the end of the process. After W&B has failed once, later jobs of the same process track offline,
and after a second failure not at all: at most two of the languages of a task wait that long.

What was logged is in the run's folder, `wandb/` in the job's, even if the server failed: see `calsweep sync`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from study.errors import Stopped
from study.grid.config import TrackingConfig
from study.jobs.job import Job
from study.jobs.specs import EvalSpec
from study.paths import JobPaths

logger = logging.getLogger(__name__)
INIT_TIMEOUT_S = 30
"""How long the SDK tries to reach a server, in its thread: the job does not wait for it."""
FINISH_LIMIT_S = 60
OFFLINE_LIMIT_S = 300
"""To start and to finish without a server. Where many jobs start at once on slow disks or few cores, the SDK
takes more than a minute, and what it has not written by then is lost.
"""
STOPPED_LIMIT_S = 10
"""SLURM leaves 30 s by default between TERM and KILL, in which the job also has to record its end."""
KILLED_LIMIT_S = 5
"""For the thread to end after the service was killed."""
SERVICE_LIMIT_S = 20
"""For the SDK's service to end, once every run is over."""
_given_up: list[str] = []
"""The jobs of this process for which W&B did not answer in time."""


class Run:
    """A W&B run that absorbs W&B's failures; it does nothing if tracking is disabled.

    start: creates the SDK's run; called, like everything of the SDK, in a separate thread.
    """

    def __init__(self, start: Callable[[], Any] | None) -> None:
        self._calls: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._complete = True
        if start is None:
            self._ended.set()
        else:
            threading.Thread(target=self._work, args=(start,), name="wandb", daemon=True).start()

    def log(self, scalars: Mapping[str, float | int]) -> None:
        """Log scalars. Lists and arrays do not belong here: records are files."""
        row = dict(scalars)
        self._later(lambda run: run.log(row))

    def save(self, file: Path, base: Path) -> None:
        """Stream a finished file to the run, under its path relative to `base`."""
        self._later(lambda run: run.save(str(file), base_path=str(base), policy="now"))

    def summarise(self, values: Mapping[str, Any]) -> None:
        copy = dict(values)
        self._later(lambda run: run.summary.update(copy))

    def preempted(self) -> None:
        """Make W&B show the run as preempted, not as failed, if its exit code is not 0."""
        self._later(lambda run: run.mark_preempting())

    def finish(self, exit_code: int, *, limit_s: float | None = None) -> bool:
        """End the run. Returns within `limit_s` (FINISH_LIMIT_S if None) + KILLED_LIMIT_S in any case;
        False if W&B did not accept everything in that time.
        """
        self._later(lambda run: run.finish(exit_code=exit_code))
        self._later(None)
        limit_s = FINISH_LIMIT_S if limit_s is None else limit_s
        if self._ended.wait(limit_s):
            return self._complete
        logger.error("W&B did not finish within %g s; this job continues without it", limit_s)
        end = time.monotonic() + KILLED_LIMIT_S
        while time.monotonic() < end:
            _kill_service()  # repeatedly, since the thread may start another one
            if self._ended.wait(0.1):
                break
        return False

    def _later(self, call: Callable[[Any], object] | None) -> None:
        if not self._ended.is_set():
            self._calls.put(call)

    def _work(self, start: Callable[[], Any]) -> None:
        try:
            run = start()
            while (call := self._calls.get()) is not None:
                call(run)
        except Exception:  # W&B never fails a job: see the module's docstring
            logger.exception("W&B failed; this job continues without it")
            self._complete = False
        finally:
            end_service()
            self._ended.set()


@contextmanager
def track(config: TrackingConfig, job: Job, folder: JobPaths, *, tags: tuple[str, ...] = ()) -> Iterator[Run]:
    """The W&B run of one job, finished with exit code 0 or 1; as preempted after a request to stop."""
    mode = _mode(config)
    run = Run(None if mode == "disabled" else lambda: _start(config, mode, job, folder, tags))
    exit_code, limit_s = 1, _limit_s(mode)
    try:
        yield run
        exit_code = 0
    except Stopped:
        run.preempted()
        limit_s = STOPPED_LIMIT_S
        raise
    finally:
        if not run.finish(exit_code, limit_s=limit_s):
            _given_up.append(job.job_id)


def group_of(job: Job) -> str:
    """The W&B group of a cell: the run of a training, and those of all evaluations of its model."""
    model = job.spec.model.revision if isinstance(job.spec, EvalSpec) else job.job_id
    return f"{job.cell_name} ({model[:8]})"


def _mode(config: TrackingConfig) -> str:
    if config.mode == "disabled" or len(_given_up) > 1:
        return "disabled"
    return "offline" if _given_up else config.mode


def _limit_s(mode: str) -> float:
    return OFFLINE_LIMIT_S if mode == "offline" else FINISH_LIMIT_S


def _start(config: TrackingConfig, mode: str, job: Job, folder: JobPaths, tags: tuple[str, ...]) -> Any:
    # one WANDB_DIR per job: the `latest-run` link and the staging area are not made for sharing
    staging = folder.root / "wandb" / "staging"
    os.environ.update(
        WANDB_DIR=str(folder.root),
        WANDB_DATA_DIR=str(staging),
        WANDB_CACHE_DIR=str(staging / "cache"),
    )
    if config.mode == "offline":  # online, the user's configuration names the server they are logged in to
        os.environ["WANDB_CONFIG_DIR"] = str(staging / "config")
    defaults = {
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        # with the default of 15 s, a job that is killed early leaves an empty file
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        "WANDB__SERVICE_WAIT": "120",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    if mode == "online":
        try:
            return _init(config, "online", job, folder, tags)
        except Exception:  # the server or the network failed: keep the run here, for `calsweep sync`
            logger.exception("W&B does not answer; this process tracks offline from now on")
            _given_up.append(job.job_id)
            # the service still holds the id of the run that did not start
            end_service()
    return _init(config, "offline", job, folder, tags)


def _init(
    config: TrackingConfig,
    mode: Literal["online", "offline"],
    job: Job,
    folder: JobPaths,
    tags: tuple[str, ...],
) -> Any:
    import wandb

    data = job.to_dict()
    settings = wandb.Settings(
        console="off",
        x_disable_stats=True,
        init_timeout=OFFLINE_LIMIT_S if mode == "offline" else INIT_TIMEOUT_S,
        # it gives up in good order before it is killed
        finish_timeout=_limit_s(mode) * 5 / 6,
        finish_timeout_raises=True,
    )
    return wandb.init(
        project=config.project,
        entity=config.entity,
        mode=mode,
        dir=str(folder.root),
        id=job.job_id,
        resume="allow",
        name=job.name,
        group=group_of(job),
        job_type=job.kind,
        tags=[job.kind, *tags],
        config={"cell": data["cell"], "spec": data["spec"], "needs": data["needs"]},
        settings=settings,
    )


def end_service() -> None:
    """End the SDK's service process, if there is one.

    Its own teardown has no time limit, also at the exit of the process, and a service that lost its server
    sometimes does not react (wandb 0.31): after SERVICE_LIMIT_S it is killed.
    """
    thread = threading.Thread(target=_teardown, name="wandb-teardown", daemon=True)
    thread.start()
    thread.join(SERVICE_LIMIT_S)
    if thread.is_alive():
        _kill_service()
        thread.join(KILLED_LIMIT_S)


def _teardown() -> None:
    try:
        import wandb

        wandb.teardown()
    except Exception as error:  # a service that was killed does not answer
        logger.info("W&B's service did not end in order: %r", error)


def _kill_service() -> None:
    """Kill the SDK's service, a child of this process: a thread that waits for its answer gets an error."""
    import psutil

    for child in psutil.Process().children():
        try:
            if child.name() == "wandb-core" and child.status() != psutil.STATUS_ZOMBIE:
                child.kill()
        except psutil.NoSuchProcess:
            continue
