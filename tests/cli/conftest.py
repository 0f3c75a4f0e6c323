"""A stub of battd's API on a unix socket, to be told what to answer, and battctl run inside the test."""

from __future__ import annotations

import json
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from batt_supervisor.cli.main import run


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class Hang:
    """Close the connection without an answer, after the request has had its effect."""


Answer = tuple[int, Any] | Hang


@dataclass
class StubBattd:
    """Answers with what `routes` say; a submission is kept as the real one would keep it.

    Attributes:
        lose: How many of the next answers are lost on their way, by method and end of path.
    """

    socket: Path
    requests: list[Request] = field(default_factory=list)
    routes: dict[tuple[str, str], Callable[[Request], Answer]] = field(default_factory=dict)
    lose: dict[tuple[str, str], int] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def on(self, method: str, path: str, answer: Any, status: int = 200) -> None:
        self.routes[method, path] = lambda _request: (status, answer)

    def refuse(self, method: str, path: str, status: int, error: str, message: str) -> None:
        self.on(method, path, {"error": error, "message": message}, status)

    def sent(self, method: str, ending: str = "") -> list[Request]:
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        found = self.routes.get((request.method, request.path))
        answer = found(request) if found else self._submission(request)
        for (method, ending), left in self.lose.items():
            if left and request.method == method and request.path.endswith(ending):
                self.lose[method, ending] = left - 1
                return Hang()
        return answer

    def _submission(self, request: Request) -> Answer:
        parts = request.path.split("/")[2:]
        if request.method == "POST" and parts == ["check"]:
            return 204, None
        if request.method == "POST" and parts == ["runs"]:
            for name, run_ in self.runs.items():
                if run_["key"] == request.body["key"]:
                    return 200, self._created(name, existing=True)
            name = f"r{len(self.runs) + 1}"
            self.runs[name] = {"key": request.body["key"], "spec": request.body, "tasks": [], "sealed": False}
            return 200, self._created(name)
        if len(parts) >= 2 and parts[1] in self.runs:
            found = self.runs[parts[1]]
            if request.method == "DELETE":
                del self.runs[parts[1]]
                return 204, None
            if parts[2:] == ["tasks"]:
                assert request.body["offset"] <= len(found["tasks"]), "a gap"
                if not found["sealed"]:
                    found["tasks"][request.body["offset"] :] = request.body["tasks"]
                return 200, self._created(parts[1])
            if parts[2:] == ["seal"]:
                if int(request.query["tasks"]) != len(found["tasks"]):
                    return 409, {"error": "refused", "message": "it was submitted with other items"}
                found["sealed"] = True
                return 200, self._created(parts[1])
        return 404, {"error": "not_found", "message": f"nothing at {request.path}"}

    def _created(self, name: str, existing: bool = False) -> dict[str, Any]:
        found = self.runs[name]
        return {"run": name, "tasks": len(found["tasks"]), "sealed": found["sealed"], "existing": existing}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    stub: StubBattd

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of the stub's; what it would print is what battctl is asked about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _any(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        answer = self.server.stub.answer(Request(self.command, url.path, query, body))
        if isinstance(answer, Hang):
            self.close_connection = True
            return
        status, value = answer
        text = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = _any

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path that is short enough for a socket, wherever the test's own folder is."""
    with tempfile.TemporaryDirectory(prefix="batt-", dir="/tmp") as folder:
        yield Path(folder) / "battd.sock"


@pytest.fixture
def stub(socket: Path) -> Iterator[StubBattd]:
    server = _Server(str(socket), _Handler)
    server.stub = StubBattd(socket)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.stub
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def battctl(
    socket: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """battctl with the stub's socket, in a folder of its own."""
    for variable in ("BATT_SOCKET", "BATT_STATE_DIR", "BATT_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Ended:
        capfd.readouterr()
        code = run(["--socket", str(socket), *words])
        said = capfd.readouterr()
        return Ended(code, said.out, said.err)

    return call


@pytest.fixture
def run_info() -> Callable[..., dict[str, Any]]:
    """A run as the API gives it."""

    def make(**over: Any) -> dict[str, Any]:
        info = {
            "run": "r7", "name": "arc", "state": "running", "tasks": 4, "created_at_ms": 1_000, "sealed_at_ms": 2_000,
            "deadline_at_ms": None, "ended_at_ms": None, "cwd": "/", "counts": {"succeeded": 1, "queued": 3},
            "outcomes": {"ok": 1}, "hold": None,
            "stages": [{"name": "one", "function": "m:f", "command": None, "counts": {"succeeded": 1, "queued": 3}}],
        }  # fmt: skip
        return info | over

    return make


@pytest.fixture
def task_result() -> Callable[..., dict[str, Any]]:
    """A task's line of results as the API gives it."""

    def make(index: int, **over: Any) -> dict[str, Any]:
        result = {
            "id": f"t{index + 1}", "run": "r7", "stage": "one", "index": index, "key": None, "args": [index],
            "state": "succeeded", "outcome": "ok", "reason": None, "attempt": 1, "wall_s": 0.5, "cpu_s": 0.4,
            "peak_memory_bytes": 1024, "value": {"n": index}, "error": None,
        }  # fmt: skip
        return result | over

    return make
