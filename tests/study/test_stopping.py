"""Real signals to this process: they set a flag and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from study import stopping


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    stopping.listen()
    yield
    stopping.listen()  # forget what came
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_has_come() -> None:
    assert not stopping.requested()
    assert not stopping.warned()


@pytest.mark.parametrize(
    ("signals", "warned"),
    [
        ((signal.SIGUSR2,), True),
        ((signal.SIGTERM,), False),
        ((signal.SIGUSR2, signal.SIGTERM), True),  # the time limit, after its warning
        ((signal.SIGTERM, signal.SIGUSR2), False),
        ((signal.SIGUSR2, signal.SIGUSR2), True),
    ],
)
def test_a_signal_sets_the_flag_and_the_first_one_says_whether_it_is_a_warning(
    signals: tuple[signal.Signals, ...], warned: bool
) -> None:
    for number in signals:
        os.kill(os.getpid(), number)
    assert stopping.requested()
    assert stopping.warned() == warned


def test_listening_again_forgets() -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    stopping.listen()
    assert not stopping.requested()
