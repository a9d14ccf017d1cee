"""A Hugging Face hub on the loopback interface, with the part of its API that its clients use.

It serves <root>/models/<org>/<name>/<files> and <root>/datasets/<org>/<name>/<files>. A repository has one
commit, the hash of its files. `org/gated` answers 401, as the hub does to strangers.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

GATED = "org/gated"


class Hub(ThreadingHTTPServer):
    """asked: every request, as `METHOD path`. root: the folder of the repositories."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub(root)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def commit_of(repository: Path) -> str:
    """The only commit of a repository: a hash of names and contents, 40 hex digits."""
    total = hashlib.sha1()
    for name in _names(repository):
        total.update(f"{name}\0".encode() + (repository / name).read_bytes())
    return total.hexdigest()


def _names(repository: Path) -> list[str]:
    return sorted(p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing: `Hub.asked` has every request."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.server.asked.append(f"{self.command} {self.path}")
        if parts[0] == "api":
            self._api(parts[1:], body)
        else:
            self._file(parts)

    def _api(self, parts: list[str], body: bytes) -> None:
        """<kind>/<org>/<name>[/revision/R | /tree/R[/folder] | /paths-info/R]."""
        kind, name, action = parts[0], "/".join(parts[1:3]), parts[3] if len(parts) > 3 else "revision"
        repository = self._repository(kind, name, parts[4] if len(parts) > 4 else "main")
        if repository is None:
            return
        if action == "revision":
            files = [{"rfilename": file} for file in _names(repository)]
            known = {"id": name, "sha": commit_of(repository), "siblings": files, "tags": []}
            self._json({**known, "private": False, "gated": False, "downloads": 0, "likes": 0})
        elif action == "tree":
            folder = "/".join(parts[5:])
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            if folder and not (repository / folder).is_dir():
                self._error(404, "EntryNotFound")
                return
            paths = (repository / folder).glob("**/*" if deep else "*")
            self._json([_entry(path, repository) for path in sorted(paths)])
        elif action == "paths-info":
            if self.headers.get("Content-Type", "").startswith("application/json"):
                asked = json.loads(body)["paths"]
            else:
                asked = parse_qs(body.decode())["paths"]
            existing = [repository / path for path in asked if (repository / path).exists()]
            self._json([_entry(path, repository) for path in existing])
        else:
            self._error(404, "EntryNotFound")

    def _file(self, parts: list[str]) -> None:
        """[datasets/]<org>/<name>/resolve/R/<file>."""
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        if len(parts) < 5 or parts[2] != "resolve":
            self._error(404, "EntryNotFound")
            return
        repository = self._repository(kind, "/".join(parts[:2]), parts[3])
        if repository is None:
            return
        file = repository.joinpath(*parts[4:])
        if not file.is_file():
            self._error(404, "EntryNotFound", commit_of(repository))
            return
        content = file.read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        last = (self.headers.get("Range") or "").partition("-")[2]
        part = content[first : int(last) + 1 if last else None]
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(repository))
        self.send_header("Accept-Ranges", "bytes")
        self._send(part, "application/octet-stream")

    def _repository(self, kind: str, name: str, revision: str) -> Path | None:
        """The folder of a repository, or None after answering with an error if there is no such revision."""
        repository = self.server.root / kind / name
        if name == GATED:
            self._error(401, "GatedRepo")
        elif not repository.is_dir():
            self._error(401, "RepoNotFound")  # the hub does not tell strangers what exists
        elif revision not in ("main", commit_of(repository)):
            self._error(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _json(self, value: object) -> None:
        self.send_response(200)
        self._send(json.dumps(value).encode(), "application/json")

    def _error(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
        self._send(json.dumps({"error": code}).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(path: Path, repository: Path) -> dict[str, Any]:
    name = path.relative_to(repository).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
    content = path.read_bytes()
    return {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
