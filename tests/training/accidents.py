"""Accidents of a training process at a chosen moment. Each changes only the process that calls it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from training.engine import checkpoint, export, preemption


def signal_at(rank: int, *, step: int, ranks: tuple[int, ...] = (0,), number: int = signal.SIGUSR2) -> None:
    """The signal comes at the end of the attempt's step number `step`, to these ranks only."""
    if rank in ranks:
        _before(preemption, "agreed", lambda: os.kill(os.getpid(), number), call=step)


def kill_at(rank: int, *, step: int) -> None:
    """Killed at the end of the attempt's step number `step`."""
    _before(preemption, "agreed", _die, call=step)


def kill_in_save(rank: int, *, at: str, save: int, ranks: tuple[int, ...] = (0,)) -> None:
    """Killed in save number `save` of the attempt: in the middle of a file, or before a part."""
    if rank not in ranks:
        return
    if at == "half a file":
        whole, calls = torch.save, [0]

        def half(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            whole(value, path, *args, **kwargs)
            calls[0] += 1
            if (
                calls[0] == 3 * (save - 1) + 2
            ):  # weights, optimizer, random state; the optimizer is half there
                os.truncate(path, os.path.getsize(path) // 2)
                _die()

        torch.save = half  # type: ignore[assignment]
    elif at == "before the checksums":
        _before(checkpoint, "_sums", _die, call=save)
    elif at == "before the marker":
        _before(checkpoint, "write_json", _die, call=save)
    elif at == "before the name":
        # synced: the folder with its marker, then the one that it is renamed in
        _before(checkpoint, "digest", lambda: _before(checkpoint, "sync", _die, call=1), call=save)
    else:
        assert at == "before the old ones go"
        _before(checkpoint, "prune", _die, call=save)


def kill_in_export(rank: int) -> None:
    """Killed when the model is written and does not have its name yet."""
    _before(export, "sync", _die, call=1)


def slow_steps(rank: int) -> None:
    """A tenth of a second a step."""
    for step in range(1, 100):
        _before(preemption, "agreed", lambda: time.sleep(0.1), call=step)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(module: Any, name: str, accident: Callable[[], Any], *, call: int) -> None:
    """Have an accident happen just before call number `call` of a module's function."""
    function, calls = getattr(module, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            accident()
        return function(*args, **kwargs)

    setattr(module, name, wrapped)
