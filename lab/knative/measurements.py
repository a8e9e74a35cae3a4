"""What the autoscaler is told by simulated pods, whichever it asks: that nobody calls them.

Run as a program, where the addresses of all pods are its own: it stands for their queue-proxies.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 9090


class Idle(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/protobuf")
        # Nothing at all is a message whose every number is zero.
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, template: str, *args: object) -> None:
        """Twice a second for each pod: nothing that anybody would read."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Idle).serve_forever()
