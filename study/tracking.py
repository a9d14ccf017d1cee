"""W&B, one run per job. Its failure never kills a job: it is reported in the job's log and tracking stops.

The run id is the job id, so that a requeued job continues its run instead of starting a second one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from study.config import TrackingConfig
from study.errors import Stopped
from study.job import Job
from study.paths import JobPaths
from study.specs import EvalSpec

logger = logging.getLogger(__name__)
INIT_TIMEOUT_S = 30
FINISH_TIMEOUT_S = 60
_unreachable: list[bool] = []
"""Not empty once a server did not answer: a pack of languages does not ask it again for each."""


class Run:
    """A W&B run that swallows W&B's own failures, or nothing at all when tracking is disabled."""

    def __init__(self, run: Any | None) -> None:
        self._run = run

    def log(self, scalars: Mapping[str, float | int]) -> None:
        """Log scalars. Lists and arrays do not belong here: records are files."""
        self._guard(lambda run: run.log(dict(scalars)))

    def save(self, file: Path, base: Path) -> None:
        """Stream a finished file to the run, under its path relative to `base`."""
        self._guard(lambda run: run.save(str(file), base_path=str(base), policy="now"))

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._guard(lambda run: run.summary.update(dict(values)))

    def preempted(self) -> None:
        """Have W&B show the run as preempted, not as failed, when it is finished with a code other than 0."""
        self._guard(lambda run: run.mark_preempting())

    def finish(self, exit_code: int) -> None:
        self._guard(lambda run: run.finish(exit_code=exit_code))

    def _guard(self, call: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception:  # whatever W&B does, the job goes on: see the module's docstring
            logger.exception("W&B failed; this job goes on without it")
            self._run = None


@contextmanager
def track(config: TrackingConfig, job: Job, folder: JobPaths, *, tags: tuple[str, ...] = ()) -> Iterator[Run]:
    """The W&B run of one job, finished with exit code 0 or 1; as preempted when it was told to stop."""
    run = Run(_start(config, job, folder, tags))
    try:
        yield run
    except Stopped:
        run.preempted()
        run.finish(1)
        raise
    except BaseException:
        run.finish(1)
        raise
    run.finish(0)


def group_of(job: Job) -> str:
    """Runs of one cell belong together: the training run and every evaluation of its model."""
    model = job.spec.model.revision if isinstance(job.spec, EvalSpec) else job.job_id
    return f"{job.cell_name} ({model[:8]})"


def _start(config: TrackingConfig, job: Job, folder: JobPaths, tags: tuple[str, ...]) -> Any | None:
    if config.mode == "disabled":
        return None
    # one WANDB_DIR per job: the `latest-run` link and the staging area are not made for sharing
    staging = folder.root / "wandb" / "staging"
    os.environ.update(
        WANDB_DIR=str(folder.root),
        WANDB_DATA_DIR=str(staging),
        WANDB_CACHE_DIR=str(staging / "cache"),
    )
    if config.mode == "offline":  # online, the user's own says which server they logged in to
        os.environ["WANDB_CONFIG_DIR"] = str(staging / "config")
    defaults = {
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        # the default of 15 s leaves an empty file behind a job that is killed early
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        "WANDB__SERVICE_WAIT": "120",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    try:
        if config.mode == "online" and not _unreachable:
            try:
                return _init(config, "online", job, folder, tags)
            except Exception:  # the server's fault or the network's: keep the run here, to be synced later
                logger.exception("W&B does not answer; this process tracks offline from here on")
                _unreachable.append(True)
                _forget_failed_start()
        return _init(config, "offline", job, folder, tags)
    except Exception:  # see the module's docstring
        logger.exception("W&B could not start a run; this job goes on without it")
        return None


def _forget_failed_start() -> None:
    """The SDK's service keeps the id of a run that did not start as one in use; end the service."""
    import wandb

    wandb.teardown()


def _init(
    config: TrackingConfig,
    mode: Literal["online", "offline"],
    job: Job,
    folder: JobPaths,
    tags: tuple[str, ...],
) -> Any:
    import wandb

    data = job.to_dict()
    # init and finish wait for a server: 90 s and for ever by default
    settings = wandb.Settings(
        console="off", x_disable_stats=True, init_timeout=INIT_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S
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
