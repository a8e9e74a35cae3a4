"""Print why a call or a rollout failed."""

from __future__ import annotations

from collections.abc import Sequence

from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import Failure
from rich.text import Text

from modelservice_client import (
    ModelServiceError,
    NotReachable,
    RolledBack,
    RolloutFailed,
    Timeout,
)
from modelservice_client.cli.progress import reason_of, state_text
from modelservice_client.cli.request_file import RequestFile
from modelservice_client.cli.screen import Screen, facts
from modelservice_client.cli.text import one_line
from modelservice_client.cli.unreachable import Endpoint

_MOST_DETAILS = 20
_RETRYING = "yes: the cluster tries the same again"


def failure_rows(failure: Failure) -> list[tuple[str, str | Text]]:
    """Return what is known of a failure, by names."""
    where = "/".join(part for part in (failure.pod, failure.container) if part)
    return [
        ("message", failure.message),
        ("remedy", Text(one_line(failure.remedy), "green")),
        ("container", where),
        ("exit code", str(failure.exit_code) if failure.HasField("exit_code") else ""),
        ("restarts", str(failure.restart_count or "")),
        ("retrying", _RETRYING if failure.retrying else ""),
    ]


def report(
    screen: Screen,
    error: ModelServiceError,
    file: RequestFile | None = None,
    going_on: Sequence[str] = (),
    endpoint: Endpoint | None = None,
    *,
    timeout: float | None = None,
) -> None:
    """Print an error of the server: what failed, the fields, the cause, and how to go on.

    `timeout`: the seconds of --timeout, if they have ended the attempts.
    """
    endpoint = endpoint or Endpoint()
    violations = [
        f"{file.place_of(path) + ': ' if file else ''}{path}: {description}"
        for path, description in error.violations
    ]
    failure, service = error.failure, error.service
    name = f"{service.namespace}/{service.name}" if service else ""
    unreachable = _unreachable(error)
    rollback = _rollback_of(error)
    details = list(violations)
    rows: list[tuple[str, str | Text]] = [("field", line) for line in violations]
    if failure:
        title = text = f"{name or 'the rollout'} failed: {reason_of(failure)}"
        details += [failure.message, f"remedy: {failure.remedy}" if failure.remedy else ""]
        details.append(f"rollback: {rollback}" if rollback else "")
        rows += failure_rows(failure)
        if failure.retrying:
            rows[-1] = ("retrying", f"{_RETRYING}; this command has ended")
        rows.append(("rollback", rollback))
    elif unreachable:
        title = "no connection"
        text = endpoint.describe(unreachable)
        rows.append(("remedy", Text(endpoint.remedy_of(unreachable), "green")))
    else:
        title = error.reason or error.code.name
        text = f"{title}: {_message_of(error)}"
        title = f"{name}: {title}" if name else title
        rows += _further_details(error)
        rows.append(("remedy", Text(endpoint.credentials_remedy(error), "green")))
    if timeout is not None:
        late = f"not decided within the timeout of {timeout:g} s"
        text = late if isinstance(error, Timeout) and not unreachable else f"{late}; {text}"
    screen.error(text, title, [line for line in details if line])
    if service and service.HasField("status") and isinstance(error, Timeout):
        rows.append(("state", state_text(service)))
    if service and service.status.serving and failure and not isinstance(error, RolledBack):
        rows.append(("serving", "an older rollout serves"))
    screen.note(facts(rows))
    if failure and failure.log_lines:
        with screen.section(f"log of {failure.container or 'the model server'}"):
            screen.log(failure.log_lines)
    if error.earlier_attempt_lost:
        screen.note("An attempt was sent and not answered, and may have been done.")
    if unreachable or timeout is not None or (rollback and not isinstance(error, RolledBack)):
        screen.hints(going_on)


def _rollback_of(error: ModelServiceError) -> str:
    """Say what became of the rollback after a failure; empty where none was asked for."""
    if isinstance(error, RolledBack):
        where = f"revision {error.revision}" if error.revision else "the last one that was ready"
        return f"done: {where} serves again"
    if not isinstance(error, RolloutFailed) or error.rollback_error is None:
        return ""
    why = error.rollback_error
    if isinstance(why, RolloutFailed):
        return f"failed too: {reason_of(why.failure)}: {why.failure.message}"
    if isinstance(why, NotReachable | Timeout):
        return f"not decided: {why.message}"
    return f"none: {why.reason or why.code.name}: {why.message}"


def _unreachable(error: ModelServiceError) -> NotReachable | None:
    """Return the lost connection that the error is, or that a wait has ended with."""
    if not isinstance(error, Timeout):
        return error if isinstance(error, NotReachable) else None
    last = error.__cause__
    # gRPC itself ends a watch with DEADLINE_EXCEEDED where its time is over.
    lost = isinstance(last, NotReachable) and last.code is not StatusCode.DEADLINE_EXCEEDED
    return last if isinstance(last, NotReachable) and lost else None


def _message_of(error: ModelServiceError) -> str:
    if error.violations and all(
        violation.description in error.message for violation in error.violations
    ):
        # The lines that follow say the same, with the place of each field.
        return "the request is refused, and nothing was written"
    return error.message


def _further_details(error: ModelServiceError) -> list[tuple[str, str | Text]]:
    """Return the details that the message does not have."""
    found = [(name, value) for name, value in error.details.items() if value not in error.message]
    return list(found[:_MOST_DETAILS])
