"""A real HTTP server on loopback, for models that are fetched from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves `files` by path; misbehaves at the paths that are named for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.forbidden: set[str] = set()
        self.cut_short: set[str] = set()
        self.stuck: set[str] = set()
        self.redirects: dict[str, str] = {}
        self.dispositions: dict[str, str] = {}
        self.released = threading.Event()
        self.asked: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        self._begin()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content, path = self._begin(), self.path.partition("?")[0]
        if path in self.server.cut_short:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif path in self.server.stuck:
            self.wfile.write(content[:1])
            self.wfile.flush()
            self.server.released.wait(30)
            self.close_connection = True
        else:
            self.wfile.write(content)

    def _begin(self) -> bytes:
        path = self.path.partition("?")[0]
        content = self.server.files.get(path, b"")
        status = 403 if path in self.server.forbidden else 200 if path in self.server.files else 404
        redirect = self.server.redirects.get(path)
        self.send_response(302 if redirect else status)
        if redirect:
            self.send_header("Location", redirect)
        if disposition := self.server.dispositions.get(path):
            self.send_header("Content-Disposition", disposition)
        self.send_header("Content-Length", str(len(content) if status == 200 else 0))
        self.end_headers()
        return content if status == 200 else b""

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def file_server() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="file server")
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
