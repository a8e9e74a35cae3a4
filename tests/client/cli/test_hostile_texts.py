"""A server that sends control characters in every text cannot reach the terminal with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import Failure, InferenceService
from modelservice_client import FieldViolation, ModelServiceError, RolloutFailed
from modelservice_client.cli.connection import Output
from modelservice_client.cli.failures import report
from modelservice_client.cli.printing import (
    SERVICE_COLUMNS,
    Printer,
    service_name,
    service_row,
    show_service,
)
from modelservice_client.cli.progress import Progress
from modelservice_client.cli.screen import Screen

HOSTILE = "\x1b[2J\x1b]0;title\x07a\x9b31m\r\n::error::b\x00[red]"


def fill(message: Message, depth: int = 0) -> None:
    """Set every text of a message, and of the messages in it."""
    for field in message.DESCRIPTOR.fields:
        inner = field.message_type
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and not field.containing_oneof:
            if field.is_repeated:
                getattr(message, field.name).append(HOSTILE)
            else:
                setattr(message, field.name, HOSTILE)
        elif inner and not inner.full_name.startswith("google.") and depth < 4:
            if inner.GetOptions().map_entry or field.containing_oneof:
                continue
            value = getattr(message, field.name)
            fill(value.add() if field.is_repeated else value, depth + 1)


def hostile_service() -> InferenceService:
    service = InferenceService()
    fill(service)
    service.spec.model.storage_uri = HOSTILE
    assert service.status.failure.log_lines == [HOSTILE]
    return service


def errors(service: InferenceService) -> list[ModelServiceError]:
    failure = Failure()
    fill(failure)
    refused = ModelServiceError(
        HOSTILE,
        code=StatusCode.INVALID_ARGUMENT,
        reason=HOSTILE,
        details={HOSTILE: HOSTILE},
        violations=(FieldViolation(HOSTILE, HOSTILE),),
    )
    failed = RolloutFailed(HOSTILE, code=StatusCode.FAILED_PRECONDITION, failure=failure)
    failed.service = service
    return [refused, failed]


def show_progress(screen: Screen, service: InferenceService) -> None:
    with Progress(screen, HOSTILE) as progress:
        progress.service(service)
        progress.event("CREATED", HOSTILE)
        progress.trouble(HOSTILE)


def print_list(screen: Screen, service: InferenceService) -> None:
    for output in Output:
        Printer(screen, output).many([service], SERVICE_COLUMNS, service_row, service_name)


def report_errors(screen: Screen, service: InferenceService) -> None:
    for error in errors(service):
        report(screen, error, None, [HOSTILE])


SHOWN: list[Callable[[Screen, InferenceService], None]] = [
    show_service,
    show_progress,
    print_list,
    report_errors,
    lambda screen, service: screen.show(f"{service_name(service)} is ready"),
    lambda screen, service: screen.hints([f"  modelctl status {service_name(service)}"]),
]


@pytest.mark.parametrize("github", ["true", ""])
@pytest.mark.parametrize("show", SHOWN)
def test_no_text_of_a_server_acts_on_the_terminal_or_on_github(
    show: Callable[[Screen, InferenceService], None],
    github: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", github)
    show(Screen(), hostile_service())
    out, err = capsys.readouterr()
    printed = out + err
    assert "a ::error::b\\x00[red]" in printed or "\\u001b[2J" in printed
    lines = printed.split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.lstrip().startswith("::error::")] == []
