"""One run of a command: its client, what it prints, and the exit code of what goes wrong."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import FrameType, TracebackType
from typing import Any, TypeVar

import typer
from google.protobuf.message import Message
from modelservice.v1.inference_service_pb2 import InferenceService, InferenceServiceSpec

from modelservice_client import (
    Client,
    ModelServiceError,
    NotReachable,
    Retrying,
    RolledBack,
    Rpc,
    Tls,
)
from modelservice_client.cli.connection import Connection, Output
from modelservice_client.cli.contexts import ConfigError
from modelservice_client.cli.failures import report
from modelservice_client.cli.printing import Printer
from modelservice_client.cli.progress import Progress
from modelservice_client.cli.request_file import FileError, RequestFile, UnreadableFileError
from modelservice_client.cli.request_flags import UsageError
from modelservice_client.cli.screen import Screen
from modelservice_client.cli.text import one_line
from modelservice_client.cli.unreachable import Endpoint, cause_of
from modelservice_client.core.awaited import ready_seconds
from modelservice_client.credentials import is_local

NO_CONNECTION = WRONG_FILE = 1
WRONG_USAGE = 2
TIMED_OUT = 68
SERVER_WENT_AWAY = 78
# 64 and no code of gRPC: the highest one is 16.
ROLLED_BACK = 81
INTERRUPTED = 130
TERMINATED = 143
_CALL_SECONDS = 60.0
_OF_THE_LIBRARY = ", or allow it with plaintext_token=True"

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


class Terminated(BaseException):
    """SIGTERM came."""


class Session:
    """Entered by a command. What is raised meanwhile is printed, and ends in its exit code, as
    docs/ci.md lists them."""

    def __init__(self, connection: Connection) -> None:
        self.given = connection
        self.screen = Screen()
        # Which line of a file has the field that the server refuses.
        self.file: RequestFile | None = None
        # Lines that say how to go on after Ctrl-C, a timeout, or a lost server.
        self.going_on: Sequence[str] = ()
        self.on_retry: Callable[[str], None] = self._note_retry
        # Whether a server has answered, and the --timeout that bounds the command.
        self.heard = False
        self.timeout: float | None = None
        self._noted = ""
        self._on_sigterm: Any = signal.SIG_DFL

    @cached_property
    def connection(self) -> Connection:
        """The options, completed from the environment and the context."""
        return self.given.resolved()

    @cached_property
    def _endpoint(self) -> Endpoint:
        given = self.connection
        tls = bool(given.ca or given.cert or given.server_name) or not is_local(given.server)
        return Endpoint(
            given.server,
            tls=tls if given.plaintext is None else not given.plaintext,
            certificate=bool(given.cert),
            token=bool(given.token_file),
        )

    @property
    def namespace(self) -> str:
        """The namespace to use; empty for the server's own."""
        return self.connection.namespace

    @property
    def output(self) -> Output:
        """How to print the result."""
        return self.given.output

    @property
    def seconds(self) -> float:
        """How long one call may take with its attempts, where no --timeout says it."""
        return max(_CALL_SECONDS, self.connection.patience)

    def call(self, rpc: Rpc[Req, Res], request: Req) -> Res:
        """Make a call that no --timeout bounds."""
        return self.client.call(rpc, request, timeout=self.seconds)

    def pages(self, rpc: Rpc[Req, Res], request: Req) -> Iterator[Res]:
        """Iterate the pages of a list."""
        return self.client.pages(rpc, request, timeout=self.seconds)

    def ends_after(self, timeout: float | None, spec: InferenceServiceSpec | None = None) -> float:
        """Return the monotonic time at which the command's --timeout is over. Without one it is how
        long the rollout of a spec is waited for by default."""
        self.timeout = ready_seconds(spec) if timeout is None else timeout
        return time.monotonic() + self.timeout

    @cached_property
    def printer(self) -> Printer:
        """Prints results."""
        return Printer(self.screen, self.output)

    @cached_property
    def client(self) -> Client:
        """The client of the server. Raises UsageError, before anything is sent."""
        options = self.connection
        if not options.server:
            raise UsageError(
                "no server is named: give --server host:port, set MODELSERVICE_SERVER, or add a"
                " context with `modelctl config set NAME --server host:port`"
            )
        tls: Tls | bool | None = None
        if options.plaintext:
            tls = False
            if options.ca or options.cert or options.key or options.server_name:
                raise UsageError("--ca, --cert, --key and --server-name need TLS, not --plaintext")
        elif bool(options.cert) != bool(options.key):
            raise UsageError("--cert and --key must be given both or neither")
        elif options.ca or options.cert or options.key or options.server_name:
            tls = Tls(
                ca_file=options.ca or None,
                cert_file=options.cert or None,
                key_file=options.key or None,
                server_name=options.server_name,
            )
        elif options.plaintext is False:
            tls = True
        if options.as_groups and not options.as_user:
            raise UsageError("--as-group needs --as")
        if not all(name.isascii() and name.isprintable() for _, name in options.metadata()):
            raise UsageError("--as and --as-group must be printable ASCII")
        try:
            return Client(
                options.server,
                tls=tls,
                token_file=options.token_file or None,
                metadata=options.metadata(),
                patience=options.patience,
                on_retry=self._retrying,
            )
        except (ValueError, OSError) as error:
            problem = (isinstance(error, OSError) and error.strerror) or str(error)
            # The library names its arguments.
            problem = re.sub("^(ca|cert|key)_file ", r"--\1 ", problem)
            raise UsageError(problem.removesuffix(_OF_THE_LIBRARY)) from error

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """Show progress, with what goes wrong in between in its place."""
        with Progress(self.screen, title) as progress:
            before, self.on_retry = self.on_retry, progress.trouble
            try:
                yield progress
            finally:
                self.on_retry = before

    def shown_by(
        self, progress: Progress, rollout_id: str = ""
    ) -> Callable[[InferenceService], None]:
        """Return what shows each state of a service, or of this rollout alone."""

        def show(service: InferenceService) -> None:
            self.heard = True
            if rollout_id in ("", service.rollout_id):
                progress.service(service)

        return show

    def __enter__(self) -> Session:
        if threading.current_thread() is threading.main_thread():
            self._on_sigterm = signal.signal(signal.SIGTERM, _terminate)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)
        code = None if error is None else self._code_of(error)
        if "client" in self.__dict__:
            if code in (INTERRUPTED, TERMINATED):
                _silence_threads()
            self.client.close()
        if code is not None:
            raise typer.Exit(code) from error

    def _code_of(self, error: BaseException) -> int | None:
        """Print the error and return its exit code; None if it is not one of ours."""
        if isinstance(error, ModelServiceError):
            service = error.restored if isinstance(error, RolledBack) else error.service
            if service is not None and self.output in (Output.JSON, Output.YAML):
                self.printer.message(service)
            timeout = self.timeout if error.timed_out else None
            self._endpoint.heard = self.heard
            report(
                self.screen,
                error,
                self.file,
                self.going_on,
                self._endpoint,
                timeout=timeout,
            )
            return TIMED_OUT if timeout is not None else self._exit_code(error)
        if isinstance(error, FileError):
            for problem in error.problems:
                self.screen.error(problem, "the request is wrong")
            return WRONG_FILE
        if isinstance(error, UnreadableFileError):
            self.screen.error(str(error), "the request is wrong")
            return WRONG_USAGE
        if isinstance(error, (UsageError, ConfigError)):
            self.screen.error(str(error), "wrong usage")
            return WRONG_USAGE
        if isinstance(error, (KeyboardInterrupt, Terminated)):
            self.screen.note("interrupted")
            self.screen.hints(self.going_on)
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else TERMINATED
        return None

    def _exit_code(self, error: ModelServiceError) -> int:
        if isinstance(error, NotReachable):
            return SERVER_WENT_AWAY if self.heard else NO_CONNECTION
        if isinstance(error, RolledBack):
            return ROLLED_BACK
        return 64 + int(error.code.value[0])

    def _retrying(self, retrying: Retrying) -> None:
        if not isinstance(retrying.error, NotReachable):
            self.heard = True
            self.on_retry(f"{retrying.method}: {retrying.error.message}")
        else:
            self._endpoint.note(retrying.error)
            self._endpoint.heard = self.heard
            self.on_retry(f"{retrying.method} was not answered: {cause_of(retrying.error)}")

    def _note_retry(self, text: str) -> None:
        if text != self._noted:
            self._noted = text
            self.screen.note(f"trying again: {one_line(text)}")


def _silence_threads() -> None:
    """Drop what gRPC's threads say of calls that a signal has cut in the middle."""
    threading.excepthook = lambda _: None
    logging.getLogger("grpc").addHandler(logging.NullHandler())


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
