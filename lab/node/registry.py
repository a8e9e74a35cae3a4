"""An image registry that has nothing, so that a pull fails as it does anywhere.

Run as a program: `registry.py ADDRESS PORT`. A repository below `denied/` answers as Docker
Hub does for a private one: a token that is worth nothing, and 401 with it. Every other manifest is
unknown.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Registry(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/token":
            self._answer(200, {"token": "anonymous"})
        elif path.startswith("/v2/denied/"):
            self._deny(path.removeprefix("/v2/").split("/manifests/")[0])
        else:
            self._answer(404, _error("MANIFEST_UNKNOWN", "manifest unknown"))

    do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

    def _deny(self, repository: str) -> None:
        realm = f"http://{self.headers['Host']}/token"
        challenge = (
            f'Bearer realm="{realm}",service="registry",scope="repository:{repository}:pull"'
        )
        if "Authorization" in self.headers:
            challenge += ',error="insufficient_scope"'
        body = _error("UNAUTHORIZED", "authentication required")
        self._answer(401, body, {"WWW-Authenticate": challenge})

    def log_message(self, template: str, *args: object) -> None:
        print(template % args, flush=True)

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _error(code: str, message: str) -> object:
    return {"errors": [{"code": code, "message": message}]}


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Registry).serve_forever()
