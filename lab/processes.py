"""The lab's processes: started, waited for, stopped, frozen and swept up one by one."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STOP_GRACE = 3.0  # seconds between SIGTERM and SIGKILL, where nothing else is said


class ComponentFailed(RuntimeError):
    """A component ended or did not become ready in time; the message has its log's last lines."""


def wait_until(condition: Callable[[], object], what: str, timeout: float = 100.0) -> None:
    """Return once `condition` holds, asked every 50 ms; TimeoutError naming `what` after `timeout`
    seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a GET gives 200 within a second; no proxy is used, certificates are not looked at."""
    untrusting = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), untrusting)
    try:
        with opener.open(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def accepts(port: int, address: str = "127.0.0.1") -> bool:
    """Whether something listens there."""
    with socket.socket() as sock:
        return sock.connect_ex((address, port)) == 0


class Sweeper:
    """The process that ends all others and removes `folder` once this one is gone. Where somebody
    ends it before, another takes its place and is told everything again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: list[str] = []
        self._process = self._begin()

    def tell(self, order: str) -> None:
        """Send one line of the protocol in sweeper.py."""
        self._told.append(order)
        if order.startswith("-"):
            # What is over need not be told to a successor.
            self._told = [each for each in self._told if each[1:] != order[1:]]
        try:
            self._send(order)
        except BrokenPipeError:
            self._succeed()

    def close(self) -> None:
        """Sweep now; returns when it is done."""
        if self._process.poll() is not None:
            self._succeed()
        self._process.communicate()

    def _begin(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", Path(__file__).with_name("sweeper.py"), self._folder],
            stdin=subprocess.PIPE,
            bufsize=0,
            # Of its own session: Ctrl-C must not end it before the components.
            start_new_session=True,
        )

    def _succeed(self) -> None:
        self._process.communicate()
        self._process = self._begin()
        for order in self._told:
            self._send(order)

    def _send(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())


class Component:
    """One program of the control plane, in a process group of its own, with a log of its own.

    `start` and `stop` may follow each other any number of times: same arguments, same ports, same
    data. `log` is appended to.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        logs: Path,
        sweeper: Sweeper,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        stop_grace: float = STOP_GRACE,
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._argv = list(argv)
        self._env = {**os.environ, **(env or {})}
        self._sweeper = sweeper
        self._ready = ready
        self._stop_grace = stop_grace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process; RuntimeError when it was stopped or never started."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def start(self, timeout: float = 100.0) -> None:
        """Start it and return when it is ready. Raises ComponentFailed."""
        self.launch()
        self.wait_ready(timeout)

    def launch(self) -> None:
        """Start it without waiting."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sweeper.tell(f"+{self._process.pid}")

    def wait_ready(self, timeout: float = 100.0) -> None:
        """Return when it is ready. Raises ComponentFailed when it ended, or after `timeout` s."""
        try:
            wait_until(self._ready_or_ended, f"{self.name} ready", timeout)
        except TimeoutError as error:
            raise ComponentFailed(f"{error}\n{self.log_tail()}") from None

    def stop(self, grace: float | None = None) -> int | None:
        """End it with SIGTERM, and with SIGKILL after `grace` seconds (None: what it was made
        with); its exit code (of a signal: negative), None when it was not running."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        self._signal(process, signal.SIGTERM)
        self._signal(process, signal.SIGCONT)
        try:
            process.wait(self._stop_grace if grace is None else grace)
        except subprocess.TimeoutExpired:
            self._signal(process, signal.SIGKILL)
            process.wait()
        self._sweeper.tell(f"-{process.pid}")
        return process.returncode

    def kill(self) -> None:
        """End it with SIGKILL, as when a machine dies."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        self._signal(self._process, signal.SIGKILL)
        self.stop()

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself, or was never started."""
        return self._process is None or self._process.poll() is not None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, a black hole until `thaw`."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.killpg(self.pid, signal.SIGCONT)

    def log_tail(self, lines: int = 20) -> str:
        """Where its log is, and the last lines of it."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- {self.log}\n" + "\n".join(text.splitlines()[-lines:])

    def _ready_or_ended(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise ComponentFailed(f"{self.name} ended with code {code}\n{self.log_tail()}")
        return self._ready()

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
