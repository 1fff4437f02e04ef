"""A Hugging Face Hub on loopback, with the few endpoints that an upload needs."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any

TOKEN = "hf_" + "a1B2c3D4" * 4


@dataclass
class FakeHub:
    """What the Hub was sent.

    Attributes:
        url: Address of the server.
        created: Bodies of the requests to create a repository.
        commits: Message of each commit, and contents of its files by path.
        tokens: Tokens that requests had.
        refuses: Status of the answer to each commit; None to take commits.
        asked: Paths of requests for files and descriptions of repositories.
        answer_to_reads: Status, and headers, of the answer to these requests.
    """

    url: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuses: int | None = None
    asked: list[str] = field(default_factory=list)
    answer_to_reads: tuple[int, dict[str, str]] = (404, {})

    @property
    def files(self) -> dict[str, bytes]:
        """Contents of all files by path, after all commits."""
        return {path: content for _, files in self.commits for path, content in files.items()}

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and content of the answer to a POST request."""
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            name = json.loads(body)["name"]
            return 200, {"url": f"{self.url}/ann/{name}", "name": f"ann/{name}", "id": "1"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return 200, {"files": [file | {"shouldIgnore": False} for file in files]}
        if "/commit/" in path:
            if self.refuses is not None:
                return self.refuses, {"error": "The repository is closed"}
            header, *operations = (json.loads(line) for line in body.splitlines())
            files = {part["value"]["path"]: base64.b64decode(part["value"]["content"]) for part in operations}
            self.commits.append((header["value"]["summary"], files))
            return 200, {"commitUrl": f"{self.url}/ann/x/commit/0", "commitOid": "0" * 40, "success": True}
        return 404, {"error": f"no {path}"}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._hear()
        if self.path == "/api/whoami-v2":
            self._send(200, {"name": "ann", "type": "user"})
            return
        self._hub.asked.append(self.path)
        status, headers = self._hub.answer_to_reads
        self._send(status, {"error": "none"}, headers)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._hear()
        self._send(*self._hub.answer(self.path, self._body()))

    @property
    def _hub(self) -> FakeHub:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _hear(self) -> None:
        if (given := self.headers.get("Authorization")) is not None:
            self._hub.tokens.add(given.removeprefix("Bearer "))

    def _send(self, status: int, content: dict[str, Any], headers: Mapping[str, str] = MappingProxyType({})) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    hub: FakeHub


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a Hub in a thread."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
