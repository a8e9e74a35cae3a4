"""Run credential plugins: programs that print an ExecCredential."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from server.adapters.kserve.connection.yaml_document import (
    ConfigurationUnusable,
    Fields,
    parse_printed,
)
from server.child_process import ChildProcess, OutputPipe
from server.domain.rollout.container_output import OutputGate, gate_for

RUN_TIMEOUT = 30.0
LARGEST_OUTPUT = 2**20
_LONGEST_LINE = 200
# Only this much of a line is searched for secrets, and shown.
_LONGEST_SEARCHED = 1000
_STDERR_KEPT = 2**13
_READ_SIZE = 2**16

_GROUP = "client.authentication.k8s.io"
_VERSIONS = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})"
)
_NEVER, _IF_AVAILABLE, _ALWAYS = "Never", "IfAvailable", "Always"

# Possible secrets in a plugin's output: tokens by their form, values by their name.
_TOKEN = re.compile(
    r"eyJ[\w.+/=-]+"
    r"|\b(?=[\w+=-]*\d)(?=[\w+=-]*[a-z])(?=[\w+=-]*[A-Z])[\w+=-]{20,}"
    r"|\b[0-9a-fA-F]{32,}\b"
    r"|(?<=://)[^/\s@]+(?=@)"
    r"|(?<=[Bb]earer )\S+"
)
_NAMED = re.compile(
    r"""((?:token|password|secret|key)\w*["']?\s*(?:=|:(?=\s*\S*\d))\s*["']?)[^\s"']{4,}""",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """A plugin's credentials; `certificate` and its key are PEM."""

    token: str = field(repr=False)
    certificate: tuple[bytes, bytes] | None = field(repr=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A user's `exec`; `command` is absolute, or a name to find on the PATH.

    `field_path` names it in messages.
    """

    field_path: str
    command: str
    args: tuple[str, ...] = field(default=(), repr=False)
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    api_version: str = ""
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""

    def check(self) -> None:
        """Raise ConfigurationUnusable for settings with which kubectl runs no plugin."""
        if not self.command:
            raise self._invalid("command", "must be set")
        if self.api_version not in _VERSIONS:
            raise self._invalid("apiVersion", f"must be {' or '.join(_VERSIONS)}")
        if not all(name for name, _ in self.env):
            raise self._invalid("env", "must have a name for each variable")
        allowed = (_NEVER, _IF_AVAILABLE, _ALWAYS)
        optional = self.api_version != _VERSIONS[0]
        if self.interactive_mode not in allowed and (self.interactive_mode or not optional):
            raise self._invalid("interactiveMode", f"must be one of {', '.join(allowed)}")

    async def run(
        self, cluster: Mapping[str, Any], environment: Mapping[str, str]
    ) -> ExecCredential:
        """Run the plugin without a terminal, and parse its output.

        `cluster` is passed to a plugin that asks for it; `environment` is this process's own.
        Raises ConfigurationUnusable with the plugin's name and its last line on stderr.
        """
        if self.interactive_mode == _ALWAYS:
            raise self._invalid("interactiveMode", "Always needs a terminal, and there is none")
        spec = {"interactive": False} | (
            {"cluster": dict(cluster)} if self.provide_cluster_info else {}
        )
        info = {"kind": "ExecCredential", "apiVersion": self.api_version, "spec": spec}
        env = {**environment, **dict(self.env), "KUBERNETES_EXEC_INFO": json.dumps(info)}
        output = await self._output(env, environment)
        try:
            return self._read(output)
        except ConfigurationUnusable as e:
            raise self._failed(f"printed no credentials: {e}") from e

    async def _output(self, env: Mapping[str, str], environment: Mapping[str, str]) -> bytes:
        program = shutil.which(self.command, path=environment.get("PATH", os.defpath))
        if program is None:
            hint = _line(self.install_hint.encode(), OutputGate())
            raise self._failed(f"is not found{f': {hint}' if hint else ''}")
        stdout, stderr = asyncio.StreamReader(), asyncio.StreamReader()
        with ExitStack() as pipes:
            try:
                with ExitStack() as theirs:
                    process = ChildProcess(
                        [program, *self.args],
                        stdout=_pipe_into(stdout, pipes, theirs),
                        stderr=_pipe_into(stderr, pipes, theirs),
                        environment=env,
                        own_session=True,
                    )
            except OSError as e:
                raise self._failed(f"cannot be run: {e.strerror}") from e
            ended = False
            try:
                async with asyncio.timeout(RUN_TIMEOUT):
                    output, errors, code = await asyncio.gather(
                        _head(stdout), _tail(stderr), process.wait()
                    )
                ended = True
            except TimeoutError as e:
                raise self._failed(f"did not end within {RUN_TIMEOUT:g} s") from e
            except _TooLong as e:
                raise self._failed(f"printed more than {LARGEST_OUTPUT} bytes") from e
            finally:
                if not ended:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
        if code:
            last = _line(errors, self._gate())
            raise self._failed(f"ended with {code}{f': {last}' if last else ''}")
        return output

    def _read(self, output: bytes) -> ExecCredential:
        document = parse_printed(output)
        if not isinstance(document, dict):
            raise ConfigurationUnusable("it must be an ExecCredential")
        fields = Fields(document, "ExecCredential")
        if fields.string("kind") != "ExecCredential":
            raise fields.invalid("kind", "must be ExecCredential")
        if fields.string("apiVersion") != self.api_version:
            raise fields.invalid("apiVersion", f"must be {self.api_version}")
        status = fields.fields("status")
        token = status.string("token")
        pem, key = status.string("clientCertificateData"), status.string("clientKeyData")
        if not (token or pem or key):
            raise fields.invalid("status", "must have a token or a client certificate")
        if bool(pem) != bool(key):
            raise fields.invalid("status", "must have a client certificate and its key")
        if not token.isprintable():
            raise status.invalid("token", "must not have a line break or control character")
        return ExecCredential(
            token, (pem.encode(), key.encode()) if pem else None, _expiration(status)
        )

    def _gate(self) -> OutputGate:
        """Return the gate that redacts the values of the plugin's own settings."""
        flags = list(pairwise(self.args))
        flags += [(name, value) for name, _, value in (arg.partition("=") for arg in self.args)]
        return gate_for([*self.env, *flags])

    def _failed(self, problem: str) -> ConfigurationUnusable:
        return ConfigurationUnusable(f"{self.field_path}: the plugin {self.command} {problem}")

    def _invalid(self, field: str, problem: str) -> ConfigurationUnusable:
        return ConfigurationUnusable(f"{self.field_path}.{field}: {problem}")


def _pipe_into(reader: asyncio.StreamReader, ours: ExitStack, theirs: ExitStack) -> int:
    """Open a pipe from a process to a reader. Return the process's end.

    A child of the process may keep it open for ever.
    """
    pipe = OutputPipe(reader.feed_data, reader.feed_eof)
    ours.callback(pipe.close)
    # Who still reads ends too.
    ours.callback(reader.feed_eof)
    theirs.callback(os.close, pipe.child_end)
    return pipe.child_end


class _TooLong(Exception):
    pass


async def _head(stream: asyncio.StreamReader) -> bytes:
    read = b""
    while chunk := await stream.read(_READ_SIZE):
        read += chunk
        if len(read) > LARGEST_OUTPUT:
            raise _TooLong
    return read


async def _tail(stream: asyncio.StreamReader) -> bytes:
    read = b""
    while chunk := await stream.read(_READ_SIZE):
        read = (read + chunk)[-_STDERR_KEPT:]
    return read


def _line(text: bytes, gate: OutputGate) -> str:
    """Return the last line that is not empty, redacted and cut."""
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    if not lines or (len(lines) == 1 and len(text) >= _STDERR_KEPT):
        return ""  # a line without its beginning cannot be redacted
    line = gate.shown(lines[-1])
    if len(line) > _LONGEST_SEARCHED:
        # Drop the word that is cut: half a secret does not look like one.
        line = f"{line[:_LONGEST_SEARCHED].rpartition(' ')[0]} ..."
    shown = _NAMED.sub(r"\1***", _TOKEN.sub("***", line))
    return shown if len(shown) <= _LONGEST_LINE else f"{shown[:_LONGEST_LINE]}..."


def _expiration(status: Fields) -> datetime | None:
    if status.raw("expirationTimestamp") is None:
        return None
    text = status.string("expirationTimestamp")
    try:
        # kubectl accepts only this one of the forms that Python parses.
        if _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise status.invalid("expirationTimestamp", "must be a time such as 2030-01-31T12:00:00Z")
