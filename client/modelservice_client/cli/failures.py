"""Print why a call or a rollout failed."""

from __future__ import annotations

from collections.abc import Sequence

from modelservice.v1.inference_service_pb2 import Failure, InferenceService
from rich.text import Text

from modelservice_client import ModelServiceError, NotReachable, Timeout
from modelservice_client.cli.progress import reason_of, state_text
from modelservice_client.cli.request_file import RequestFile
from modelservice_client.cli.screen import Screen, facts
from modelservice_client.cli.text import one_line

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
    file: RequestFile | None,
    going_on: Sequence[str],
) -> None:
    """Print an error of the server: what failed, the fields, the cause, and how to go on."""
    violations = [
        f"{file.place_of(path) + ': ' if file else ''}{path}: {description}"
        for path, description in error.violations
    ]
    failure = error.failure
    service = error.service
    name = f"{service.namespace}/{service.name}" if service else ""
    code = error.reason or error.code.name
    details = list(violations)
    if failure:
        title = f"{name or 'the rollout'} failed: {reason_of(failure)}"
        text = title
        details += [failure.message, f"remedy: {failure.remedy}" if failure.remedy else ""]
    else:
        title = f"{name}: {code}" if name else code
        text = f"{code}: {error.message}"
    screen.error(text, title, [line for line in details if line])
    rows: list[tuple[str, str | Text]] = [("field", line) for line in violations]
    if failure:
        rows += failure_rows(failure)
    else:
        rows += list(error.details.items())[:_MOST_DETAILS]
    if service and service.HasField("status") and (failure or isinstance(error, Timeout)):
        rows.append(("state", _state(service)))
    screen.note(facts(rows))
    if failure and failure.log_lines:
        with screen.section(f"log of {failure.container or 'the model server'}"):
            screen.log(failure.log_lines)
    if error.earlier_attempt_lost:
        screen.note("An attempt was sent and not answered, and may have been done.")
    if isinstance(error, (NotReachable, Timeout)):
        screen.hints(going_on)


def _state(service: InferenceService) -> Text:
    serving = ", and an older rollout serves" if service.status.serving else ""
    return Text.assemble(state_text(service), serving)
