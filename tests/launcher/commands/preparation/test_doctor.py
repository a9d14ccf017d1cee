"""What `calsweep doctor loss` prints about the results of its job; see also training/test_certificate.py."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from launcher.cli import main
from launcher.commands.preparation import doctor
from launcher.commands.preparation.doctor import Case, Checks

LAST = "[a] sentence"


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is real, and what it runs is one of the functions below, without torch."""
    monkeypatch.setattr(doctor, "RANKS", (1,))


def check(*, passed: bool) -> Checks:
    numbers = {"num_ranks": 1, "loss_difference": 1e-7, "gradient_difference": 1e-6, "tolerance": 1e-4}
    return [{"name": "masks", **numbers, "passed": passed}]


def all_well(cases: Sequence[Case]) -> list[Checks]:
    return [check(passed=True) for _ in cases]


def one_fails(cases: Sequence[Case]) -> list[Checks]:
    return [check(passed=False), *all_well(cases[1:])]


def one_cannot_be_loaded(cases: Sequence[Case]) -> list[Checks]:
    return [*all_well(cases[1:]), LAST]


def crashing(cases: Sequence[Case]) -> list[Checks]:
    raise RuntimeError("no kernel image\nis available")


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "certify", all_well)
    assert main(["doctor", "loss"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(doctor, "certify", one_fails)
    assert main(["doctor", "loss"]) == 1
    assert "the installed stack computes a wrong loss or gradient" in capsys.readouterr().err


def test_a_model_that_cannot_be_checked_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "certify", one_cannot_be_loaded)
    assert main(["doctor", "loss"]) == 1
    printed = capsys.readouterr()
    assert printed.out.count(" ok") == 5
    assert f"gemma2 bf16 cannot be checked: {LAST}\n" in printed.out
    assert printed.err == ""  # no check failed


def test_a_job_that_breaks_down_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "certify", crashing)
    assert main(["doctor", "loss"]) == 2
    assert capsys.readouterr().err == (
        "calsweep: doctor loss: the checks fail to run on 1 ranks: RuntimeError: no kernel image; "
        "compare the installed versions with pyproject.toml\n"
    )
