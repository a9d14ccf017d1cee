"""Checkpoints of a training job: complete or absent, verified when read, the same one on every rank.

    checkpoints/step-00000123/
        COMPLETE          written last: step, ranks, ZeRO stage, size and SHA-256 of every other file
        random-0000.pt    random state of a rank
        deepspeed/        weights, optimizer and schedule, as DeepSpeed writes them

A folder whose name begins with a dot is not a checkpoint: it is being written or deleted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from study.errors import JobError
from study.files import digest, sync, write_json
from training.engine.zero import World

logger = logging.getLogger(__name__)
MARKER = "COMPLETE"
PREFIX = "step-"
TAG = "deepspeed"

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. step: optimizer steps done. state: as given to `save`."""

    path: Path
    step: int
    state: Mapping[str, Any]
    world_size: int
    zero_stage: int


def save(
    engine: Any, checkpoints: Path, step: int, world: World, *, state: Mapping[str, Any], keep: int
) -> None:
    """Save a checkpoint after `step` optimizer steps; every rank must call this, between two steps.

    state: JSON values, returned by `newest`. keep: complete checkpoints to leave, this one included; while it
    is written there is one more. The checkpoint is complete on every rank when this returns.
    """
    began = time.monotonic()
    path = path_of(checkpoints, step)
    temporary = path.with_name(f".{path.name}.tmp")
    if world.rank == 0:
        _remove(temporary)  # left by an attempt that was killed
        temporary.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(temporary), tag=TAG)
    torch.save(_random_state(world), temporary / _random_name(world))
    dist.barrier()
    files = _sums(temporary, world)
    if world.rank == 0:
        marker: dict[str, Any] = {
            "step": step,
            "world_size": world.size,
            "zero_stage": engine.zero_optimization_stage(),
            "state": dict(state),
            "files": files,
        }
        write_json(temporary / MARKER, {**marker, "digest": digest(marker)})
        sync(temporary)
        if path.exists():  # a torn one, skipped when this attempt resumed
            _remove(path)
        temporary.rename(path)
        sync(checkpoints)
        prune(checkpoints, step, keep)
        logger.info("checkpoint at step %d, in %.1f s", step, time.monotonic() - began)
    dist.barrier()


def newest(checkpoints: Path, world: World) -> Checkpoint | None:
    """The newest complete checkpoint, its checksums verified; None when there is none.

    Every rank must call this, and all get the same. A torn checkpoint is skipped with a warning.
    """
    for step in _from_rank_0(world, _steps(checkpoints) if world.rank == 0 else []):
        path = path_of(checkpoints, step)
        marker, problem = _from_rank_0(world, _read_marker(path, step) if world.rank == 0 else ({}, None))
        problem = problem or _first_problem(path, marker["files"], world)
        if problem is None:
            return Checkpoint(path, step, marker["state"], marker["world_size"], marker["zero_stage"])
        if world.rank == 0:
            logger.warning("the checkpoint %s is torn and skipped: %s", path, problem)
            _hide(path)  # or `prune` would count it among those to keep
    return None


def fits(checkpoint: Checkpoint, world: World, zero_stage: int) -> bool:
    """Whether `load` can read it; otherwise `universal.load` converts it first.

    Raises JobError between ZeRO stage 3 and the others, which store weights differently: neither can.
    """
    if (checkpoint.zero_stage == 3) != (zero_stage == 3):
        raise JobError(
            f"{checkpoint.path} was saved at ZeRO stage {checkpoint.zero_stage}, and this job runs at "
            f"{zero_stage}: write zero_stage: {checkpoint.zero_stage}, or delete {checkpoint.path.parent} "
            "to begin again"
        )
    return (checkpoint.world_size, checkpoint.zero_stage) == (world.size, zero_stage)


