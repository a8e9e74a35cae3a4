"""Print results: tables for people, JSON, YAML and names for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from modelservice.v1.inference_service_pb2 import InferenceService
from rich.text import Text

from modelservice_client.cli.connection import Output
from modelservice_client.cli.failures import failure_rows
from modelservice_client.cli.progress import reason_of, replicas_of, state_text
from modelservice_client.cli.screen import Screen, facts, listing
from modelservice_client.cli.text import one_line

Cells = Sequence[str | Text]


class Printer:
    """Prints messages of the API in the way that --output names."""

    def __init__(self, screen: Screen, output: Output) -> None:
        self._screen = screen
        self._output = output

    def message(self, message: Message) -> None:
        """Print one message for programs."""
        self.data(_as_dict(message))

    def one(self, message: Message, name: str, for_people: Callable[[], None]) -> None:
        """Print one message; `for_people` prints it as text."""
        if self._output is Output.TABLE:
            for_people()
        elif self._output is Output.NAME:
            self._screen.result(one_line(name))
        else:
            self.message(message)

    def many(
        self,
        messages: Iterable[Message],
        columns: Sequence[str],
        row: Callable[[Message], Cells],
        name: Callable[[Message], str],
    ) -> None:
        """Print a list: JSON and YAML have an array."""
        if self._output is Output.NAME:
            for message in messages:
                self._screen.result(one_line(name(message)))
        elif self._output is Output.TABLE:
            rows = [row(message) for message in messages]
            if rows:
                self._screen.show(listing(columns, rows, self._screen.out))
            else:
                self._screen.note("none")
        else:
            self.data([_as_dict(message) for message in messages])

    def data(self, data: object) -> None:
        """Print data as YAML, else as JSON."""
        if self._output is Output.YAML:
            self._screen.result(yaml.safe_dump(data, sort_keys=False, width=1000))
        else:
            self._screen.result(json.dumps(data, indent=2))


SERVICE_COLUMNS = ("NAMESPACE", "NAME", "STATE", "READY", "AGE", "REASON", "URL")


def service_row(message: Message) -> Cells:
    """Return a service's row of a list."""
    assert isinstance(message, InferenceService)
    status = message.status
    reason = reason_of(status.failure) if status.HasField("failure") else ""
    return (
        message.namespace,
        message.name,
        state_text(message),
        replicas_of(message),
        age(message.create_time),
        reason,
        status.url or status.cluster_url,
    )


def service_name(message: Message) -> str:
    """Return NAMESPACE/NAME, which other commands take as a name."""
    assert isinstance(message, InferenceService)
    return f"{message.namespace}/{message.name}"


def show_service(screen: Screen, service: InferenceService) -> None:
    """Print a service and its status for people."""
    status = service.status
    rows: list[tuple[str, str | Text]] = [
        ("service", service_name(service)),
        ("state", state_text(service)),
        ("message", status.message),
        ("serving", "yes" if status.serving else "no"),
        ("replicas", f"{replicas} ready" if (replicas := replicas_of(service)) else ""),
        ("url", status.url),
        ("cluster url", status.cluster_url),
        ("model", _model_of(service)),
        ("runtime", status.serving_runtime),
        ("mode", status.deployment_mode),
        ("age", age(service.create_time)),
        ("rollout", service.rollout_id),
        ("deployment", service.deployment_id),
        ("deployed by", status.deployed_by),
        ("created by", "another client" if service.unmanaged else ""),
    ]
    screen.show(facts(rows))
    if status.HasField("failure"):
        screen.show(Text("failure", "bold red"))
        rows = [("reason", Text(reason_of(status.failure), "bold")), *failure_rows(status.failure)]
        screen.show(facts([("  " + name, value) for name, value in rows]))
        screen.log(status.failure.log_lines, screen.out)


def age(time: Timestamp) -> str:
    """Return how long ago a time was, in its largest unit; empty for none."""
    if not time.seconds:
        return ""
    seconds = max(datetime.now(UTC).timestamp() - time.seconds, 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _model_of(service: InferenceService) -> str:
    spec = service.spec
    predictor = spec.WhichOneof("predictor")
    if predictor == "container":
        return spec.container.image
    if predictor == "registered_model":
        model = spec.registered_model
        return f"{model.project}/{model.model} {model.version} in {model.environment}"
    if predictor == "model":
        return f"{spec.model.format.name} {spec.model.storage_uri}"
    return ""


def _as_dict(message: Message) -> dict[str, object]:
    found: dict[str, object] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found
