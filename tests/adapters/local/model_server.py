"""A model server of the Open Inference Protocol that does as its model says: for tests.

The model is a JSON file: load_seconds, loads_once (a file that its load waits for), exit (a code,
while loading), says (a text, on the way),
hang (in load, deaf to SIGTERM), unready (its load ends, but its model is not ready), ready_after
(seconds in which it answers, loads, and is not ready), predict_seconds, arrived (a file that a
prediction makes as it begins),
hold (a folder: it ends only once that has no file `<namespace>.<name>`), child (a process that
outlives it if nobody ends it), daemon (a file for the id of a process of its own session, parent
and environment).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ModelServer

    def do_GET(self) -> None:
        if self.path == "/v2":
            self._answer(200, {"name": self.server.name})
        elif self.path.endswith("/ready"):
            self._answer(200 if self.server.ready() else 400, {})
        elif self.path == "/environment":
            self._answer(200, dict(os.environ))
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.path.endswith(("/load", "/unload")):
            self.server.orders["unready"] = self.path.endswith("/unload")
        if "arrived" in self.server.orders and self.path.endswith("/infer"):
            Path(self.server.orders["arrived"]).touch()
        time.sleep(self.server.orders.get("predict_seconds", 0))
        self._answer(200, {"server": self.server.name, "bytes": len(body), "path": self.path})

    def log_message(self, _format: str, *arguments: Any) -> None:
        print(f'INFO: "{self.requestline}" {arguments[1]}', flush=True)

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Server", self.server.name)
        self.end_headers()
        self.wfile.write(body)


class ModelServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, name: str, orders: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.name = name
        self.orders = orders
        self.ready_at = time.monotonic() + orders.get("ready_after", 0)

    def ready(self) -> bool:
        return time.monotonic() >= self.ready_at and not self.orders.get("unready")


def load(model: str) -> dict[str, Any]:
    file = Path(model)
    orders = json.loads((next(file.iterdir()) if file.is_dir() else file).read_text())
    print(orders.get("says", "loading"), flush=True)
    if "daemon" in orders:
        start_daemon(Path(orders["daemon"]))
    if orders.get("hang"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    if orders.get("child"):
        subprocess.Popen(["sleep", "3600"])
    time.sleep(orders.get("load_seconds", 0))
    while "loads_once" in orders and not Path(orders["loads_once"]).exists():
        time.sleep(0.1)
    if "exit" in orders:
        sys.exit(orders["exit"])
    return orders


def start_daemon(file: Path) -> None:
    """As daemons do: fork, leave the session, fork; nothing of this process's environment."""
    if (middle := os.fork()) != 0:
        os.waitpid(middle, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    new = file.with_suffix(".new")
    new.write_text(str(os.getpid()))
    new.rename(file)
    os.execve("/bin/sleep", ["sleep", "3600"], {})


def held(orders: dict[str, Any], name: str) -> bool:
    namespace, service = name.split("/")[:2]
    return "hold" in orders and Path(orders["hold"], f"{namespace}.{service}").exists()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--name")
    parser.add_argument("--model")
    given = parser.parse_args()
    orders: dict[str, Any] = {}

    def end(*_: Any) -> None:
        while held(orders, given.name):
            time.sleep(0.01)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    orders |= load(given.model)
    ModelServer(given.port, given.name, orders).serve_forever()


if __name__ == "__main__":
    main()
