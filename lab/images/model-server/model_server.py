"""A small model server, for tests: speaks KServe's HTTP protocols v1 and v2, and fails on order.

Version N of its model predicts N times the sum of an instance's numbers. `--help` lists what it can
do wrong. On SIGTERM it goes on answering while its address is taken out of use, then exits with 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 8080
STOPPING = 8.0  # seconds in which clients are still sent to a pod that ends, on a busy machine
MEBIBYTE = 2**20


class Model:
    """What is served, and whether it is loaded."""

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.loaded = threading.Event()

    def predict(self, instances: list[list[float]]) -> list[float]:
        """A number for each instance."""
        return [self.version * sum(instance) for instance in instances]


class Handler(BaseHTTPRequestHandler):
    """Answers for `model`; everything about it is 503 until it is loaded."""

    model: Model
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v2/health/live":
            self._answer(HTTPStatus.OK, {"live": True})
        elif self.path == "/v2/health/ready" or self.path in self._paths("", "/ready"):
            loaded = self.model.loaded.is_set()
            status = HTTPStatus.OK if loaded else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, {"name": self.model.name, "ready": loaded})
        else:
            self._not_found()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path not in self._paths(":predict", "/infer"):
            self._not_found()
        elif not self.model.loaded.is_set():
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the model is not loaded"})
        elif self.path.startswith("/v1/"):
            self._answer(HTTPStatus.OK, _v1(self.model, json.loads(body)))
        else:
            self._answer(HTTPStatus.OK, _v2(self.model, json.loads(body)))

    def _paths(self, v1_end: str, v2_end: str) -> tuple[str, str, str]:
        v1 = f"/v1/models/{self.model.name}{v1_end}"
        v2 = f"/v2/models/{self.model.name}"
        return v1, v2 + v2_end, f"{v2}/versions/{self.model.version}{v2_end}"

    def _not_found(self) -> None:
        self._answer(HTTPStatus.NOT_FOUND, {"error": f"{self.path} is not here"})

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """One thread a connection; an end does not wait for idle ones."""

    daemon_threads = True
    block_on_close = False


def _v1(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    return {"predictions": model.predict(request["instances"])}


def _v2(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    given = request["inputs"][0]
    width = given["shape"][-1]
    numbers = list(itertools.chain(*given["data"])) if _nested(given) else given["data"]
    rows = [numbers[start : start + width] for start in range(0, len(numbers), width)]
    answers = model.predict(rows)
    output = {"name": "predict", "shape": [len(answers)], "datatype": "FP64", "data": answers}
    return {"model_name": model.name, "model_version": str(model.version), "outputs": [output]}


def _nested(given: dict[str, Any]) -> bool:
    return bool(given["data"]) and isinstance(given["data"][0], list)


def main() -> None:
    """Serve, or fail, as the arguments say."""
    options = _options()
    model = Model(options.model_name, options.version)
    signal.signal(signal.SIGTERM, lambda *_: _later(STOPPING, 0))
    if options.exit is not None:
        time.sleep(options.after)
        _fail(options.log, options.exit)
    if options.never_listens:
        _tell(options.log)
        threading.Event().wait()
    _misbehave(options, model)
    Handler.model = model
    with Server(("", PORT), Handler) as server:
        print(f"listening on {PORT}, version {model.version} of {model.name}", file=sys.stderr)
        server.serve_forever()


def _misbehave(options: argparse.Namespace, model: Model) -> None:
    if options.loads_nothing:
        _tell(options.log)
    else:
        threading.Timer(options.load_after, model.loaded.set).start()
    if options.flap is not None:
        threading.Timer(options.flap, _fail, [options.log, 1]).start()
    if options.eat:
        _tell(options.log)
        threading.Thread(target=_eat, daemon=True).start()


def _eat() -> None:
    kept = []
    while True:
        kept.append(b"\1" * (16 * MEBIBYTE))
        time.sleep(0.1)


def _fail(log: str, code: int) -> None:
    _tell(log)
    os._exit(code)


def _tell(log: str) -> None:
    if log:
        print(log, file=sys.stderr, flush=True)


def _later(seconds: float, code: int) -> None:
    threading.Timer(seconds, os._exit, [code]).start()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_name", default="model", help="the model's name (model)")
    parser.add_argument("--version", type=int, default=os.environ.get("MODEL_VERSION", "1"))
    parser.add_argument("--log", default="", help="a line printed just before it misbehaves")
    parser.add_argument("--after", type=float, default=0.0, help="seconds until --exit")
    parser.add_argument("--load-after", type=float, default=0.0, help="seconds until it is ready")
    wrong = parser.add_mutually_exclusive_group()
    wrong.add_argument("--exit", type=int, help="exit with this code before the port is open")
    wrong.add_argument("--flap", type=float, help="serve, and exit with 1 after these seconds")
    wrong.add_argument("--loads-nothing", action="store_true", help="open the port, never ready")
    wrong.add_argument("--never-listens", action="store_true", help="run, and open no port")
    wrong.add_argument("--eat", action="store_true", help="serve, and take memory without end")
    return parser.parse_args()


if __name__ == "__main__":
    main()
