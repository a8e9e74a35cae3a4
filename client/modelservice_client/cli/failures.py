"""Print why a call or a rollout failed."""

from __future__ import annotations

from collections.abc import Sequence

from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import Failure, InferenceService
from rich.text import Text

from modelservice_client import ModelServiceError, NotReachable, Timeout
from modelservice_client.cli.progress import reason_of, state_text
from modelservice_client.cli.request_file import RequestFile
from modelservice_client.cli.screen import Screen, facts
from modelservice_client.cli.text import one_line
from modelservice_client.cli.unreachable import describe, remedy_of

_MOST_DETAILS = 20
_RETRYING = "yes: the cluster tries the same again; this command has ended"


def failure_rows(failure: Failure) -> list[tuple[str, str | Text]]:
    """Return what is known of a failure, by names."""
    where = "/".join(part for part in (failure.pod, failure.container) if part)
    return [
        ("reason", Text(reason_of(failure), "bold")),
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
    server: str = "",
    *,
    heard: bool = False,
    timed_out: bool = False,
) -> None:
    """Print an error of the server: what failed, the fields, the cause, and how to go on.

    `server` is its address, `heard` whether it has answered before, `timed_out` whether --timeout
    has ended the attempts.
    """
    violations = [
        f"{file.place_of(path) + ': ' if file else ''}{path}: {description}"
        for path, description in error.violations
    ]
    failure, service = error.failure, error.service
    name = f"{service.namespace}/{service.name}" if service else ""
    unreachable = _unreachable(error)
    details = list(violations)
    rows: list[tuple[str, str | Text]] = [("field", line) for line in violations]
    if failure:
        title = text = f"{name or 'the rollout'} failed: {reason_of(failure)}"
        details += [failure.message, f"remedy: {failure.remedy}" if failure.remedy else ""]
        rows += failure_rows(failure)
    elif unreachable:
        title = "no connection"
        text = describe(unreachable, server, heard)
        rows.append(("remedy", Text(remedy_of(unreachable), "green")))
    else:
        title = error.reason or error.code.name
        text = f"{title}: {_message_of(error)}"
        title = f"{name}: {title}" if name else title
        rows += _further_details(error)
    if timed_out and not (isinstance(error, Timeout) and not unreachable):
        text = f"not decided within the timeout; {text}"
    screen.error(text, title, [line for line in details if line])
    if service and service.HasField("status") and (failure or isinstance(error, Timeout)):
        rows.append(("state", _state(service)))
    screen.note(facts(rows))
    if failure and failure.log_lines:
        with screen.section(f"log of {failure.container or 'the model server'}"):
            screen.log(failure.log_lines)
    if error.earlier_attempt_lost:
        screen.note("An attempt was sent and not answered, and may have been done.")
    if unreachable or timed_out:
        screen.hints(going_on)


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


def _state(service: InferenceService) -> Text:
    serving = ", and an older rollout serves" if service.status.serving else ""
    return Text.assemble(state_text(service), serving)
