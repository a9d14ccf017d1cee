"""A hub that knows one commit, in place of `HfApi`."""

from __future__ import annotations

from types import SimpleNamespace

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """`HfApi.repo_info`. asked: (id, revision, kind) of each call. problem: raised in place of an answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.problem: Exception | None = None

    def repo_info(self, repo_id: str, *, revision: str, repo_type: str, timeout: float) -> SimpleNamespace:
        self.asked.append((repo_id, revision, repo_type))
        if self.problem is not None:
            raise self.problem
        return SimpleNamespace(sha=COMMIT)