def load(engine: Any, checkpoint: Checkpoint, world: World) -> None:
    """Load a checkpoint that `fits` into a fresh engine; training resumes bit for bit.

    Every rank must call this.
    """
    loaded, _ = engine.load_checkpoint(str(checkpoint.path), tag=TAG)
    assert loaded is not None, f"{checkpoint.path}: DeepSpeed found nothing in a complete checkpoint"
    _restore_random_state(checkpoint.path / _random_name(world), world)


def path_of(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` optimizer steps."""
    return checkpoints / f"{PREFIX}{step:08d}"


def _steps(checkpoints: Path) -> list[int]:
    """Steps that have a folder, the newest first."""
    names = (path.name.removeprefix(PREFIX) for path in checkpoints.glob(f"{PREFIX}*"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _read_marker(path: Path, step: int) -> tuple[dict[str, Any], str | None]:
    """The marker, and what is wrong with it if anything."""
    try:
        marker = json.loads((path / MARKER).read_bytes())
    except FileNotFoundError:
        return {}, f"{MARKER} is missing"
    except ValueError:
        return {}, f"{MARKER} is not JSON"
    if not isinstance(marker, dict) or marker.pop("digest", None) != digest(marker) or marker["step"] != step:
        return {}, f"{MARKER} is not as it was written"
    return marker, None


def _sums(folder: Path, world: World) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of every file, synced to disk; each rank takes its share."""
    own = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    # a rank on another node may see this rank's files late
    names = sorted(set().union(*_from_all(world, own)))
    share: dict[str, dict[str, int | str]] = {}
    for name in names[world.rank :: world.size]:
        sync(folder / name)
        share[name] = {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
    for parent in {(folder / name).parent for name in share}:
        sync(parent)
    shares = _from_all(world, share)
    return {name: sums for share in shares for name, sums in share.items()}


def _first_problem(path: Path, files: Mapping[str, Mapping[str, Any]], world: World) -> str | None:
    """What is wrong with a checkpoint's files, if anything: each rank reads a share, all get the same."""
    own = (_problem(path, name, files[name]) for name in sorted(files)[world.rank :: world.size])
    return next(filter(None, _from_all(world, next(filter(None, own), None))), None)


def _problem(path: Path, name: str, sums: Mapping[str, Any]) -> str | None:
    file = path / name
    if not file.is_file():
        return f"{name} is missing"
    size = file.stat().st_size
    if size != sums["size"]:
        return f"{name} has {size} bytes, not {sums['size']}"
    return None if _sha256(file) == sums["sha256"] else f"{name} is not as it was written"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def prune(checkpoints: Path, step: int, keep: int) -> None:
    """Leave the newest `keep` checkpoints up to `step`; rank 0 alone calls this.

    A newer one was skipped as torn, or belongs to a job that was set back by hand.
    """
    steps = _steps(checkpoints)
    kept = [saved for saved in steps if saved <= step][:keep]
    for saved in steps:
        if saved not in kept:
            _remove(path_of(checkpoints, saved))
    for path in checkpoints.glob(f".{PREFIX}*"):
        _remove(path)


def _remove(path: Path) -> None:
    """Delete a folder; a kill meanwhile leaves nothing that looks like a checkpoint."""
    if path.exists():
        shutil.rmtree(path if path.name.startswith(".") else _hide(path))


def _hide(path: Path) -> Path:
    hidden = path.with_name(f".{path.name}.old")
    _remove(hidden)
    return path.rename(hidden)


def _random_name(world: World) -> str:
    return f"random-{world.rank:04d}.pt"


def _random_state(world: World) -> dict[str, torch.Tensor]:
    """torch's generators; training draws nothing from the global ones of NumPy and Python."""
    state = {"cpu": torch.get_rng_state()}
    if world.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(world.device)
    return state


def _restore_random_state(file: Path, world: World) -> None:
    state = torch.load(file, map_location="cpu", weights_only=True)
    torch.set_rng_state(state["cpu"])
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], world.device)


def _from_rank_0(world: World, value: T) -> T:
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _from_all(world: World, value: T) -> list[T]:
    boxes: list[Any] = [None] * world.size
    dist.all_gather_object(boxes, value)
    return boxes
