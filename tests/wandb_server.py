"""A W&B server on the loopback interface for the real SDK, in threads of this process.

It can be made slow, broken or unreachable:

    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        ...
        assert server.run("some-id").history == [...]

It keeps runs, reports and workspaces in memory (tests/wandb_protocol.py, tests/wandb_views.py). It has no
artifacts and no Parquet exports of histories.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.waiting import HANG_S
from tests.wandb_protocol import Store, StoredRun
from tests.wandb_views import VIEW_OPERATIONS

API_KEY = "0" * 40
SET_BY_TRACKING = (
    "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_SILENT", "WANDB_SERVICE",
    "WANDB_ERROR_REPORTING", "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "WANDB__SERVICE_WAIT",
)  # fmt: skip


class WandbServer:
    """delay_s: wait this long before each answer. failing: answer 500 to every request. refuse: answer 401,
    as for a wrong key. on_request: called with each request's `METHOD path` before the answer. broken:
    requests, chosen by their `METHOD path`, to answer with 500.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.failing = False
        self.refuse = False
        self.on_request: Callable[[str], None] | None = None
        self.broken: Callable[[str], bool] | None = None
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self.port = 0
        self.store = Store(lambda: self.url, VIEW_OPERATIONS)
        self._http: _Http | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, name: str) -> StoredRun:
        """The run with this id."""
        with self.lock:
            return self.store.run(name)

    @property
    def runs(self) -> list[StoredRun]:
        with self.lock:
            return list(self.store.runs.values())

    def up(self) -> None:
        """Listen, on a free port the first time and on the same port after `down`."""
        assert self._http is None
        self._http = _Http(self, self.port)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Close the port and every connection, as if the server had died; the runs are kept."""
        if self._http is not None:
            http, self._http = self._http, None
            http.shutdown()
            http.server_close()
            http.cut_connections()

    def wait_for(self, true: Callable[[], object], timeout_s: float = HANG_S) -> None:
        """Wait until `true()` returns something true; raises TimeoutError if it never does."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self.lock:
                if true():
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s} s; the last requests were {self.requests[-5:]}")
            time.sleep(0.02)


def forget_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the SDK's settings; those that `study.tracking.runs` makes for its process end with the test."""
    for name in {*(name for name in os.environ if name.startswith("WANDB")), *SET_BY_TRACKING}:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server that runs until the block ends."""
    server = WandbServer()
    server.up()
    try:
        yield server
    finally:
        server.down()
    assert not server.store.unknown, f"the SDK asked for {server.store.unknown}"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, owner: WandbServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.owner = owner
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # the client has closed it already
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # the client is gone, or `down` cut it off
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing: `WandbServer.requests` has every request."""

    def _answer(self) -> None:
        owner = self.server.owner
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        owner.requests.append(request)
        if owner.on_request is not None:
            owner.on_request(request)
        if owner.delay_s:
            time.sleep(owner.delay_s)
        broken = owner.failing or (owner.broken is not None and owner.broken(request))
        if broken or owner.refuse:
            self._send({"errors": [{"message": "out of order"}]}, 401 if owner.refuse else 500)
            return
        with owner.lock:
            status, value = self._result(path, body)
        self._send(value, status)

    def _result(self, path: str, body: bytes) -> tuple[int, object]:
        store, parts = self.server.owner.store, path.strip("/").split("/")
        if path == "/graphql":
            asked = json.loads(body)
            try:
                return 200, {"data": store.answer(asked["query"], asked.get("variables") or {})}
            except KeyError as error:
                print(error, file=sys.stderr)
                return 400, {"errors": [{"message": str(error)}]}
        if parts[0] == "files" and parts[-1] == "file_stream":
            store.runs[parts[1], parts[2], parts[3]].take_stream(json.loads(body))
            return 200, {"exitcode": None, "limits": {}}
        if parts[0] == "runfile":
            run, name = store.runs.get((parts[1], parts[2], parts[3])), "/".join(parts[4:])
            if run is not None and self.command == "PUT":
                run.files[name] = body
                return 200, {}
            if run is not None and name in run.files:
                return 200, run.files[name]
        return 404, {"error": path}

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, value: object, status: int) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
