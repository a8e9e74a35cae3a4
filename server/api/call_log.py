"""One line in the log for each call: the target of its request, and nothing of the spec."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server import log_stream
from server.api.errors import cut

_LOGGED_BYTES = 128
_RESOURCES = ("model", "version", "environment")
_NAMES = ("project", "model", "name", "version", "environment")


@cache
def logger() -> structlog.typing.FilteringBoundLogger:
    """Return the logger as it was configured; the lazy one would be bound anew for each line."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__).bind()
    return bound


class CallLog:
    """The line of one call. `quiet`: at debug level. `late`: it may be written a little late."""

    __slots__ = ("_began", "_code", "_late", "_ms", "fields", "quiet", "trace")

    def __init__(self, method: str, trace: str, *, quiet: bool, late: bool = False) -> None:
        self._late = late
        self._began = time.perf_counter()
        self.trace = trace
        self.quiet = quiet
        self.fields: dict[str, Any] = {"method": method}

    def describe(self, request: Any, default_namespace: str) -> None:
        """Add the names in a request."""
        read = _reader_of(getattr(request, "DESCRIPTOR", None))
        for field, text in read(request, default_namespace).items():
            self.fields[field] = cut(text, _LOGGED_BYTES)

    def write(self, code: grpc.StatusCode) -> None:
        """Log the call's end."""
        self._code = code
        self._ms = (time.perf_counter() - self._began) * 1000
        if code is grpc.StatusCode.INTERNAL:
            logger().error("call", **self._line())
        elif self.quiet:
            logger().debug("call", **self._line())
        elif self._late:
            log_stream.write_late(logger(), "call", self._line)
        else:
            logger().info("call", **self._line())

    def _line(self) -> dict[str, Any]:
        ms = round(self._ms, 2)
        return {**self.fields, "code": self._code.name, "ms": ms}


_Reader = Callable[[Any, str], dict[str, str]]


@cache
def _reader_of(descriptor: Descriptor | None) -> _Reader:
    """Return the function that reads the logged fields of a kind of request.

    It takes a request and the default namespace. `target` is a service as namespace/name, or in the
    registry the path from the project down; `registered_model` is the model that a Deploy takes
    from the registry. Asking a message for a field that it lacks is slow.
    """
    fields = descriptor.fields_by_name if descriptor else {}
    read = _reader_of_targets(fields)
    return partial(_with_request_id, read) if "request_id" in fields else read


def _reader_of_targets(fields: Mapping[str, FieldDescriptor]) -> _Reader:
    if "project" in fields:
        return _registry_target
    if resource := next((n for n in _RESOURCES if n in fields and fields[n].message_type), None):
        return partial(_resource_target, resource)
    if "namespace" not in fields:
        return lambda request, default_namespace: {}
    if "spec" in fields:
        return _deploy_targets
    return _service_target if "name" in fields else _namespace_target


def _registry_target(request: Any, default_namespace: str) -> dict[str, str]:
    return {"target": _path(request, (*_NAMES, "id"))}


def _resource_target(resource: str, request: Any, default_namespace: str) -> dict[str, str]:
    """Read the resource that a request creates or updates."""
    return {"target": _path(getattr(request, resource), _NAMES)}


def _service_target(request: Any, default_namespace: str) -> dict[str, str]:
    return {"target": f"{request.namespace or default_namespace}/{request.name}"}


def _namespace_target(request: Any, default_namespace: str) -> dict[str, str]:
    return {"target": f"{request.namespace or default_namespace}/"}


def _deploy_targets(request: Any, default_namespace: str) -> dict[str, str]:
    if request.spec.WhichOneof("predictor") != "registered_model":
        return _service_target(request, default_namespace)
    source = {"registered_model": _path(request.spec.registered_model, _NAMES)}
    # The registry fills in an empty name and namespace, not this server.
    return source | ({"target": f"{request.namespace}/{request.name}"} if request.name else {})


def _with_request_id(read: _Reader, request: Any, default_namespace: str) -> dict[str, str]:
    names = read(request, default_namespace)
    return names | {"request_id": request.request_id} if request.request_id else names


def _path(message: Any, names: tuple[str, ...]) -> str:
    fields = message.DESCRIPTOR.fields_by_name
    return "/".join(text for name in names if name in fields and (text := getattr(message, name)))
