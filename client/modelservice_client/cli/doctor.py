"""Look at what is between modelctl and a server, and say what is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from google.protobuf.message import Message
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckResponse, HealthListRequest, HealthListResponse
from modelservice.v1.model_service_pb2 import ListRequest
from rich.text import Text

from modelservice_client import ModelServiceError, Rpc, rpcs
from modelservice_client.cli.connection import Connection, Output
from modelservice_client.cli.screen import facts
from modelservice_client.cli.session import Session
from modelservice_client.cli.text import one_line
from modelservice_client.cli.unreachable import cause_of
from modelservice_client.core.enum_names import enum_name
from modelservice_client.credentials import is_local, own_version

_HEALTH: Rpc[Any, Any] = Rpc("/grpc.health.v1.Health/List", HealthListRequest, HealthListResponse)
_SECONDS = 10.0
_NOT_OFFERED = "not offered by this server"
# What is wrong where List is refused.
_REFUSED = {StatusCode.UNAUTHENTICATED: "identity", StatusCode.PERMISSION_DENIED: "rights"}
_NO_RPC = "unknown: the API has no call for it yet"
_MARKS = {"ok": Text("ok", "bold green"), "failed": Text("FAILED", "bold red"), "": Text("-")}


@dataclass
class Check:
    """One thing that was looked at. `result` is ok, failed, or empty where nothing is judged."""

    name: str
    result: str
    detail: str


def doctor(session: Session) -> None:
    """Print every check. Raises what the server answered where a check failed."""
    checks: list[Check] = []
    error: ModelServiceError | None = None
    try:
        checks.extend(_checks(session))
    except ModelServiceError as failed:
        error = failed
        if session.heard:
            name = _REFUSED.get(failed.code, "services")
            checks.append(Check(name, "failed", one_line(failed.message)))
        else:
            checks.append(Check("connection", "failed", cause_of(failed)))
    if session.output is Output.TABLE:
        rows = [
            (check.name, Text.assemble(_MARKS[check.result], "  ", one_line(check.detail)))
            for check in checks
        ]
        session.screen.show(facts(rows))
    elif session.output is Output.NAME:
        for check in checks:
            if check.result == "failed":
                session.screen.result(check.name)
    else:
        session.printer.data([asdict(check) for check in checks])
    if error:
        raise error
    if any(check.result == "failed" for check in checks):
        raise ModelServiceError("the server is not healthy", code=StatusCode.UNAVAILABLE)


def _checks(session: Session) -> Iterator[Check]:
    options = session.connection
    yield Check("modelctl", "", f"version {own_version()}, API modelservice.v1")
    yield Check("server", "", f"{options.server}, from {session.given.source()}")
    yield Check("tls", "", _tls(options))
    began = time.monotonic()
    statuses = _health(session)
    session.heard = True
    yield Check("connection", "ok", f"answers in {(time.monotonic() - began) * 1000:.0f} ms")
    yield Check("version", "", _NO_RPC)
    if statuses is None:
        yield Check("health", "", _NOT_OFFERED)
    else:
        yield _judged("health", statuses, "")
        yield _judged("cluster", statuses, "cluster")
        yield (
            _judged("registry", statuses, "registry")
            if "registry" in statuses
            else Check("registry", "", "this server has none")
        )
    listed = session.client.call(
        rpcs.LIST, ListRequest(namespace=session.namespace, page_size=1), timeout=_SECONDS
    )
    seen = listed.view_age.ToTimedelta().total_seconds()
    yield Check(
        "services", "ok", f"{listed.total_size}; the cluster was heard from {seen:.1f} s ago"
    )
    yield Check("identity", "", f"{_NO_RPC}; {_credentials(options)}")
    yield Check("rights", "", f"{_NO_RPC}; listing is allowed")


def _health(session: Session) -> dict[str, str] | None:
    try:
        answer: Message = session.client.call(_HEALTH, HealthListRequest(), timeout=_SECONDS)
    except ModelServiceError as error:
        if error.code is StatusCode.UNIMPLEMENTED:
            return None
        raise
    assert isinstance(answer, HealthListResponse)
    kinds = HealthCheckResponse.ServingStatus
    return {name: enum_name(kinds, found.status, "") for name, found in answer.statuses.items()}


def _judged(name: str, statuses: dict[str, str], service: str) -> Check:
    status = statuses.get(service, "UNKNOWN")
    return Check(name, "ok" if status == "SERVING" else "failed", status)


def _credentials(options: Connection) -> str:
    files = [file for file in (options.token_file, options.cert) if file]
    return f"sent: {' and '.join(files)}" if files else "no token and no certificate is sent"


def _tls(options: Connection) -> str:
    if options.plaintext:
        return "off, by --plaintext or the context"
    others = options.ca or options.cert or options.server_name or options.plaintext is False
    if is_local(options.server) and not others:
        return "off, since the server is on this machine"
    return f"on, with the CAs of {options.ca or 'this system'}"
