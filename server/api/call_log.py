"""One line in the log for each call: the target of its request, and nothing of the spec."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import Descriptor

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

    def __init__(
        self,
        method: str,
        trace: str,
        *,
        quiet: bool,
        late: bool = False,
    ) -> None:
        self._began = time.perf_counter()
        self.quiet = quiet
        self.late = late
        self.trace = trace
        self.fields: dict[str, Any] = {"method": method[1:]}

    def describe(self, request: Any, default_namespace: str) -> None:
        """Add the names in a request."""
        for field, target in targets_of(request, default_namespace).items():
            self.fields[field] = cut(target, _LOGGED_BYTES)
        fields = _fields_of(getattr(request, "DESCRIPTOR", None))
        if "request_id" in fields and request.request_id:
            self.fields["request_id"] = cut(request.request_id, _LOGGED_BYTES)

    def write(self, code: grpc.StatusCode) -> None:
        """Log the call's end."""
        ms = round((time.perf_counter() - self._began) * 1000, 2)
        level = logging.DEBUG if self.quiet else logging.INFO
        if code is grpc.StatusCode.INTERNAL:
            level = logging.ERROR
        fields = {**self.fields, "code": code.name, "ms": ms}
        if self.late and level == logging.INFO:
            log_stream.write_late("call", fields)
        else:
            logger().log(level, "call", **fields)


def targets_of(request: Any, default_namespace: str) -> Mapping[str, str]:
    """Return the names in a request, by the log's field.

    `target` is a service as namespace/name, or in the registry the path from the project down;
    `registered_model` is the model that a Deploy takes from the registry.
    """
    descriptor = getattr(request, "DESCRIPTOR", None)
    fields = _fields_of(descriptor)
    if "project" in fields:
        return {"target": _path(request, (*_NAMES, "id"))}
    if resource := _resource_of(descriptor):
        return {"target": _path(getattr(request, resource), _NAMES)}
    if "namespace" not in fields:
        return {}
    name = request.name if "name" in fields else ""
    if "spec" in fields and request.spec.WhichOneof("predictor") == "registered_model":
        source = {"registered_model": _path(request.spec.registered_model, _NAMES)}
        # The registry fills in an empty name and namespace, not this server.
        return source | ({"target": f"{request.namespace}/{name}"} if name else {})
    return {"target": f"{request.namespace or default_namespace}/{name}"}


@cache
def _fields_of(descriptor: Descriptor | None) -> frozenset[str]:
    """Return a message's fields; asking the message for one that it lacks is slow."""
    return frozenset(descriptor.fields_by_name) if descriptor else frozenset()


@cache
def _resource_of(descriptor: Descriptor | None) -> str | None:
    """Return the field with the resource that a request creates or updates."""
    fields = descriptor.fields_by_name if descriptor else {}
    return next((n for n in _RESOURCES if n in fields and fields[n].message_type), None)


def _path(message: Any, names: tuple[str, ...]) -> str:
    fields = _fields_of(message.DESCRIPTOR)
    return "/".join(text for name in names if name in fields and (text := getattr(message, name)))
